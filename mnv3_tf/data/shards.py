"""Shards: TFRecord and tar (WebDataset) files that hold many pictures with their labels, in one folder.

They are read where they lie. An index of where each picture is and which label it has is made once and kept in the cache folder.
"""

import contextlib
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from natsort import natsorted

from mnv3_tf.child import in_child
from mnv3_tf.data.batches import ordered_parallel
from mnv3_tf.data.label_rows import label_file, several_labels
from mnv3_tf.data.labels import read_labels
from mnv3_tf.data.sample_list import NO_LABEL, PLACE, Samples, Table
from mnv3_tf.data.samples import LabelError, PictureDataset
from mnv3_tf.data.scan_cache import cache_of
from mnv3_tf.data.split_names import SPLITS, split_of
from mnv3_tf.data.tfrecord import HEADER_BYTES, Examples, is_tfrecord, records
from mnv3_tf.data.walk import class_folders, entries, pictures_below
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.files import atomic_path
from mnv3_tf.machine import usable_cores
from mnv3_tf.progress import Progress
from mnv3_tf.text import counted, few

_FILE = re.compile(r"(?i)(?P<stem>.+?)(?P<inner>\.tfrecords?)?(?:[-_.](?P<number>\d+)(?P<count>-of-\d+)?)?"
                   r"(?P<suffix>\.tar|\.tfrecords?)?(?P<packed>\.(?:gz|bz2|xz|zst|zlib)|\.tgz)?")
_PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
_LABEL_KEYS = ("label", "cls", "class", "class_id", "class_name", "category")
_BACKGROUNDS = {"background", "dummy", "unused background"}
_VERSION = 1
# Shards that one process indexes at a time, where there are more.
_BLOCK = 20
PACKED = "pack.json"  # what `mnv3 pack` leaves beside its shards


def find_shards(root: Path) -> dict[str, list[Path]]:
    """The shards of a folder, by split, in the order of their numbers.

    They are named for a split: `train-000000.tar`, `val-00000-of-00128`, `imagenet-train.tfrecord-00000-of-01024`. Beside folders
    with pictures they are what these were unpacked from, and none are found.

    Raises:
        InputError: they are compressed, of two kinds for one split, or of several data sets.
    """
    found: dict[tuple[str, ...], dict[str, dict[str, list[Path]]]] = {}
    matches = _candidates(root)
    if matches and any(map(pictures_below, class_folders(root))):
        return {}
    for path, match in matches:
        parsed = split_of(match["stem"])
        if not parsed:
            continue
        if match["packed"]:
            raise InputError(f"{path}: is compressed, so no picture in it can be read without all before it. Unpack it (gunzip "
                             "for .gz); the pictures are compressed already.")
        kind = "tar" if (match["suffix"] or "").lower() == ".tar" else "tfrecord"
        if match["suffix"] or match["inner"] or is_tfrecord(_head(path)):
            found.setdefault(parsed[1], {}).setdefault(parsed[0], {}).setdefault(kind, []).append(path)
    if len(found) > 1 and () in found:
        found = {(): found[()]}
    if len(found) > 1:
        raise InputError(f"{root}: holds shards of several data sets ({few(['-'.join(words) for words in sorted(found)])}). Give "
                         "each a folder of its own.")
    splits: dict[str, list[Path]] = {}
    for by_split in found.values():
        for split, kinds in sorted(by_split.items(), key=lambda item: SPLITS.index(item[0])):
            if len(kinds) > 1:
                raise InputError(f"{root}: holds tar and TFRecord shards of the {split} split. Keep one kind.")
            splits[split] = natsorted(next(iter(kinds.values())), key=lambda path: path.name)
    return splits


def _candidates(root: Path) -> list[tuple[Path, re.Match[str]]]:
    """Files that are named like shards, of whatever split."""
    return [(Path(entry.path), match) for entry in entries(root) if entry.is_file() and (match := _FILE.fullmatch(entry.name))
            and (match["inner"] or match["count"] or match["suffix"] or match["packed"] == ".tgz")]


