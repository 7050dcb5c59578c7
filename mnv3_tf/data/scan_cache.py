"""What earlier scans learned, in a file of JSON lines: found again by path and stamp, or by content."""

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import __version__ as pillow_version

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import cache_path, read_bytes, write_text

_HEADER = {"kind": "mnv3-tf scan", "version": 2, "pillow": pillow_version}
# Size in bytes and time of change in nanoseconds: while both stay, a file is taken as unchanged.
Stamp = tuple[int, int]


@dataclass(frozen=True)
class Outcome:
    """What one file holds: its content hash, and either an error or a format and notes.

    `stamp` is None and `content` empty for a file that could not be read; `fresh` says that it was not from the cache.
    """

    stamp: Stamp | None
    content: str
    error: str | None
    format: str | None = None
    notes: tuple[str, ...] = ()
    fresh: bool = True


def default_cache_path(root: Path) -> Path:
    """The cache file of a dataset folder."""
    digest = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=8).hexdigest()
    return cache_path("scan", f"{digest}.jsonl")


@dataclass
class ScanCache:
    """Outcomes of earlier scans. Threads may look up at the same time; nothing is added before `save`.

    Attributes:
        path: the file.
        known: outcome by absolute path.
        contents: outcome by content hash, whatever file had it.
        notes: what a person should hear about the cache.
    """

    path: Path
    known: dict[str, Outcome] = field(default_factory=dict)
    contents: dict[str, Outcome] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> "ScanCache":
        """Reads the cache; a missing one is empty, and so is a damaged one or one of another version, with a note."""
        cache = cls(path)
        try:
            if not path.exists():
                return cache
            lines = read_bytes(path).decode("utf-8").splitlines()
            if json.loads(lines[0]) != _HEADER:
                cache.notes.append(f"{path}: written by another version, so all pictures were scanned again")
                return cache
            cache.known = dict(map(_parse, lines[1:]))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, InputError, OSError):
            cache.notes.append(f"{path}: the scan cache was damaged and was rebuilt")
            return cls(path, notes=cache.notes)
        cache.contents = {outcome.content: outcome for outcome in cache.known.values()}
        return cache

    def save(self, outcomes: dict[Path, Outcome], *, whole: bool = True) -> None:
        """Adds outcomes and writes the file where something is new.

        A cache that cannot be written is a note, not an error.

        Args:
            outcomes: by path.
            whole: the scan is through; files that are gone are then forgotten.
        """
        new = {os.path.abspath(path): replace(outcome, fresh=False)
               for path, outcome in outcomes.items() if outcome.stamp is not None}
        if all(self.known.get(key) == outcome for key, outcome in new.items()):
            return
        kept = {key: outcome for key, outcome in self.known.items() if key not in new and (not whole or os.path.exists(key))}
        records = [[key, *(outcome.stamp or ()), outcome.content, outcome.error, outcome.format, outcome.notes]
                   for key, outcome in (kept | new).items()]
        try:
            write_text(self.path, "".join(f"{json.dumps(record)}\n" for record in [_HEADER, *records]))
        except (KitError, OSError) as error:
            note = f"{self.path}: the scan cache could not be written ({error})"
            self.notes += [note] if note not in self.notes else []


def _parse(line: str) -> tuple[str, Outcome]:
    key, size, mtime_ns, content, error, format_name, notes = json.loads(line)
    if not (isinstance(key, str) and isinstance(size, int) and isinstance(mtime_ns, int) and isinstance(content, str)
            and isinstance(error, str | None) and isinstance(format_name, str | None) and isinstance(notes, list)
            and all(isinstance(note, str) for note in notes) and (error is None) != (format_name is None)):
        raise ValueError(line)
    return key, Outcome((size, mtime_ns), content, error, format_name, tuple(notes), False)
