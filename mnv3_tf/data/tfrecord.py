"""TFRecord files and the tf.train.Example in them, read without TensorFlow.

A record is the length of its data (uint64, little-endian), the masked CRC-32C of those eight bytes, the data, and the masked
CRC-32C of the data. The data is a protocol buffer: Example { features = 1 }, Features { map<string, Feature> feature = 1 } and
Feature { bytes_list = 1, float_list = 2, int64_list = 3 }, each list { repeated value = 1 }.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mnv3_tf.data.sample_list import Member
from mnv3_tf.errors import InputError

HEADER_BYTES = 12
_PICTURES = (b"image/encoded", b"image")
_LABELS = (b"image/class/label", b"label")
_POLYNOMIAL = 0x82F63B78
_LANE = 256
_WINDOW = 512


def is_tfrecord(head: bytes) -> bool:
    """Whether a file that begins with these bytes (12 or more) is a TFRecord file that is not compressed."""
    return len(head) >= HEADER_BYTES and masked_crc(head[:8]) == struct.unpack("<I", head[8:HEADER_BYTES])[0]


def masked_crc(data: bytes) -> int:
    """The checksum that TFRecord files have."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of bytes.

    Long ones are cut into lanes of equal length, which are computed side by side and joined in pairs: the CRC of A before B is
    that of A moved on by as many zero bytes as B has, plus (without carry) that of B. Zero bytes in front change nothing, as long
    as the state is zero; the usual start with ones is the same as inverting the first four bytes.
    """
    table = _table()
    if len(data) < 4 * _LANE:
        crc, entries = 0xFFFFFFFF, _plain_table()
        for byte in data:
            crc = entries[(crc ^ byte) & 255] ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    lanes = 1 << (-(-len(data) // _LANE) - 1).bit_length()
    padded = np.zeros(lanes * _LANE, np.uint8)
    padded[-len(data):] = np.frombuffer(data, np.uint8)
    padded[-len(data):len(padded) - len(data) + 4] ^= 255
    crcs = np.zeros(lanes, np.uint32)
    for column in padded.reshape(lanes, _LANE).T.astype(np.uint32):
        crcs = table[(crcs ^ column) & 255] ^ crcs >> 8
    doublings = 0
    while len(crcs) > 1:
        crcs = _moved(crcs[::2], _shift(doublings)) ^ crcs[1::2]
        doublings += 1
    return int(crcs[0]) ^ 0xFFFFFFFF


@functools.cache
def _table() -> np.ndarray:
    values: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = values >> 1 ^ np.where(values & 1, np.uint32(_POLYNOMIAL), np.uint32(0))
    return values


@functools.cache
def _plain_table() -> list[int]:
    return _table().tolist()


@functools.cache
def _shift(doublings: int) -> np.ndarray:
    """What becomes of each bit of a CRC after ``256 << doublings`` zero bytes: uint32 (32,)."""
    bits: np.ndarray = np.uint32(1) << np.arange(32, dtype=np.uint32)
    if doublings:
        once = _shift(doublings - 1)
        return _moved(once, once)
    for _ in range(_LANE):
        bits = _table()[bits & 255] ^ bits >> 8
    return bits


def _moved(crcs: np.ndarray, shift: np.ndarray) -> np.ndarray:
    found = np.zeros_like(crcs)
    for bit, moved in enumerate(shift):
        found ^= (crcs >> np.uint32(bit) & 1) * moved
    return found


def records(file: BinaryIO, path: Path) -> Iterator[tuple[int, int]]:
    """Where the data of each record begins, and its length.

    Raises:
        InputError: a length is damaged, or the file ends too early.
    """
    size, start, number = file.seek(0, 2), 0, 0
    while start < size:
        file.seek(start)
        head = file.read(HEADER_BYTES)
        if not is_tfrecord(head):
            raise InputError(f"{path}: record {number}: the length is damaged"
                             f"{'' if number else ', or the file is compressed or no TFRecord file'}. Copy or write it again, "
                             "uncompressed.")
        length = struct.unpack("<Q", head[:8])[0]
        if start + HEADER_BYTES + length + 4 > size:
            raise InputError(f"{path}: ends within record {number}. Copy the file again.")
        yield start + HEADER_BYTES, length
        start, number = start + HEADER_BYTES + length + 4, number + 1


def checked_bytes(member: Member) -> bytes:
    """The bytes of a picture in a TFRecord file, after its record was checked.

    Raises:
        ValueError: the checksum is wrong.
        OSError: it cannot be read.
    """
    with open(member.path, "rb") as file:
        file.seek(member.record or 0)
        length, _ = struct.unpack("<QI", file.read(HEADER_BYTES))
        content = file.read(length + 4)
    if masked_crc(content[:length]) != struct.unpack("<I", content[length:])[0]:
        raise ValueError("the checksum of its record is wrong, so its bytes are not what was written. Copy the file again.")
    start = member.offset - (member.record or 0) - HEADER_BYTES
    return content[start:start + member.length]


class Examples:
    """Reads what an Example says of a picture, and passes over the picture itself.

    Args:
        file: a TFRecord file.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._start, self._window = file, 0, b""

    def find(self, start: int, length: int) -> tuple[tuple[int, int] | None, list[str], list[str]]:
        """(where the picture is and its length, its labels, the names of all features) of the Example at `start`.

        Raises:
            ValueError: it is no such protocol buffer.
        """
        picture: tuple[int, int] | None = None
        labels: list[str] = []
        names = []
        for features in self._parts(start, length, 1):
            for entry in self._parts(*features, 1):
                name, feature = b"", (0, 0)
                for number, at, size in self._fields(*entry):
                    if number == 1:
                        name = self._read(at, min(size, 100))
                    elif number == 2:
                        feature = at, size
                names.append(name.decode("utf-8", "replace"))
                if name in _PICTURES:
                    picture = next((value for values in self._parts(*feature, 1) for value in self._parts(*values, 1)), None)
                elif name in _LABELS:
                    labels += self._labels(*feature)
        return picture, labels, names

    def _labels(self, start: int, length: int) -> Iterator[str]:
        for kind, at, size in self._fields(start, length):
            for _, value, packed in self._fields(at, size):
                if kind == 1:
                    yield self._read(value, packed).decode("utf-8", "replace")
                elif kind == 3 and packed < 0:
                    yield str(_signed(value))
                elif kind == 3:
                    content, place = self._read(value, packed), 0
                    while place < packed:
                        number, place = _varint(content, place)
                        yield str(_signed(number))

    def _parts(self, start: int, length: int, wanted: int) -> Iterator[tuple[int, int]]:
        return ((at, size) for number, at, size in self._fields(start, length) if number == wanted and size >= 0)

    def _fields(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(number, where its bytes are, how many) of each field; of a number its value and -1."""
        end = start + length
        while start < end:
            head = self._read(start, 20)
            tag, used = _varint(head, 0)
            if tag & 7 == 2:
                size, used = _varint(head, used)
                if start + used + size > end:
                    raise ValueError("a field is longer than what it is in")
                yield tag >> 3, start + used, size
                used += size
            elif tag & 7 == 0:
                value, used = _varint(head, used)
                yield tag >> 3, value, -1
            elif tag & 7 in (1, 5):
                used += 8 if tag & 7 == 1 else 4
            else:
                raise ValueError("not a protocol buffer")
            start += used

    def _read(self, start: int, length: int) -> bytes:
        place = start - self._start
        if place < 0 or place + length > len(self._window):
            self._file.seek(start)
            self._start, self._window, place = start, self._file.read(max(length, _WINDOW)), 0
        return self._window[place:place + length]


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(content) and shift < 70:
        byte = content[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("not a protocol buffer")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
