"""Zip archives in memory, and how much a file may unpack to."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

from mnv3_tf.errors import InputError

# What the standard library raises for damaged zips.
_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, KeyError, OverflowError,
           NotImplementedError, RuntimeError)


def most_bytes(size_bytes: int) -> int:
    """What a file of that size may hold, as some formats compress and some describe the same values twice."""
    return 8 * size_bytes + (1 << 26)


def open_zip(path: Path, content: bytes) -> zipfile.ZipFile:
    """A zip in memory.

    Raises:
        InputError: it is damaged.
    """
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except _ERRORS as error:
        raise InputError(f"{path}: damaged or cut short: {error}. Download or save it again.") from None


def read_entry(path: Path, archive: zipfile.ZipFile, name: str, size_bytes: int) -> bytes:
    """An entry's content; `size_bytes` is the file's size.

    Raises:
        InputError: it is not there, is damaged, or declares more than the file's size allows.
    """
    try:
        declared = archive.getinfo(name).file_size
        if declared <= most_bytes(size_bytes):
            return archive.read(name)
    except _ERRORS as error:
        raise InputError(f"{path}: damaged: the zip's entry {name!r} cannot be read ({error}). Download or save it again."
                         ) from None
    raise InputError(f"{path}: its entry {name} declares {declared} bytes in a file of {size_bytes}: damaged, or made to fill "
                     "the memory.")
