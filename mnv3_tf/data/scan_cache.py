"""What earlier scans learned, in a file of arrays: found again by file and stamp, or by content."""

import contextlib
import functools
import hashlib
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import __version__ as pillow_version

from mnv3_tf.errors import KitError
from mnv3_tf.files import atomic_path, cache_path

_HEADER = {"kind": "mnv3-tf scan", "version": 3, "pillow": pillow_version}
# Pictures of other scans of the same folder are kept up to this number.
_MOST = 5_000_000
# key: `Samples.keys`; size and time: of the file's content and last change, bytes and nanoseconds: while both stay, it is taken
# as unchanged; high, low: BLAKE2b of the content, 128 bits; verdict: a number of the list beside it.
ROW = np.dtype([("key", "<u8"), ("size", "<i8"), ("time", "<i8"), ("high", "<u8"), ("low", "<u8"), ("verdict", "<i4")])


@dataclass(frozen=True)
class Verdict:
    """What a look at a picture gives: why it is broken, or its format and what is unusual."""

    error: str | None
    format: str | None = None
    notes: tuple[str, ...] = ()


def cache_of(root: Path, kind: str, suffix: str) -> Path:
    """Where something about a dataset folder is cached."""
    digest = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
    return cache_path(kind, f"{digest}{suffix}")


@dataclass
class ScanCache:
    """Rows of earlier scans. Threads may look up at the same time; nothing is added before `save`.

    Attributes:
        path: the file.
        rows: :data:`ROW` (n,), sorted by key.
        verdicts: by number.
        notes: what a person should hear about the cache.
    """

    path: Path
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, ROW))
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> "ScanCache":
        """Reads the cache; a missing one is empty, and so is a damaged one or one of another version, with a note."""
        with contextlib.suppress(FileNotFoundError):
            try:
                with np.load(path) as stored:
                    facts = json.loads(stored["facts"].tobytes())
                    if facts["header"] != _HEADER:
                        return cls(path, notes=[f"{path}: written by another version, so all pictures were scanned again"])
                    rows = stored["rows"]
                verdicts = [Verdict(error, format_name, tuple(notes)) for error, format_name, notes in facts["verdicts"]]
                if rows.dtype != ROW or (len(rows) and not 0 <= rows["verdict"].min() <= rows["verdict"].max() < len(verdicts)):
                    raise ValueError(path)
                return cls(path, rows, verdicts)
            except (ValueError, TypeError, KeyError, EOFError, PermissionError, IsADirectoryError, zipfile.BadZipFile):
                return cls(path, notes=[f"{path}: the scan cache was damaged and was rebuilt"])
        return cls(path)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The row of each key, -1 for none: int64 (n,)."""
        if not len(self.rows):
            return np.full(len(keys), -1)
        places = np.minimum(np.searchsorted(self.rows["key"], keys), len(self.rows) - 1)
        return np.where(self.rows["key"][places] == keys, places, -1)

    def by_content(self, digest: tuple[int, int]) -> Verdict | None:
        """What is known of a picture with this content, whatever file had it."""
        order, highs = self._by_content
        place = np.searchsorted(highs, np.uint64(digest[0]))
        if place == len(order) or (int(highs[place]), int(self.rows["low"][order[place]])) != digest or not any(digest):
            return None
        return self.verdicts[self.rows["verdict"][order[place]]]

    @functools.cached_property
    def _by_content(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.rows["high"])
        return order, self.rows["high"][order]

    def save(self, rows: np.ndarray, verdicts: list[Verdict]) -> None:
        """Adds rows and writes the file where something is new.

        A cache that cannot be written is a note, not an error.

        Args:
            rows: :data:`ROW` (n,), with numbers of `verdicts`.
            verdicts: those of this cache, and perhaps more.
        """
        rows = np.sort(rows, order="key")
        places = self.find(rows["key"])
        if (places >= 0).all() and np.array_equal(self.rows[places], rows):
            return
        others = np.delete(self.rows, places[places >= 0])
        if len(others) > _MOST:
            others = others[:0]
        together = np.concatenate([others, rows])
        facts = {"header": _HEADER, "verdicts": [[verdict.error, verdict.format, verdict.notes] for verdict in verdicts]}
        try:
            with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
                np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), rows=np.sort(together, order="key"))
        except KitError as error:
            note = f"{self.path}: the scan cache could not be written ({error})"
            self.notes += [note] if note not in self.notes else []
