"""Files: written whole or not at all, with errors that name them. (Overwriting and permissions: see also test_metrics.)"""

import enum
import errno
import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import files_of_at_most

from mnv3_tf import files
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import (
    atomic_path,
    cache_folder,
    cache_path,
    check_writable,
    json_text,
    not_written,
    plain,
    plain_fields,
    read_bytes,
    read_json,
    save_arrays,
    sha256,
    write_bytes,
    write_json,
    write_text,
)


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
    with pytest.raises(KitError), atomic_path(tmp_path / "f") as temporary:
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


def in_the_way(folder: Path) -> Path:
    (folder / "a.json").mkdir()
    return folder / "a.json"


def below_a_file(folder: Path) -> Path:
    (folder / "f").write_text("")
    return folder / "f" / "a.json"


@pytest.mark.parametrize(("place", "says"), [
    (in_the_way, r"a\.json: cannot be written \(Is a directory\)\. A folder of that name is in the way: give another name\.$"),
    (below_a_file, r"a\.json: cannot be written \((File exists|Not a directory)\)\. A file is where a folder is needed: "),
    (lambda folder: folder / ("n" * 300), r"n: cannot be written \(File name too long\)\. Give a shorter name\.$"),
])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: Callable[[Path], Path], says: str) -> None:
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for attempt in (check_writable, lambda path: write_text(path, "x")):
        with pytest.raises(KitError, match=says):
            attempt(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    arrays = {"a": np.zeros(100_000, np.float32)}
    for name, write in (("a.txt", lambda path: write_text(path, "x" * 100_000)),
                        ("a.npz", lambda path: save_arrays(path, arrays))):
        write_bytes(tmp_path / name, b"old")
        with files_of_at_most(10_000), pytest.raises(KitError, match=rf"{name}: cannot be written \(File too large\)\. Choose"):
            write(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "a.txt"]


def test_no_space_and_no_quota_ask_for_space() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert str(not_written("d/f", OSError(number, os.strerror(number)))) == (
            f"d/f: cannot be written ({os.strerror(number)}). Free some space, or choose another place.")


def test_trying_a_place_leaves_no_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "run" / "deep" / "config.yaml")
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "run" / "f", "old")
    check_writable(tmp_path / "run" / "f")
    assert (tmp_path / "run" / "f").read_text() == "old" and [path.name for path in tmp_path.rglob("*")] == ["run", "f"]


def test_names_as_long_as_a_file_system_takes_are_written(tmp_path: Path) -> None:
    for name in ("n" * 250 + ".json", "n." + "s" * 250, "\u00e9" * 120):
        write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"


def test_json_has_no_nan(tmp_path: Path) -> None:
    value = {"a": math.nan, "b": [math.inf, np.float32("nan"), 1.5], "c": np.array([[1.0, -math.inf]]), "d": (np.float64(2),)}
    write_json(tmp_path / "f.json", value)
    assert read_json(tmp_path / "f.json") == {"a": None, "b": [None, None, 1.5], "c": [[1.0, None]], "d": [2.0]}
    assert json_text({"a": math.nan}, None) == '{"a": null}'


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of a process that has not looked for its cache yet."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path / "tmp"))
    files._temporary_cache.cache_clear()
    yield tmp_path / "tmp"
    files._temporary_cache.cache_clear()


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)


def test_without_a_home_the_cache_is_in_the_temporary_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homeless(monkeypatch)
    folder = cache_folder()
    assert folder == cache_path() == temporary / f"mnv3-tf-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700


def test_a_place_of_another_user_is_not_taken(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homeless(monkeypatch)
    (temporary / f"mnv3-tf-{os.getuid()}").symlink_to(temporary)
    folder = cache_folder()
    assert folder.parent == temporary and folder == cache_folder() and not folder.is_symlink()


def test_nowhere_to_keep_anything_is_no_error(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homeless(monkeypatch)
    temporary.rmdir()
    assert not os.path.exists(cache_path("scan", "x"))
    with pytest.raises(KitError, match="cannot be written"):
        write_text(cache_path("scan", "x"), "")


def test_a_cache_that_is_read_only_is_still_read(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    write_text(tmp_path / "mnv3-tf" / "weights" / "w", "")
    assert cache_path("weights", "new") == tmp_path / "mnv3-tf" / "weights" / "new"
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    assert cache_path("weights", "w") == tmp_path / "mnv3-tf" / "weights" / "w"
    assert cache_path("weights", "new") == temporary / f"mnv3-tf-{os.getuid()}" / "weights" / "new"