def open_shards(root: Path, shards: dict[str, list[Path]], class_names: Sequence[str] | None, progress: Progress, *,
                labelled: bool = True) -> PictureDataset:
    """Lists the pictures in shards.

    Labels are class ids, or names. What ids mean is in `labels.txt`, or they are taken in the order of a model's classes.

    Args:
        root: the folder.
        shards: of :func:`find_shards`.
        class_names: a model's labels.
        progress: told of the index while it is made.
        labelled: False leaves labels out.

    Raises:
        InputError: a shard is damaged, or a label is out of range.
        LabelError: no picture has a label.
    """
    notes = _missing(root, shards)
    index = _read_index(root, [path for paths in shards.values() for path in paths], progress, notes)
    names, ids = _classes(root, index, class_names, notes) if labelled else ((), np.full(len(index.labels) + 1, NO_LABEL))
    shard_of, splits = index.table.places["shard"], {}  # type: ignore[index]
    numbers = {path: number for number, path in enumerate(index.table.shards)}
    for split, paths in shards.items():
        within = np.isin(shard_of, [numbers[path] for path in paths])
        rows = np.flatnonzero(within & (index.codes >= 0) if labelled else within).astype(np.int32)
        if lacking := int(np.count_nonzero(within)) - len(rows):
            notes.append(f"{split}: {counted(lacking, 'picture')} without a label left out")
        if len(rows) or not lacking:
            splits[split] = Samples(index.table, rows, ids[index.codes[rows]].astype(np.int32))
    return PictureDataset(root, names, splits, "shards", tuple(notes))


def _missing(root: Path, shards: dict[str, list[Path]]) -> list[str]:
    """Notes about shards that others say there are."""
    try:
        packed = json.loads((root / PACKED).read_bytes())["shards"]
    except (OSError, ValueError, KeyError, TypeError):
        packed = {}
    if any(len(shards.get(split, ())) != count for split, count in packed.items()):
        raise InputError(f"{root}: not all of its shards are here ({PACKED} says how many there are). Give the same `mnv3 pack` "
                         "again to finish it, or copy the rest.")
    notes = []
    for split, paths in shards.items():
        said = {int(found[1]) for path in paths if (found := re.search(r"-of-(\d+)", path.name))}
        if len(said) > 1:
            raise InputError(f"{root}: shards of {split} are of sets of {few(sorted(said))}. Keep those of one set.")
        if said and len(paths) < max(said):
            notes.append(f"{split}: {len(paths)} of {max(said)} shards are here")
    others = sorted({path for path, _ in _candidates(root)}.difference(*shards.values()))
    return [*notes, f"not read, for their names say no split: {few([path.name for path in others])}"] if others else notes


