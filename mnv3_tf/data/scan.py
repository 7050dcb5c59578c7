"""The scan before training: pictures decoded once, every surprise named before the first step."""

import functools
import hashlib
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mnv3_tf.child import in_child
from mnv3_tf.data.batches import MOST_THREADS, ordered_parallel
from mnv3_tf.data.decode import PictureError, TooLargeError, decode, format_of, name_note, picture_bytes
from mnv3_tf.data.sample_list import PicturePath, Sample, Samples
from mnv3_tf.data.samples import PictureDataset
from mnv3_tf.data.scan_cache import ROW, ScanCache, Verdict, cache_of
from mnv3_tf.data.tfrecord import checked_bytes
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain_fields
from mnv3_tf.machine import memory_bytes, usable_cores
from mnv3_tf.text import counted, listed

Level = Literal["full", "sample", "headers", "none"]
TINY_CLASS = 10
# Pictures of each split that are decoded, at most, where a sample is.
SAMPLE = 50_000
# Pictures, at least, after which a scan saves what it found.
_SAVED_EVERY = 500
# So many pictures or more are looked at in processes, each of which takes blocks of so many. On few cores threads are as quick:
# on two they decoded 425 JPEGs of 500x375 a second, processes 306 with their start (of 600).
_MANY, _BLOCK = 20_000, 1000
_PROCESS_BYTES = 1 << 30


@dataclass(frozen=True)
class Place:
    """A picture where the dataset uses it: its split, its class ("" for none), its file and the line that gives its label."""

    split: str
    class_name: str
    path: PicturePath
    line: str | None = None

    def __str__(self) -> str:
        return f"{self.path} ({', '.join(filter(None, (self.split, self.class_name, self.line)))})"


@dataclass(frozen=True)
class Remark:
    """Something about one picture: why it is broken, or what is unusual."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True)
class DuplicateGroup:
    """Places that hold the same bytes."""

    content: str
    places: tuple[Place, ...]

    def __str__(self) -> str:
        return " = ".join(map(str, self.places))


@dataclass(frozen=True)
class Contents:
    """The contents of pictures that were looked at.

    Attributes:
        rows: sorted by key; see :mod:`mnv3_tf.data.scan_cache`.
    """

    rows: np.ndarray = field(default_factory=lambda: np.empty(0, ROW))

    def of(self, samples: Sequence[Sample]) -> np.ndarray:
        """The BLAKE2b of each picture's bytes in two halves, uint64 (n, 2); zeros where it is not known."""
        places = ScanCache(Path(), self.rows).find(Samples.of(samples).keys())
        found = np.zeros((len(places), 2), np.uint64)
        known = places >= 0
        found[known, 0], found[known, 1] = self.rows["high"][places[known]], self.rows["low"][places[known]]
        return found

    def __or__(self, other: "Contents") -> "Contents":
        rows = np.concatenate([self.rows, other.rows])
        return Contents(rows[np.unique(rows["key"], return_index=True)[1]])


