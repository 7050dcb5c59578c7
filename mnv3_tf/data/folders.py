"""Class folders: found, walked in natural order, and split so that adding a picture moves no other."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from natsort import natsorted

from mnv3_tf.data.sample_list import NO_LABEL, Listing, Samples
from mnv3_tf.data.samples import LabelError, PictureDataset
from mnv3_tf.data.split_names import says_nothing, split_of
from mnv3_tf.data.walk import class_folders, entries, is_junk_file, leftover_note, refuse_undecodable, walk
from mnv3_tf.errors import InputError
from mnv3_tf.text import counted, few, listed, suggestions

# More folders than these are classes, whatever is in them.
_MOST_SPLITS = 20


def split_folders(root: Path, *, labelled: bool = True) -> dict[str, Path]:
    """The split folders of a root: split -> folder that holds the class folders; empty where the root holds them itself.

    Folders are named for a split as `split_of` says: `Training`, `test_set`, `valid`; with other words in the names
    (`seg_train`, `seg_test`) these must be the same in all. They are split folders where training is one of them, or where there
    are no other folders; a lone `train/` that holds pictures among other folders is a class. Without labels, training is
    needed, and no class folders are.

    Raises:
        InputError: two folders for one split.
        LabelError: split folders without class folders.
    """
    inside = class_folders(root)
    groups: dict[tuple[str, ...], list[tuple[str, Path]]] = {}
    for folder in inside:
        if (parsed := split_of(folder.name)) is not None:
            groups.setdefault(parsed[1], []).append((parsed[0], folder))
    for words, named in sorted(groups.items()):  # () first: names of nothing but the split
        bases = [(split, _class_base(folder) if labelled else folder) for split, folder in named]
        usable = [(split, base) for split, base in bases if not labelled or class_folders(base)]
        kinds, whole = {split for split, _ in usable}, len(named) == len(inside) and labelled and not words
        with_train = "train" in kinds and (not words or len(kinds) > 1)
        if with_train or (whole and kinds and "train" not in dict(named)):
            return _one_each(root, usable)
        if whole:
            main = dict(reversed(named)).get("train", named[0][1])
            raise LabelError(main, "no class folders in it", "Put the pictures of every class in a folder of its own: "
                             f"{main.name}/cat/..., {main.name}/dog/...")
    return {}


def _one_each(root: Path, folders: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, folder in folders:
        if split in found:
            both = f"{found[split].relative_to(root)}/ and {folder.relative_to(root)}/"
            raise InputError(f"{root}: both {both} would be the {split} split. Keep one.")
        found[split] = folder
    return found


def _class_base(folder: Path) -> Path:
    """The folder inside a split folder that holds its class folders: `seg_train/seg_train/`, `train/images/`, or itself."""
    below = class_folders(folder)
    while len(below) == 1 and class_folders(below[0]) and (
            says_nothing(below[0].name) or split_of(below[0].name) == split_of(folder.name)):
        folder, below = below[0], class_folders(below[0])
    return folder


def refuse_unknown_splits(root: Path, known: Iterable[str]) -> None:
    """Refuses folders that hold the same class folders, which are hardly classes themselves.

    Args:
        root: whose folders would be the classes.
        known: names that are classes for certain.

    Raises:
        LabelError: two or more look like splits under names that say nothing.
    """
    inside = class_folders(root)
    if not 2 <= len(inside) <= _MOST_SPLITS or {folder.name for folder in inside} <= set(known):
        return
    names = {folder: {below.name for below in class_folders(folder)} for folder in inside}
    most = max(names.values(), key=len)
    alike = [folder for folder, below in names.items() if len(shared := below & most) >= 2 and 2 * len(shared) >= len(below)]
    if len(alike) < 2:
        return
    folders, classes = few([f"{folder.name}/" for folder in alike]), few(natsorted(most))
    if all(split_of(name) for name in most):
        raise LabelError(root, f"{folders} each hold split folders ({classes})",
                         f"Splits are outside and classes inside: train/{alike[0].name}/..., not {alike[0].name}/train/...")
    raise LabelError(root, f"{folders} hold the same class folders ({classes}), so they look like splits and not like classes",
                     "Name the split folders train, val and test. If they are the classes after all, write their names in "
                     f"{root / 'labels.txt'}, one a line.")


def open_folders(root: Path, splits: dict[str, Path]) -> PictureDataset:
    """Lists pictures in class folders: those of each split folder, or of the root where `splits` is empty.

    Raises:
        LabelError: a class of another split is not in train.
    """
    layout = "split folders" if splits else "class folders"
    notes: list[str] = []
    leftovers: Counter[str] = Counter()
    pictures = Listing(root)
    listing: dict[str, dict[str, range]] = {}
    for split, folder in (splits or {"train": root}).items():
        listing[split] = _class_pictures(folder, folder.relative_to(root).as_posix() + "/" if splits else "", notes,
                                         leftovers, pictures)
    if splits:
        entries(root, leftovers)
        others = [path for path in class_folders(root) if not any(path in (base, *base.parents) for base in splits.values())]
        notes += [f"{path.name}/ is beside the split folders and was left out"
                  + (", for it has no class folders" if split_of(path.name) else "") for path in others]
    notes += leftover_note(leftovers)
    names = list(listing["train"]) if "train" in listing else natsorted(sorted(set().union(*listing.values())))
    for split, classes in listing.items():
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise LabelError(
                splits[split], f"class folders without pictures in {splits['train'].name}/: {suggestions(unknown, names)}",
                f"Classes with pictures there: {listed(names, ', ')}. Rename the folder, or add training pictures.")
    rows = {split: [classes.get(name, range(0)) for name in names] for split, classes in listing.items()}
    return PictureDataset(
        root, tuple(names),
        {split: pictures.samples(chain.from_iterable(parts), (label for label, part in enumerate(parts) for _ in part))
         for split, parts in rows.items()}, layout, tuple(notes))


def open_unlabelled(root: Path) -> PictureDataset:
    """Lists all pictures of a folder, at any depth, without labels; with `train/` among its folders, split by split.

    Raises:
        InputError: there are none.
    """
    notes: list[str] = []
    splits, layout = split_folders(root, labelled=False), "split folders"
    if not splits:
        splits, layout = {"train": root}, "pictures"
    listing, rows = Listing(root), {}
    leftovers: Counter[str] = Counter()
    for split, folder in splits.items():
        pictures, junk = walk(folder, leftovers)
        notes += _junk_notes(folder.name, junk)
        rows[split] = [listing.add(path) for path in pictures]
    notes += leftover_note(leftovers)
    if not len(listing):
        raise InputError(f"{root}: no pictures found.")
    samples = {split: listing.samples(some, [NO_LABEL] * len(some)) for split, some in rows.items()}
    return PictureDataset(root, (), samples, layout, tuple(notes))


def with_validation(dataset: PictureDataset, fraction: float, seed: int) -> PictureDataset:
    """Moves a part of every class from "train" to "val".

    A picture's place follows from the seed, its class and its relative path alone. A class with two pictures or more
    keeps at least one on each side, unless `fraction` is 0 or 1; a lone picture stays in train.
    """
    if fraction == 0:
        return dataset
    if fraction == 1:
        rest = {name: samples for name, samples in dataset.splits.items() if name != "train"}
        return replace(dataset, splits={"val": dataset.splits["train"], **rest},
                       notes=(*dataset.notes, "every picture of train is used for validation"))
    samples = dataset.splits["train"]
    places = np.fromiter(_places(seed, dataset, samples), np.float64, len(samples))
    order = np.lexsort((places, samples.labels))
    chosen = np.zeros(len(samples), bool)
    for one_class in np.split(order, np.flatnonzero(np.diff(samples.labels[order])) + 1):
        below = np.count_nonzero(places[one_class] < fraction)
        chosen[one_class[:min(max(below, 1), len(one_class) - 1)]] = True
    splits = {"train": samples.take(~chosen), "val": samples.take(chosen)}
    splits.update((name, rest) for name, rest in dataset.splits.items() if name not in splits)
    note = f"validation split made from train: {len(splits['val'])} of {len(samples)} pictures, seed {seed}"
    return replace(dataset, splits=splits, notes=(*dataset.notes, note))


def _places(seed: int, dataset: PictureDataset, samples: Samples) -> Iterator[float]:
    """Where each picture falls between 0 and 1, by its path below its class folder (below the root for label lists)."""
    above = {"split folders": 2, "class folders": 1}.get(dataset.layout, 0) if dataset.labelled else 0
    for name, label in zip(samples.names(), samples.labels, strict=True):
        if ".." in name or os.path.isabs(name):
            name = os.path.relpath(dataset.root / name, dataset.root)
        relative = "/".join(name.replace(os.sep, "/").split("/")[above:])
        text = unicodedata.normalize("NFC", f"{seed}\0{dataset.class_names[label] if dataset.labelled else ''}\0{relative}")
        digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        yield int.from_bytes(digest, "big") / 2**64


def _class_pictures(folder: Path, prefix: str, notes: list[str], leftovers: Counter[str], listing: Listing) -> dict[str, range]:
    """Pictures, added to `listing`, by class name; classes without any are left out. What was left out is added to `notes` and
    `leftovers`."""
    classes: dict[str, range] = {}
    loose = sum(not entry.is_dir() and not is_junk_file(entry.name) for entry in entries(folder, leftovers))
    if loose:
        notes.append(f"{prefix or 'the root'}: {counted(loose, 'file')} beside the class folders left out")
    for below in class_folders(folder):
        name = unicodedata.normalize("NFC", below.name)
        refuse_undecodable(below)
        pictures, junk = walk(below, leftovers)
        notes += _junk_notes(prefix + name, junk)
        if not pictures:
            notes.append(f"{prefix}{name}/: no pictures in it, so it is not a class")
        elif name in classes:
            raise InputError(f"{folder}: two class folders are named {name!r} in different Unicode forms. Merge them.")
        else:
            classes[name] = range(len(listing), len(listing) + len(pictures))
            for path in pictures:
                listing.add(path)
    return classes


def _junk_notes(folder: str, junk: Counter[str]) -> list[str]:
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(junk.items()))
    return [f"{folder}/: {counted(sum(junk.values()), 'file')} of no picture format left out ({kinds})"] if junk else []
