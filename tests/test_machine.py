"""What the kit knows of the processor that it runs on."""

from pathlib import Path

import pytest

from mnv3_tf.machine import has_integer_dot_products, processor_in_words


@pytest.mark.parametrize(("cpuinfo", "expected"), [
    ("model name\t: X\nflags\t\t: fpu avx2 avx512_vnni\n", True),
    ("model name\t: X\nflags\t\t: fpu avx2 avx_vnni_int8 fma\n", False),
    ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", True),
    ("processor\t: 0\nFeatures\t: fp asimd\n", False),
    ("processor\t: 0\n", None),
])
def test_integer_dot_products(cpuinfo: str, expected: bool | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_integer_dot_products(tmp_path / "cpuinfo") is expected


def test_without_cpuinfo_nothing_is_claimed(tmp_path: Path) -> None:
    assert has_integer_dot_products(tmp_path / "none") is None
    assert processor_in_words()