@dataclass(frozen=True)
class ScanReport:
    """What a scan found.

    Attributes:
        root: of the dataset.
        level: how pictures were looked at.
        pictures: that were looked at; a file in two splits counts once.
        decoded: of these, how many had to be decoded now; the cache knew the others.
        broken: pictures that cannot be decoded, with the reason.
        noted: pictures that decode and are unusual, with the note.
        empty_splits: splits without a usable picture.
        empty_classes: (split, class) without a usable picture.
        tiny_classes: (class, count) with fewer than `TINY_CLASS` usable training pictures, but some.
        overlaps: the same content in two or more splits.
        conflicts: the same content under two or more labels.
        duplicates: the same content twice or more in one split, under one label.
        notes: about the scan itself, such as a damaged cache that was rebuilt.
        fingerprints: split -> :func:`fingerprint_samples` of its usable pictures.
        contents: of the usable pictures that were decoded.
        usable: split -> whether each of its pictures is not known to be broken.
    """

    root: Path
    level: Level
    pictures: int
    decoded: int
    broken: tuple[Remark, ...]
    noted: tuple[Remark, ...]
    empty_splits: tuple[str, ...]
    empty_classes: tuple[tuple[str, str], ...]
    tiny_classes: tuple[tuple[str, int], ...]
    overlaps: tuple[DuplicateGroup, ...]
    conflicts: tuple[DuplicateGroup, ...]
    duplicates: tuple[DuplicateGroup, ...]
    notes: tuple[str, ...] = ()
    fingerprints: dict[str, str] = field(default_factory=dict)
    contents: Contents = field(default_factory=Contents, repr=False)
    usable: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def problems(self) -> list[str]:
        """What a person should look at, a line each; empty for a clean dataset."""
        lines = [f"split {split} has no usable picture" for split in self.empty_splits]
        lines += [f"broken, left out: {remark}" for remark in self.broken]
        lines += [f"class {name!r} has no usable picture in {split}" for split, name in self.empty_classes
                  if split not in self.empty_splits]
        lines += [f"class {name!r} has only {counted(count, 'training picture')}" for name, count in self.tiny_classes]
        lines += [f"same content in two splits: {group}" for group in self.overlaps]
        lines += [f"same content under two labels: {group}" for group in self.conflicts]
        lines += [f"same content twice: {group}" for group in self.duplicates]
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        facts = plain_fields(replace(self, contents=Contents(), usable={}))
        return {key: value for key, value in facts.items() if key not in ("contents", "usable")}

    def clean(self, dataset: PictureDataset) -> PictureDataset:
        """The dataset, which is the one that was scanned, without its broken pictures."""
        if not self.broken:
            return dataset
        splits = {name: samples.take(self.usable[name]) for name, samples in dataset.splits.items()}
        note = f"{counted(len({remark.place.path for remark in self.broken}), 'broken picture')} left out"
        return replace(dataset, splits=splits, notes=(*dataset.notes, note))

    def raise_if(self, strict: bool) -> None:
        """Fails where the dataset cannot be used.

        Args:
            strict: broken pictures, and pictures of train that are in another split too, fail as well.

        Raises:
            InputError: lists what was found.
        """
        lines = [f"split {split} has no usable picture" for split in self.empty_splits]
        shared = [group for group in self.overlaps if "train" in {place.split for place in group.places}]
        if strict:
            lines += [f"broken: {remark}" for remark in self.broken]
            lines += [f"same content in two splits: {group}" for group in shared]
        elif lines:
            lines += [f"broken: {remark}" for remark in self.broken if remark.place.split in self.empty_splits]
        if lines:
            remedy = "Add pictures, or replace these." if self.empty_splits else (
                "Replace or take out these pictures, or be less strict (leave --strict or data.strict out).")
            raise InputError(f"{self.root}: {counted(len(lines), 'problem')} in the dataset:\n  {listed(lines)}\n"
                             f"{remedy}")