def _classes(root: Path, index: "_Index", class_names: Sequence[str] | None,
             notes: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """(class names, the class of each label of the index, with one more for no label)."""
    used = np.unique(index.codes[index.codes >= 0])
    texts = [index.labels[code] for code in used]
    if not texts:
        raise LabelError(root, "no picture in its shards has a label",
                         "Labels are needed: image/class/label in TFRecord files, .cls or .json beside each picture in tar.")
    named = label_file(root)
    names = read_labels(named, numbered=True) if named else None
    whole = [text for text in texts if re.fullmatch(r"[+-]?\d+", text)]
    if names is None and len(whole) == len(texts) and class_names and not set(texts) <= set(class_names):
        names = tuple(class_names)
        notes.append("no labels.txt: the ids are taken in the order of the model's classes")
    first = 0
    numbers: dict[str, int] = {}
    if whole and not set(texts) <= set(names or ()) and (names or len(whole) == len(texts)):  # they are ids
        low, high = min(map(int, whole)), max(map(int, whole))
        if names is None:
            first = 1 if low == 1 else 0
            names = tuple(map(str, range(first, high + 1)))
            kind = "tar" if index.table.shards[0].suffix.lower() == ".tar" else "TFRecord"
            notes.append(f"no labels.txt beside the {kind} shards: the classes are named by their ids")
        elif low >= 1 and high == len(names):
            first = 1
            notes.append(f"labels are 1 to {high}, as in TensorFlow's ImageNet: 1 is the first class, {names[0]!r}")
        elif low >= 1 and names[0].lower() in _BACKGROUNDS:
            first = 1
            notes.append(f"class 0, {names[0]!r}, has no pictures and is left out: labels count from 1, as in TensorFlow's "
                         "ImageNet")
            names = names[1:]
        elif low == 1 and len(names) > 1:
            notes.append(f"no label is 0: labels are taken to count from 0, so that 1 is {names[1]!r}")
        numbers = {text: int(text) - first for text in whole}
    names = names or tuple(natsorted(sorted(texts)))
    numbers = {name: number for number, name in enumerate(names)} | numbers
    ids = np.full(len(index.labels) + 1, NO_LABEL)
    for code, text in zip(used, texts, strict=True):
        ids[code] = numbers.get(text, -1)
        if not 0 <= ids[code] < len(names):
            place = int(np.flatnonzero(index.codes == code)[0])
            sample = Samples(index.table, np.array([place]), np.array([0]))[0]
            what = f"class id {text} is out of range, which is {first} to {len(names) - 1 + first}" if text in whole else \
                f"label {text!r} is not a class name"
            raise InputError(f"{sample.path}: {what}. Correct {named.name if named else 'the labels'}, or write the shards "
                             "again.")
    return names, ids


@dataclass(frozen=True)
class _Index:
    """What is in shards: pictures with the code of their label, -1 for none, and the labels' texts by code."""

    table: Table
    codes: np.ndarray
    labels: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """The index of one shard: its pictures' names, where each name ends, where each picture is, its label; `left` counts what has
    no picture."""

    names: np.ndarray
    ends: np.ndarray
    places: np.ndarray
    labels: list[str | None]
    left: int

    @classmethod
    def of(cls, rows: list[tuple[bytes, int, int, int]], labels: list[str | None], left: int = 0) -> "_Part":
        """Rows of a name, and of :data:`PLACE` without the shard."""
        places = np.array([(0, *place) for _, *place in rows], PLACE)
        names = np.frombuffer(b"".join(name for name, *_ in rows), np.uint8)
        return cls(names, np.cumsum([len(name) for name, *_ in rows], dtype=np.int64), places, labels, left)


def _read_index(root: Path, paths: list[Path], progress: Progress, notes: list[str]) -> _Index:
    """The index of shards: of those that have not changed from the cache, of others from the shards."""
    cache = cache_of(root, "index", ".npz")
    stamps = [_stamp(path) for path in paths]
    known = _read_cache(cache)
    if known and known["shards"] == stamps:
        facts, columns = known, known["columns"]
    else:
        facts, columns = _made_index(paths, stamps, known, progress)
        try:
            with atomic_path(cache) as temporary, open(temporary, "wb") as file:
                np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **columns)  # type: ignore[arg-type]
        except KitError as error:
            notes.append(f"the index of the shards could not be kept ({error})")
    for path, left in zip(paths, facts["left"], strict=True):
        notes += [f"{path.name}: {counted(left, 'entry', 'entries')} without a picture left out"] if left else []
    table = Table(root, columns["names"].tobytes(), columns["ends"], tuple(paths), columns["places"])
    return _Index(table, columns["codes"], tuple(facts["labels"]))


def _stamp(path: Path) -> list[Any]:
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    return [path.name, state.st_size, state.st_mtime_ns]


def _read_cache(path: Path) -> dict[str, Any] | None:
    """The facts and columns that were kept; None where there are none that can be used."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile), np.load(path) as stored:
        facts = json.loads(stored["facts"].tobytes())
        columns = {key: stored[key] for key in ("names", "ends", "places", "codes")}
        total = sum(facts["counts"])
        if (facts["version"] == _VERSION and columns["places"].dtype == PLACE and len(columns["ends"]) == total
                and len(columns["places"]) == len(columns["codes"]) == total and len(facts["shards"]) == len(facts["counts"])):
            return {**facts, "columns": columns}
    return None


def _made_index(paths: list[Path], stamps: list[list[Any]], known: dict[str, Any] | None,
                progress: Progress) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(facts, columns): of shards in a known index from there, the others read."""
    codes: dict[str, int] = {}
    columns: dict[str, list[np.ndarray]] = {"names": [], "ends": [], "places": [], "codes": []}
    counts, left, length = [], [], 0
    kept = {tuple(stamp): number for number, stamp in enumerate(known["shards"])} if known else {}
    starts = np.cumsum([0, *known["counts"]]) if known else np.zeros(1, int)
    fresh = _parts([path for path, stamp in zip(paths, stamps, strict=True) if tuple(stamp) not in kept])
    with progress.task("Indexing shards", len(paths)) as advance:
        for number, stamp in enumerate(stamps):
            if known and tuple(stamp) in kept:
                place, old = kept[tuple(stamp)], known["columns"]
                rows = slice(starts[place], starts[place + 1])
                begin = int(old["ends"][rows.start - 1]) if rows.start else 0
                ends = old["ends"][rows] - begin
                names = old["names"][begin:begin + int(ends[-1]) if len(ends) else begin]
                places, labels = old["places"][rows].copy(), [known["labels"][code] if code >= 0 else None
                                                              for code in old["codes"][rows]]
                left.append(known["left"][place])
            else:
                part = next(fresh)
                names, ends, places, labels = part.names, part.ends, part.places, part.labels
                left.append(part.left)
            places["shard"] = number
            columns["names"].append(names)
            columns["ends"].append(ends + length)
            columns["places"].append(places)
            columns["codes"].append(np.array([-1 if label is None else codes.setdefault(label, len(codes)) for label in labels],
                                             np.int32))
            counts.append(len(ends))
            length += len(names)
            advance(number + 1, "")
    facts = {"version": _VERSION, "shards": stamps, "counts": counts, "left": left, "labels": list(codes)}
    return facts, {key: np.concatenate(parts) for key, parts in columns.items()}


