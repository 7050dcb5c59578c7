"""The pictures of a dataset in little memory: columns of numbers and one buffer of names, which give samples when asked."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

NO_LABEL = -1
# Where a picture lies in a shard; `lead` is the way back from it to its TFRecord's header, -1 for tar.
PLACE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<u4"), ("lead", "<i4")])
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Member:
    """A picture inside of a shard, a tar or TFRecord file; it is written "train-00003.tar: 00000012.jpg".

    Attributes:
        path: the shard.
        name: of the picture in it.
        offset, length: of its bytes.
        record: where the header of its TFRecord is; None in a tar file.
    """

    path: Path
    name: str
    offset: int
    length: int
    record: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"

    def to_dict(self) -> str:
        """What JSON calls it."""
        return str(self)


PicturePath = Path | Member


@dataclass(frozen=True)
class Sample:
    """One picture and its class.

    Attributes:
        path: the picture file, or its place in a shard.
        label: index into the dataset's class names; :data:`NO_LABEL` where it has none.
        line: where the label was given, such as "train_list.txt:12"; None where a folder or a shard gives it.
    """

    path: PicturePath
    label: int
    line: str | None = None


class Listing:
    """What pictures there are, row by row; :meth:`samples` makes sequences of rows.

    Args:
        base: the folder that most of them are in.
    """

    def __init__(self, base: Path = Path()):
        self.base, self._prefix = base, os.path.join(os.fspath(base), "")
        self._names, self._ends = bytearray(), array("q")
        self.shards: dict[Path, int] = {}
        self._places = bytearray()
        self._line_files: dict[str, int] = {}
        self._lines = array("q")
        self._frozen: Table | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, path: PicturePath, line: str | None = None) -> int:
        """Adds a picture; its row."""
        self._names += os.fsencode(path.name if isinstance(path, Member) else os.fspath(path).removeprefix(self._prefix))
        self._ends.append(len(self._names))
        shard, offset, length, lead = -1, 0, 0, -1
        if isinstance(path, Member):
            shard, offset, length = self.shards.setdefault(path.path, len(self.shards)), path.offset, path.length
            lead = -1 if path.record is None else offset - path.record
        if shard >= 0 or self._places:
            missing = len(self) - 1 - len(self._places) // PLACE.itemsize
            rows = [(-1, 0, 0, -1)] * missing + [(shard, offset, length, lead)]
            self._places += np.array(rows, PLACE).tobytes()
        file, _, number = (line or "").rpartition(":")
        self._lines.append(-1 if not line else self._line_files.setdefault(file, len(self._line_files)) << 32 | int(number))
        return len(self) - 1

    def samples(self, rows: Iterable[int], labels: Iterable[int]) -> "Samples":
        """Pictures in the order of `rows`, with their labels."""
        if self._frozen is None:
            self._frozen = Table(
                self.base, bytes(self._names), np.array(self._ends, np.int64), tuple(self.shards),
                np.frombuffer(bytes(self._places), PLACE) if self._places else None, tuple(self._line_files),
                np.array(self._lines, np.int64) if self._line_files else None)
            self._names, self._ends, self._places, self._lines = bytearray(), array("q"), bytearray(), array("q")
        return Samples(self._frozen, np.fromiter(rows, np.int32), np.fromiter(labels, np.int32))


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of what pictures there are; :class:`Listing` makes one, and so does the index of shards.

    Attributes:
        base: the folder of names that are relative.
        names: of all pictures, one after the other, in the file system's encoding: paths, or names in shards.
        ends: int64 (n,), where each name ends.
        shards: the shard files.
        places: :data:`PLACE` (n,); None where no picture is in a shard.
        line_files: files that give labels.
        lines: int64 (n,), the number of such a file and of its line in 32 bits each, -1 for none; None for none at all.
    """

    base: Path
    names: bytes
    ends: np.ndarray
    shards: tuple[Path, ...] = ()
    places: np.ndarray | None = None
    line_files: tuple[str, ...] = ()
    lines: np.ndarray | None = None

    def name(self, row: int) -> bytes:
        return self.names[self.ends[row - 1] if row else 0:self.ends[row]]


