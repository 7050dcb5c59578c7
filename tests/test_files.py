"""Files: written whole or not at all, with errors that name them. (Overwriting and permissions: see also test_metrics.)"""

import enum
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import atomic_path, plain, plain_fields, read_bytes, read_json, sha256, write_bytes, write_json, write_text


@pytest.mark.parametrize(("write", "content"), [
    (lambda path: write_bytes(path, b"\x00\xff"), b"\x00\xff"), (lambda path: write_text(path, "caf\u00e9\n"), b"caf\xc3\xa9\n"),
    (lambda path: write_json(path, {"a": ["\u00e9", None]}), b'{\n  "a": [\n    "\xc3\xa9",\n    null\n  ]\n}\n'),
])
def test_what_is_written(tmp_path: Path, write: Callable[[Path], None], content: bytes) -> None:
    target = tmp_path / "made" / "on the way" / "f.bin"
    write(target)
    assert target.read_bytes() == content and [p.name for p in target.parent.iterdir()] == ["f.bin"]


def test_a_failed_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "f.bin") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_no_json_leave_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "f.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "f.json", {"a": object()})
    assert read_json(tmp_path / "f.json") == [1] and len(list(tmp_path.iterdir())) == 1


def test_the_old_content_is_there_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "m.weights.h5"
    target.write_bytes(b"old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".h5" and temporary != target
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and list(tmp_path.iterdir()) == [target]


def test_a_writer_that_removes_the_temporary_file_fails_cleanly(tmp_path: Path) -> None:
    with pytest.raises(OSError), atomic_path(tmp_path / "f") as temporary:
        temporary.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "f", b"")
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == mode


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(KitError, match=r"f\.txt: cannot be written \(Permission denied\).*--out"):
            write_text(tmp_path / "f.txt", "x")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_the_way_of_the_folder_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(KitError) as caught:
        write_text(tmp_path / "file" / "deeper" / "f.txt", "x")
    assert str(tmp_path / "file" / "deeper" / "f.txt") in str(caught.value) and caught.value.exit_code == 1


@pytest.mark.parametrize(("content", "message"), [
    (b"", "line 1: not valid JSON"), (b"{\n}\nx\n", "line 3: not valid JSON"),
    (b'[1,\n2,\n"\xc3\xa9" 3]', "line 3: not valid JSON"),
    (b'"caf\xe9"', "not UTF-8 text"),
])
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "f.json") == {"a": 1}


@settings(deadline=None, max_examples=40)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(
    st.characters(exclude_categories=["Cs"])), lambda inner: st.lists(inner) | st.dictionaries(st.text(
        st.characters(exclude_categories=["Cs"])), inner), max_leaves=8))
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "round.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("read", [read_bytes, read_json, sha256])
def test_what_cannot_be_read_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: cannot be read ({reason}") and caught.value.exit_code == 2


@pytest.mark.parametrize("size", [0, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_sha256_at_the_edges_of_its_blocks(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_sha256_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert sha256(str(tmp_path / "f")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    ends: tuple[float, float]
    where: Path


@dataclass(frozen=True)
class Outer:
    inner: Inner
    colour: Colour
    counts: dict[str, object]

    def to_dict(self) -> dict[str, object]:
        return {**plain_fields(self), "more": (self.inner, None)}


def test_values_as_json_has_them(tmp_path: Path) -> None:
    inner = {"ends": [0.5, 1.0], "where": "a/b"}
    outer = Outer(Inner((0.5, 1.0), Path("a/b")), Colour.RED, {"n": np.int64(3), "mean": np.float32(0.5), "of": np.arange(2)})
    expected = {"inner": inner, "colour": "red", "counts": {"n": 3, "mean": 0.5, "of": [0, 1]}, "more": [inner, None]}
    assert plain([outer, "x", True]) == [expected, "x", True] and list(plain(outer)) == list(expected)
    write_json(tmp_path / "f.json", outer)
    assert read_json(tmp_path / "f.json") == expected
