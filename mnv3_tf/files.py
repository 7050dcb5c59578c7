"""Files: written whole or not at all, read with errors that name them."""

import contextlib
import dataclasses
import enum
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from mnv3_tf.errors import InputError, KitError


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder that replaces `path` when the block ends without an error.

    The temporary name keeps the suffix of `path`, for writers that choose a format by it. On an error nothing is left.

    Raises:
        KitError: the folder cannot be made or written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise KitError(f"{path}: cannot be written ({error.strerror or error}). "
                       "Choose a folder that you may write to, with --out.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise KitError(f"{path}: cannot be written ({error.strerror or error}). Give another name.") from error
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The kit's folder for what can be made again: below `$XDG_CACHE_HOME`, or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "mnv3-tf"


def write_bytes(path: str | Path, content: bytes) -> None:
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
            enumerations, NumPy's numbers and arrays, and what JSON has.
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
    return value.tolist() if hasattr(value, "tolist") else value


def plain_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON types, for a `to_dict` that adds something to them."""
    return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def json_text(value: Any) -> str:
    """Indented JSON of anything that :func:`plain` takes."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON of anything that :func:`plain` takes atomically, indented, ending in a line end."""
    write_text(path, json_text(value) + "\n")


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