class Samples(Sequence[Sample]):
    """A fixed sequence of samples. They are made when asked for: here a picture takes about 10 bytes and its name, and in
    a shard 20 bytes more.

    Attributes:
        labels: int32 (n,); :data:`NO_LABEL` where a picture has none.
    """

    def __init__(self, table: Table, rows: np.ndarray, labels: np.ndarray):
        self.table, self.rows, self.labels = table, rows, labels

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Samples":
        """Any samples as such a sequence."""
        if isinstance(samples, Samples):
            return samples
        listing, labels = Listing(), array("i")
        for sample in samples:
            listing.add(sample.path, sample.line)
            labels.append(sample.label)
        return listing.samples(range(len(labels)), labels)

    @classmethod
    def joined(cls, parts: Iterable["Samples"]) -> "Samples":
        """Several sequences, one after the other."""
        parts = list(parts)
        if len({id(part.table) for part in parts}) == 1:
            return cls(parts[0].table, np.concatenate([part.rows for part in parts]),
                       np.concatenate([part.labels for part in parts]))
        names, ends, shards, line_files = bytearray(), array("q"), list[Path](), list[str]()
        places, lines = np.zeros(sum(map(len, parts)), PLACE), np.full(sum(map(len, parts)), -1, np.int64)
        places["shard"] = places["lead"] = -1
        for part in parts:
            table, first = part.table, len(ends)
            base = os.fsencode(table.base) if table.base != Path() else b""
            for name, shard, _ in part._parts():
                names += os.path.join(base, name) if shard < 0 else name
                ends.append(len(names))
            if table.places is not None:
                found = table.places[part.rows]
                found["shard"] += np.where(found["shard"] >= 0, len(shards), 0).astype("<i4")
                places[first:len(ends)] = found
            if table.lines is not None:
                codes = table.lines[part.rows]
                lines[first:len(ends)] = np.where(codes >= 0, codes + (len(line_files) << 32), -1)
            shards += table.shards
            line_files += table.line_files
        table = Table(Path(), bytes(names), np.array(ends, np.int64), tuple(shards), places if shards else None,
                      tuple(line_files), lines if line_files else None)
        return cls(table, np.arange(len(ends), dtype=np.int32),
                   np.concatenate([np.empty(0, np.int32), *(part.labels for part in parts)]))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> "Samples": ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Samples(self.table, self.rows[index], self.labels[index])
        row, table = self.rows[index], self.table
        line = None
        if table.lines is not None and (code := int(table.lines[row])) >= 0:
            line = f"{table.line_files[code >> 32]}:{code & 0xffffffff}"
        return Sample(self._path(row), int(self.labels[index]), line)

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Samples) and len(self) == len(other) and np.array_equal(self.labels, other.labels)
                and all(one == two for one, two in zip(self, other, strict=True)))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} samples>"

    def take(self, indices: Any) -> "Samples":
        """Some of them: indices in any order, or a truth value for each."""
        return Samples(self.table, self.rows[indices], self.labels[indices])

    def with_labels(self, labels: np.ndarray) -> "Samples":
        """The same pictures with other labels, whole numbers (n,)."""
        return Samples(self.table, self.rows, labels.astype(np.int32))

    def names(self) -> Iterator[str]:
        """Paths below the folder that was opened, as far as they are below it; in shards the shard's name and that in it."""
        for name, shard, _ in self._parts():
            yield os.fsdecode(name) if shard < 0 else f"{self.table.shards[shard].name}/{os.fsdecode(name)}"

    def keys(self) -> np.ndarray:
        """uint64 (n,): equal where it is the same picture of the same file."""
        base = os.path.join(os.fsencode(os.path.abspath(self.table.base)), b"")
        shards = [os.fsencode(os.path.abspath(shard)) + b"\0" for shard in self.table.shards]

        def digest(name: bytes, shard: int, offset: int) -> int:
            name = os.path.join(base, name) if shard < 0 else b"%b%b\0%d" % (shards[shard], name, offset)
            if shard < 0 and b".." in name:
                name = os.path.normpath(name)
            return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")

        return np.fromiter((digest(*part) for part in self._parts()), np.uint64, len(self))

    def _parts(self) -> Iterator[tuple[bytes, int, int]]:
        """(name, number of the shard or -1, offset) of each, taken out of the columns in blocks, which is quick."""
        table = self.table
        for start in range(0, len(self), _BLOCK):
            rows = self.rows[start:start + _BLOCK]
            ends, begins = table.ends[rows].tolist(), np.where(rows > 0, table.ends[rows - 1], 0).tolist()
            shards, offsets = ([-1] * len(rows), [0] * len(rows)) if table.places is None else (
                table.places["shard"][rows].tolist(), table.places["offset"][rows].tolist())
            for begin, end, shard, offset in zip(begins, ends, shards, offsets, strict=True):
                yield table.names[begin:end], shard, offset

    def _shard(self, row: int) -> Path | None:
        places = self.table.places
        return None if places is None or (shard := places["shard"][row]) < 0 else self.table.shards[shard]

    def _path(self, row: int) -> PicturePath:
        table, name = self.table, os.fsdecode(self.table.name(row))
        shard = self._shard(row)
        if shard is None or table.places is None:
            return table.base / name
        offset, length, lead = (int(table.places[field][row]) for field in ("offset", "length", "lead"))
        return Member(shard, name, offset, length, offset - lead if lead >= 0 else None)