def scan_dataset(dataset: PictureDataset, *, cache_path: str | Path | None = None, workers: int | None = None,
                 progress: Callable[[int, int], None] | None = None, level: Level = "full") -> ScanReport:
    """Looks at the pictures of a dataset, in parallel, remembering results by content.

    Args:
        dataset: what to scan.
        cache_path: the cache file; None for one per dataset folder below `~/.cache/mnv3-tf/scan` (or
            `$XDG_CACHE_HOME`). A file whose size and time have not changed is not read again. It is saved as the scan goes, and
            when it is stopped.
        workers: threads or processes; None for one per usable core.
        progress: called now and then as progress(done, total), from the calling thread.
        level: "full" decodes and hashes every picture; "sample" at most :data:`SAMPLE` of each split, spread over it; "headers"
            reads the beginning of every picture; "none" looks at none.

    Returns:
        The report. Nothing is raised for a bad picture: see `ScanReport.raise_if`.
    """
    headers = level == "headers"
    path = cache_of(dataset.root, "scan", "-headers.npz" if headers else ".npz") if cache_path is None else Path(cache_path)
    looks = _Looks(dataset, ScanCache.open(path), level)
    todo, total = looks.unknown(), len(looks.rows)
    step, saved = max(1, total // 100), max(_SAVED_EVERY, total // 20)
    done = total - len(todo)
    workers = workers or usable_cores()
    if len(todo) >= _MANY and workers > MOST_THREADS:
        found = _by_processes(looks, todo, min(workers, max(1, memory_bytes() // _PROCESS_BYTES)), headers)
    else:
        found = ordered_parallel(lambda place: look_at(looks.path(place), looks.cache, headers), todo, workers, ahead=100)
    try:
        if progress is not None and not len(todo):
            progress(done, total)
        for place, look in zip(todo, found, strict=True):
            looks.add(place, look)
            done += 1
            if progress is not None and (done % step == 0 or done == total):
                progress(done, total)
            if done % saved == 0:
                looks.save()
    finally:  # whoever stops a scan keeps what it did
        looks.save()
    return _report(dataset, looks, level)


@dataclass(frozen=True)
class Look:
    """What came of a look at one picture.

    Attributes:
        verdict: on it.
        digest: of its bytes, in two halves; zeros where it was not read.
        decoded: whether that was needed.
        lasting: whether the same bytes would give the same on every machine.
    """

    verdict: Verdict
    digest: tuple[int, int] = (0, 0)
    decoded: bool = True
    lasting: bool = True


def look_at(path: PicturePath, cache: ScanCache, headers: bool) -> Look:
    """Reads a picture, and decodes it where its bytes are not known; with `headers` only its beginning is read."""
    try:
        if headers:
            return Look(Verdict(None, format_of(path)))
        content = picture_bytes(path) if isinstance(path, Path) or path.record is None else checked_bytes(path)
    except PictureError as error:
        return Look(Verdict(error.reason), lasting=headers)
    except OSError as error:
        return Look(Verdict(f"cannot be read ({error.strerror or error})."), lasting=False)
    except ValueError as error:
        return Look(Verdict(str(error)), lasting=False)
    whole = hashlib.blake2b(content, digest_size=16).digest()
    digest = int.from_bytes(whole[:8], "big"), int.from_bytes(whole[8:], "big")
    known = cache.by_content(digest)
    if known is not None:
        return Look(known, digest, decoded=False)
    try:
        _, format_name, notes = decode(content, str(path))
    except TooLargeError as error:  # not remembered: with more memory it may be decoded
        return Look(Verdict(error.reason), lasting=False)
    except PictureError as error:
        return Look(Verdict(error.reason), digest)
    return Look(Verdict(None, format_name, notes), digest)


def look_at_block(samples: Samples, cache_path: Path, headers: bool) -> list[Look]:
    """:func:`look_at` for a process of its own."""
    cache = ScanCache.open(cache_path)
    return [look_at(sample.path, cache, headers) for sample in samples]


def _by_processes(looks: "_Looks", todo: np.ndarray, processes: int, headers: bool) -> Iterator[Look]:
    def block(start: int) -> list[Look]:
        samples = Samples.of(iter(looks.pictures.take(todo[start:start + _BLOCK])))  # with the names of these alone
        return in_child(look_at_block, samples, looks.cache.path, headers)

    for found in ordered_parallel(block, range(0, len(todo), _BLOCK), processes, ahead=2 * processes):
        yield from found


class _Looks:
    """What is known of the pictures to look at, in columns.

    Attributes:
        cache: of earlier scans.
        pictures: to look at, each once.
        place_of: of each picture of the whole dataset, its place among them; -1 where it is not to be looked at.
        rows: :data:`ROW` for each of `pictures`; the verdict is -1 where none is known yet, and a time of -1 is not remembered.
        verdicts: by number.
        decoded: how many were.
    """

    def __init__(self, dataset: PictureDataset, cache: ScanCache, level: Level):
        self.cache, self.decoded = cache, 0
        start, some = 0, [np.empty(0, np.int64)]
        for samples in dataset.splits.values():
            count = len(samples) if level in ("full", "headers") else min(SAMPLE, len(samples)) if level == "sample" else 0
            some.append(start + np.arange(count) * len(samples) // max(count, 1))
            start += len(samples)
        chosen = np.concatenate(some)
        looked_at = dataset.split("all").take(chosen)
        keys, first, inverse = np.unique(looked_at.keys(), return_index=True, return_inverse=True)
        order = np.argsort(first)  # as the dataset has them: shards are read from their beginning to their end
        self.pictures, self.place_of = looked_at.take(first[order]), np.full(start, -1, np.int32)
        self.place_of[chosen] = np.argsort(order)[inverse]
        self.rows = np.zeros(len(keys), ROW)
        self.rows["key"], self.rows["verdict"], self.rows["time"] = keys[order], -1, -1
        self.verdicts = list(cache.verdicts)
        self._codes = {verdict: code for code, verdict in enumerate(self.verdicts)}

    def path(self, place: int) -> PicturePath:
        return self.pictures[place].path

    def unknown(self) -> np.ndarray:
        """Stamps them and takes over what the cache has; the places of the others."""
        shards: dict[Path, int] = {}

        def stamp(place: int) -> tuple[int, int]:
            path = self.path(place)
            try:
                if isinstance(path, Path):
                    state = path.stat()
                    return state.st_size, state.st_mtime_ns
                if path.path not in shards:
                    shards[path.path] = path.path.stat().st_mtime_ns
                return path.length, shards[path.path]
            except OSError:
                return -1, -1

        def stamps(start: int) -> list[tuple[int, int]]:
            return [stamp(place) for place in range(start, min(start + _BLOCK, len(self.rows)))]

        start = 0
        for block in ordered_parallel(stamps, range(0, len(self.rows), _BLOCK), min(16, 2 * usable_cores()), ahead=64):
            self.rows["size"][start:start + _BLOCK], self.rows["time"][start:start + _BLOCK] = np.array(block, np.int64).T
            start += len(block)
        known = self.cache.find(self.rows["key"])
        old = self.cache.rows[known] if len(self.cache.rows) else self.rows
        same = (known >= 0) & (old["size"] == self.rows["size"]) & (old["time"] == self.rows["time"])
        self.rows[same] = old[same]
        return np.flatnonzero(~same)

    def add(self, place: int, look: Look) -> None:
        row = self.rows[place]
        row["high"], row["low"] = look.digest
        row["verdict"] = code = self._codes.setdefault(look.verdict, len(self._codes))
        if code == len(self.verdicts):
            self.verdicts.append(look.verdict)
        if not look.lasting:
            row["time"] = -1
        self.decoded += look.decoded

    def save(self) -> None:
        self.cache.save(self.rows[(self.rows["verdict"] >= 0) & (self.rows["time"] >= 0)], self.verdicts)


def fingerprint_samples(samples: Sequence[Sample], class_names: Sequence[str], contents: Contents) -> str:
    """SHA-256, hexadecimal, of the class names and contents of pictures; neither their names nor their order matter. Where a
    content is not known, "names-" and one of classes and names.

    Args:
        samples: usable pictures.
        class_names: in the order of their labels; empty where they have none.
        contents: of the pictures, from a scan (`ScanReport.contents`).
    """
    samples = Samples.of(samples)
    return _fingerprint(samples, class_names, contents.of(samples))


def _fingerprint(samples: Samples, class_names: Sequence[str], digests: np.ndarray) -> str:
    classes = [unicodedata.normalize("NFC", name) for name in class_names]
    if not digests.any(axis=1).all():
        total = 0
        for name, label in zip(samples.names(), samples.labels, strict=True):
            text = f"{classes[label] if classes else ''}\0{name}".encode("utf-8", "surrogateescape")
            total += int.from_bytes(hashlib.sha256(text).digest(), "big")
        return f"names-{total % 2**256:064x}"
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    standing = {name: place for place, name in enumerate(sorted(set(classes)))}
    if classes:
        of_class = np.array([standing[name] for name in classes])[samples.labels]
        order = order[np.argsort(of_class[order], kind="stable")]
    quoted = [json.dumps(name) for name in classes] or ['""']
    labels = samples.labels if classes else np.zeros(len(samples), int)
    digest = hashlib.sha256(b"[")
    for number, place in enumerate(order):
        high, low = digests[place]
        digest.update(f'{"," if number else ""}[{quoted[labels[place]]},"{high:016x}{low:016x}"]'.encode())
    digest.update(b"]")
    return digest.hexdigest()


def _report(dataset: PictureDataset, looks: _Looks, level: Level) -> ScanReport:
    broken: list[Remark] = []
    noted: list[Remark] = []
    usable: dict[str, np.ndarray] = {}
    rows = np.concatenate([looks.rows, np.zeros(1, ROW)])  # the last is that of pictures that were not looked at
    rows["verdict"][-1] = len(looks.verdicts)
    wrong = np.array([*(verdict.error is not None for verdict in looks.verdicts), False])
    notes_of = functools.cache(lambda code, suffix: _notes(looks.verdicts[code], f"a{suffix}"))
    digests: dict[str, np.ndarray] = {}
    start = 0
    for split, samples in dataset.splits.items():
        places, start = looks.place_of[start:start + len(samples)], start + len(samples)
        usable[split] = ~wrong[rows["verdict"][places]]
        here = places[usable[split]]
        digests[split] = np.stack([rows["high"][here], rows["low"][here]], axis=1)
        seen = np.flatnonzero(places >= 0)
        for index, name in zip(seen.tolist(), samples.take(seen).names(), strict=True):
            code = int(rows["verdict"][places[index]])
            if notes := notes_of(code, os.path.splitext(name)[1]):
                sample = samples[index]
                place = Place(split, dataset.class_of(sample), sample.path, sample.line)
                (broken if wrong[code] else noted).append(Remark(place, "; ".join(notes)))
    known = looks.rows[~wrong[looks.rows["verdict"]] & ((looks.rows["high"] | looks.rows["low"]) > 0)]
    good = replace(dataset, splits={split: samples.take(usable[split]) for split, samples in dataset.splits.items()})
    counts = good.counts()
    overlaps, conflicts, duplicates = _duplicate_groups(_same(good, digests))
    return ScanReport(
        root=dataset.root, level=level, pictures=len(looks.rows), decoded=looks.decoded,
        broken=tuple(broken), noted=tuple(noted),
        empty_splits=tuple(split for split, classes in counts.items() if not sum(classes.values())),
        empty_classes=tuple((split, name) for split, classes in counts.items()
                            for name, count in classes.items() if not count),
        tiny_classes=tuple((name, count) for name, count in counts.get("train", {}).items() if name and 0 < count < TINY_CLASS),
        overlaps=overlaps, conflicts=conflicts, duplicates=duplicates, notes=tuple(looks.cache.notes),
        fingerprints={split: _fingerprint(samples, dataset.class_names, digests[split])
                      for split, samples in good.splits.items()}, contents=Contents(np.sort(known, order="key")), usable=usable)


def _notes(verdict: Verdict, name: str) -> list[str]:
    if verdict.error is not None:
        return [verdict.error]
    misnamed = name_note(name, verdict.format or "")
    return [*([misnamed] if misnamed else []), *verdict.notes]


def _same(dataset: PictureDataset, by_split: Mapping[str, np.ndarray]) -> dict[str, list[Place]]:
    """The places of contents that are used more than once."""
    everything, digests = dataset.split("all"), np.concatenate([np.empty((0, 2), np.uint64), *by_split.values()])
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    alike = (digests[order][1:] == digests[order][:-1]).all(axis=1) & digests[order][1:].any(axis=1)
    places = np.sort(order[np.concatenate([alike, [False]]) | np.concatenate([[False], alike])]) if len(order) else order
    ends = np.cumsum([len(samples) for samples in dataset.splits.values()])
    splits = list(dataset.splits)
    same: dict[str, list[Place]] = defaultdict(list)
    for place in places:
        sample, split = everything[place], splits[int(np.searchsorted(ends, place, side="right"))]
        high, low = digests[place]
        same[f"{high:016x}{low:016x}"].append(Place(split, dataset.class_of(sample), sample.path, sample.line))
    return same


_Groups = tuple[DuplicateGroup, ...]


def _duplicate_groups(same: Mapping[str, list[Place]]) -> tuple[_Groups, _Groups, _Groups]:
    """(overlaps, conflicts, duplicates), of places by content."""
    overlaps, conflicts, duplicates = [], [], []
    for content, places in same.items():
        if len(places) == 1:
            continue
        if len({place.split for place in places}) > 1:
            overlaps.append(DuplicateGroup(content, tuple(places)))
        if len({place.class_name for place in places}) > 1:
            conflicts.append(DuplicateGroup(content, tuple(places)))
        groups: dict[tuple[str, str], list[Place]] = defaultdict(list)
        for place in places:
            groups[place.split, place.class_name].append(place)
        duplicates += [DuplicateGroup(content, tuple(group)) for group in groups.values() if len(group) > 1]
    return tuple(overlaps), tuple(conflicts), tuple(duplicates)