def _parts(paths: list[Path]) -> Iterator[_Part]:
    """The index of each shard; processes make those of many."""
    def block(start: int) -> list[_Part]:
        return in_child(index_shards, paths[start:start + _BLOCK])

    if len(paths) <= _BLOCK:
        yield from ordered_parallel(_index_shard, paths, usable_cores(), ahead=2 * usable_cores())
        return
    for parts in ordered_parallel(block, range(0, len(paths), _BLOCK), usable_cores(), ahead=2 * usable_cores()):
        yield from parts


def index_shards(paths: list[Path]) -> list[_Part]:
    """The index of each shard, for a process of its own."""
    return [_index_shard(path) for path in paths]


def _index_shard(path: Path) -> _Part:
    try:
        return _index_tar(path) if path.suffix.lower() == ".tar" else _index_tfrecord(path)
    except tarfile.TarError as error:
        raise InputError(f"{path}: is damaged or no tar archive ({error}). Copy it again.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _index_tfrecord(path: Path) -> _Part:
    rows: list[tuple[bytes, int, int, int]] = []
    found: list[str | None] = []
    with open(path, "rb", buffering=0) as file:
        examples = Examples(file)
        for number, (start, length) in enumerate(records(file, path)):
            try:
                picture, labels, names = examples.find(start, length)
            except ValueError as error:
                raise InputError(f"{path}: record {number}: no tf.train.Example ({error}).") from error
            if picture is None:
                raise InputError(f"{path}: record {number}: no picture in image/encoded. It has {few(names) or 'nothing'}.")
            if len(labels) > 1:
                raise several_labels(f"{path}: record {number}", ", ".join(labels[:5]))
            rows.append((b"record %d" % number, *picture, picture[0] - start + HEADER_BYTES))
            found.append(labels[0] if labels and labels[0] != "-1" else None)
    return _Part.of(rows, found)


def _index_tar(path: Path) -> _Part:
    """Members that share a name up to its first dot are one sample, as in WebDataset."""
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, dict[str, str]] = {"json": {}, "cls": {}}
    groups: set[str] = set()
    with tarfile.open(path, "r:") as shard:
        for member in shard:
            folder, _, base = member.name.rpartition("/")
            stem, _, ending = base.partition(".")
            if not member.isreg() or member.issparse() or not stem:
                continue
            key, ending = f"{folder}/{stem}", ending.lower()
            groups.add(key)
            if ending in _PICTURES:
                pictures.setdefault(key, (member.name, member.offset_data, member.size))
            elif ending in labels and (label := _tar_label(path, shard, member, ending)) is not None:
                labels[ending][key] = label
        assert shard.fileobj
        shard.fileobj.seek(shard.offset)
        if shard.fileobj.read(512) != bytes(512):  # the end is marked
            raise tarfile.ReadError("it ends too early")
    texts = labels["json"] | labels["cls"]
    rows = [(os.fsencode(name), offset, min(size, 2**32 - 1), -1) for name, offset, size in pictures.values()]
    return _Part.of(rows, [texts.get(key) for key in pictures], len(groups) - len(pictures))


def _tar_label(path: Path, shard: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> str | None:
    file = shard.extractfile(member)
    content = file.read() if file else b""
    try:
        value: Any = content.decode("utf-8-sig").strip()
        if ending == "json":
            facts = json.loads(value)
            value = next((facts[key] for key in _LABEL_KEYS if key in facts), None) if isinstance(facts, dict) else facts
    except ValueError as error:
        raise InputError(f"{path}: {member.name}: no label can be read ({error}).") from error
    if isinstance(value, list | dict | float):
        raise several_labels(f"{path}: {member.name}", str(value)[:60])
    return None if value is None or value == "" else str(value)


def _head(path: Path) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(HEADER_BYTES)
    return b""
