"""Files: written whole or not at all, read with errors that name them."""

import contextlib
import dataclasses
import enum
import errno
import functools
import hashlib
import io
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from mnv3_tf.errors import InputError, KitError

_FULL = "Free some space, or choose another place"
_NOT_ALLOWED = "Choose a folder that you may write to, with --out"
# What to do about what the system says of a file that cannot be written.
_REMEDIES = {
    errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EFBIG: "Choose a file system that takes files of this size",
    errno.EACCES: _NOT_ALLOWED, errno.EPERM: _NOT_ALLOWED, errno.EROFS: _NOT_ALLOWED, errno.ENOENT: _NOT_ALLOWED,
    errno.ENAMETOOLONG: "Give a shorter name", errno.EISDIR: "A folder of that name is in the way: give another name",
    errno.ENOTDIR: "A file is where a folder is needed: give another name",
    errno.EEXIST: "A file is where a folder is needed: give another name"}


def not_written(path: str | Path, error: OSError) -> KitError:
    """The error that says which file cannot be written, why, and what to do."""
    return KitError(f"{path}: cannot be written ({error.strerror or error}). {remedy(error)}")


def remedy(error: OSError) -> str:
    """The sentence that says what to do about a file that the system refuses."""
    return _REMEDIES.get(error.errno or 0, "Give another name") + "."


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder that replaces `path` when the block ends without an error.

    The temporary name keeps the suffix of `path`, for writers that choose a format by it. On an error nothing is left, and what
    was at `path` is still there.

    Raises:
        KitError: the folder cannot be made or written to, or an OSError ended the block: no space, or a folder in the way.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """A block whose OSErrors mean that `path` cannot be written.

    Raises:
        KitError: the message names the file, the reason and the remedy.
    """
    try:
        yield
    except OSError as error:
        raise not_written(path, error) from error


def _temporary(path: Path) -> Path:
    """A new, empty file beside `path`, whose name is no longer than that of `path` may be."""
    suffix = path.suffix if len(path.suffix) < 20 else ""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:20]}-", suffix=suffix)
    os.close(handle)
    return Path(name)


def check_writable(path: str | Path) -> None:
    """Tries whether a file can be written, before the work that it is for; afterwards all is as it was.

    Raises:
        KitError: it cannot; the message names it.
    """
    path = Path(path)
    missing = [folder for folder in path.parents if not os.path.exists(folder)]
    with writing(path):
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(path.lstat().st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            path.parent.mkdir(parents=True, exist_ok=True)
            _temporary(path).unlink()
        finally:
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def cache_folder() -> Path:
    """The kit's folder for what can be made again: below `$XDG_CACHE_HOME`, or `~/.cache`; in the temporary folder where there is
    no home, or nothing can be written to it."""
    folder = _home_cache()
    if folder and os.access(next(filter(os.path.exists, (folder, *folder.parents))), os.W_OK | os.X_OK):
        return folder
    return _temporary_cache()


def cache_path(*parts: str) -> Path:
    """Where something is kept in :func:`cache_folder`; where it lies in the user's own cache already, it stays there, even if
    nothing can be written to that any more."""
    folder = _home_cache()
    return folder.joinpath(*parts) if folder and os.path.exists(folder.joinpath(*parts)) else cache_folder().joinpath(*parts)


def _home_cache() -> Path | None:
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "mnv3-tf"
    except RuntimeError:  # no HOME, and no entry for this user
        return None


@functools.cache
def _temporary_cache() -> Path:
    """One for each user, or, where the place is not this user's own, for this process alone."""
    user = os.getuid() if hasattr(os, "getuid") else None
    try:
        own = Path(tempfile.gettempdir()) / f"mnv3-tf-{user}"
        with contextlib.suppress(FileExistsError):
            own.mkdir(mode=0o700)
        found = own.lstat()
        if stat.S_ISDIR(found.st_mode) and user in (None, found.st_uid):
            return own
        return Path(tempfile.mkdtemp(prefix="mnv3-tf-"))
    except OSError:  # nowhere: whoever would keep something there does without
        return Path(os.devnull) / "mnv3-tf"


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Writes bytes atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically. What a file name holds that is not UTF-8 becomes an escape such as ``\\udce9``, which JSON
    reads back as it was."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def plain(value: Any) -> Any:
    """A value as JSON types.

    Args:
        value: made of dataclasses (one with a method `to_dict` is what that gives), mappings, lists, tuples, paths,
            enumerations, NumPy's numbers and arrays, and what JSON has. NaN and the infinities, which JSON has not, are None.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(value.to_dict()) if hasattr(value, "to_dict") else plain_fields(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def plain_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON types, for a `to_dict` that adds something to them."""
    return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON of anything that :func:`plain` takes, indented, or in one line where `indent` is None."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON of anything that :func:`plain` takes atomically, indented, ending in a line end."""
    write_text(path, json_text(value) + "\n")


def save_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Writes NumPy arrays as one ``.npz`` atomically."""
    import numpy as np

    content = io.BytesIO()  # an archive that a full disk leaves unfinished would complain once more when it is forgotten
    np.savez(content, **arrays)
    write_bytes(path, content.getbuffer())


def read_bytes(path: str | Path) -> bytes:
    """Reads a file.

    Raises:
        InputError: there is no such file, or it cannot be read; the message names it.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
        InputError: the file cannot be read or is not JSON; the message names file and line.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not valid JSON (not UTF-8 text).") from error


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
