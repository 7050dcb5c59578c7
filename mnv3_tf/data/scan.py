"""The scan before training: every picture decoded once, every surprise named before the first step."""

import hashlib
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mnv3_tf.data.batches import ordered_parallel
from mnv3_tf.data.decode import PictureError, TooLargeError, decode, name_note, picture_bytes
from mnv3_tf.data.samples import PictureDataset, Sample
from mnv3_tf.data.scan_cache import Outcome, ScanCache, default_cache_path
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain_fields
from mnv3_tf.machine import usable_cores
from mnv3_tf.text import counted, listed

TINY_CLASS = 10
# Pictures, at least, after which a scan saves what it found.
_SAVED_EVERY = 500


@dataclass(frozen=True)
class Place:
    """A picture where the dataset uses it: its split, its class ("" for none), its file and the line that gives its label."""

    split: str
    class_name: str
    path: Path
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
class ScanReport:
    """What a scan found.

    Attributes:
        root: of the dataset.
        pictures: files that were looked at; a file in two splits counts once.
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
        contents: of each usable picture, the hash of its bytes.
    """

    root: Path
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
    contents: dict[Path, str] = field(default_factory=dict, repr=False)

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
        return {key: value for key, value in plain_fields(self).items() if key != "contents"}

    def clean(self, dataset: PictureDataset) -> PictureDataset:
        """The dataset without its broken pictures."""
        broken = {remark.place.path for remark in self.broken}
        if not broken:
            return dataset
        splits = {name: tuple(sample for sample in samples if sample.path not in broken)
                  for name, samples in dataset.splits.items()}
        note = f"{counted(len(broken), 'broken picture')} left out"
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
                 progress: Callable[[int, int], None] | None = None) -> ScanReport:
    """Decodes and hashes every picture of a dataset, in parallel, remembering results by content.

    Args:
        dataset: what to scan.
        cache_path: the cache file; None for one per dataset folder below `~/.cache/mnv3-tf/scan` (or
            `$XDG_CACHE_HOME`). A file whose size and time have not changed is not read again. It is saved as the scan goes, and
            when it is stopped.
        workers: threads; None for one per usable core.
        progress: called now and then as progress(done, total), from the calling thread.

    Returns:
        The report. Nothing is raised for a bad picture: see `ScanReport.raise_if`.
    """
    cache = ScanCache.open(default_cache_path(dataset.root) if cache_path is None else Path(cache_path))
    paths = list(dict.fromkeys(sample.path for samples in dataset.splits.values() for sample in samples))
    outcomes: dict[Path, Outcome] = {}
    step, saved = max(1, len(paths) // 100), max(_SAVED_EVERY, len(paths) // 20)
    found = ordered_parallel(lambda path: _examine(path, cache), paths, workers or usable_cores(), ahead=100)
    try:
        for done, (path, outcome) in enumerate(zip(paths, found, strict=True), 1):
            outcomes[path] = outcome
            if progress is not None and (done % step == 0 or done == len(paths)):
                progress(done, len(paths))
            if done % saved == 0:
                cache.save(outcomes, whole=False)
    finally:  # whoever stops a scan keeps what it did
        cache.save(outcomes, whole=len(outcomes) == len(paths))
    return _report(dataset, outcomes, tuple(cache.notes))


def fingerprint_samples(samples: Iterable[Sample], class_names: Sequence[str], contents: Mapping[Path, str]) -> str:
    """SHA-256, hexadecimal, of the class names and contents of pictures; neither their names nor their order matter.

    Args:
        samples: usable pictures.
        class_names: in the order of their labels; empty where they have none.
        contents: of the pictures, from a scan (`ScanReport.contents`).
    """
    pairs = sorted((unicodedata.normalize("NFC", class_names[sample.label] if class_names else ""), contents[sample.path])
                   for sample in samples)
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


def _examine(path: Path, cache: ScanCache) -> Outcome:
    """What one file holds, from the cache where its stamp or its bytes are known."""
    try:
        state = path.stat()
        stamp = state.st_size, state.st_mtime_ns
        known = cache.known.get(os.path.abspath(path))
        if known is not None and known.stamp == stamp:
            return known
        content = picture_bytes(path)
    except PictureError as error:
        return Outcome(None, "", error.reason)
    except OSError as error:
        return Outcome(None, "", f"cannot be read ({error.strerror or error}).")
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    known = cache.contents.get(digest)
    if known is not None:
        return replace(known, stamp=stamp)
    try:
        _, format_name, notes = decode(content, str(path))
    except TooLargeError as error:  # not remembered: with more memory it may be decoded
        return Outcome(None, "", error.reason)
    except PictureError as error:
        return Outcome(stamp, digest, error.reason)
    return Outcome(stamp, digest, None, format_name, notes)


def _report(dataset: PictureDataset, outcomes: dict[Path, Outcome], notes: tuple[str, ...]) -> ScanReport:
    broken: list[Remark] = []
    noted: list[Remark] = []
    same: dict[str, list[Place]] = defaultdict(list)
    for split, samples in dataset.splits.items():
        for sample in samples:
            place, outcome = Place(split, dataset.class_of(sample), sample.path, sample.line), outcomes[sample.path]
            if outcome.error is not None:
                broken.append(Remark(place, outcome.error))
                continue
            same[outcome.content].append(place)
            misnamed = name_note(place.path, outcome.format or "")
            texts = [*([misnamed] if misnamed else []), *outcome.notes]
            if texts:
                noted.append(Remark(place, "; ".join(texts)))
    contents = {path: outcome.content for path, outcome in outcomes.items() if outcome.error is None}
    usable = replace(dataset, splits={split: tuple(sample for sample in samples if sample.path in contents)
                                      for split, samples in dataset.splits.items()})
    counts = usable.counts()
    overlaps, conflicts, duplicates = _duplicate_groups(same)
    return ScanReport(
        root=dataset.root,
        pictures=len(outcomes),
        decoded=sum(outcome.fresh for outcome in outcomes.values()),
        broken=tuple(broken), noted=tuple(noted),
        empty_splits=tuple(split for split, classes in counts.items() if not sum(classes.values())),
        empty_classes=tuple((split, name) for split, classes in counts.items()
                            for name, count in classes.items() if not count),
        tiny_classes=tuple((name, count) for name, count in counts.get("train", {}).items() if name and 0 < count < TINY_CLASS),
        overlaps=overlaps, conflicts=conflicts, duplicates=duplicates, notes=notes,
        fingerprints={split: fingerprint_samples(samples, dataset.class_names, contents)
                      for split, samples in usable.splits.items()}, contents=contents)


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
