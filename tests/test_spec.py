"""Block tables and the arithmetic of channel counts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv3_tf.errors import InputError
from mnv3_tf.spec import SPECS, Block, head_widths, make_divisible, read_block_table, scale_blocks


@pytest.mark.parametrize(("value", "expected"), [(3, 8), (8, 8), (11.9, 16), (12, 16), (16 * 0.75, 16), (24 * 0.75, 24),
    (40 * 0.35, 16),
                                                 (88.0 / 24 * 24, 88), (18, 24), (19, 24), (100, 104), (72 * 0.25, 24)])
def test_make_divisible(value: float, expected: int) -> None:
    assert make_divisible(value) == expected


@given(st.floats(0.1, 1e5), st.sampled_from([1, 4, 8, 16]))
def test_make_divisible_never_loses_a_tenth(value: float, divisor: int) -> None:
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0 and rounded >= divisor and rounded >= 0.9 * value and rounded <= value + 2 * divisor


def test_scaled_blocks_at_three_quarters() -> None:
    blocks = scale_blocks(SPECS["small"], 0.75)
    first, second, fourth = blocks[0], blocks[1], blocks[3]
    assert (first.name, first.input, first.expansion, first.has_expand, first.squeeze, first.out) == (
        "block_01", 16, 16, False, 8, 16)
    assert (second.expansion, second.out) == (72, 24)  # 16 * 72/16; 24 * 0.75 = 18, and 16 is less than 90% of it
    assert (fourth.input, fourth.expansion, fourth.squeeze, fourth.out, fourth.residual) == (24, 96, 24, 32, False)
    assert [block.residual for block in blocks] == [False, False, True, False, True, True, False, True, False, True, True]


def test_head_widths() -> None:
    assert head_widths(SPECS["large"], 1.0) == (960, 1280)
    assert head_widths(SPECS["small"], 0.5) == (288, 1024)  # the convolution after pooling does not shrink
    assert head_widths(SPECS["large"], 1.25) == (1200, 1600)


def test_minimalistic_tables_are_plain() -> None:
    for name in ("large_minimalistic", "small_minimalistic"):
        assert all(b.kernel == 3 and not b.squeeze_excite and b.activation == "relu" for b in SPECS[name].blocks)


TABLE = """\
name: own
class_expand: 64
blocks:
  - [3, 16, 16, true, relu, 2]
  - {kernel: 5, expansion: 72, out: 24, squeeze_excite: false, activation: hard_swish, stride: 1}
"""


def test_a_table_from_yaml(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(TABLE)
    spec = read_block_table(tmp_path / "t.yaml")
    assert spec.blocks == (Block(3, 16, 16, True, "relu", 2), Block(5, 72, 24, False, "hard_swish", 1))
    assert (spec.name, spec.class_expand, spec.inplanes, spec.class_squeeze, spec.activation) == (
        "own", 64, 16, None, "hard_swish")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("[3, 16", "[4, 16", "line 4: kernel is 4"), ("true", "1", "line 4: squeeze_excite is 1"),
    (", 2]", ", 3]", "line 4: stride is 3"),
    ("relu", "gelu", "line 4: activation is 'gelu'"), ("[3, 16, 16, true, relu, 2]", "[3, 16]", "line 4: a block is"),
    ("kernel:", "kernal:", "line 5: a block has no 'kernal'; did you mean 'kernel'"),
    (", stride: 1", "", "line 5: the block lacks stride"),
    ("class_expand: 64", "class_expand: many", "line 2: class_expand is 'many'"),
    ("name:", "nome:", "line 1: unknown key 'nome'"),
    ("blocks:", "block:", "unknown key 'block'"),
])
def test_wrong_tables_name_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "t.yaml").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        read_block_table(tmp_path / "t.yaml")
    assert message in str(caught.value) and "t.yaml" in str(caught.value)


@pytest.mark.parametrize("content", [b"blocks: []\n", b"blocks: 3\n", b"", b"\xff\xfe\x00", b"name: x\n"])
def test_tables_without_rows(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.yaml"):
        read_block_table(tmp_path / "t.yaml")
