"""Class folders: found, walked in natural order, and split so that adding a picture moves no other."""

import hashlib
import os
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

from natsort import natsorted

from mnv3_tf.data.samples import NO_LABEL, LabelError, PictureDataset, Sample
from mnv3_tf.data.walk import class_folders, entries, is_junk_file, walk
from mnv3_tf.errors import InputError
from mnv3_tf.text import counted, listed, suggestions

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def split_folders(root: Path, *, labelled: bool = True) -> dict[str, Path]:
    """The split folders of a root: split -> folder; empty where it has class folders instead.

    They are split folders where `train/` is one of them, or where there are no other folders; a lone `train/` that holds
    pictures among other folders is a class. Without labels, `train/` is needed, and no class folders are.

    Raises:
        InputError: two folders for one split.
        LabelError: split folders without class folders.
    """
    inside = class_folders(root)
    found: dict[str, Path] = {}
    named = [folder for folder in inside if folder.name.lower() in SPLIT_FOLDERS]
    if not named or ("train" not in {folder.name.lower() for folder in named} and len(named) < len(inside)):
        return {}
    for folder in named:
        split = SPLIT_FOLDERS[folder.name.lower()]
        if split in found:
            raise InputError(f"{root}: both {found[split].name}/ and {folder.name}/ would be the {split} split. "
                             "Keep one.")
        found[split] = folder
    if not labelled:
        return found if "train" in found else {}
    main = found.get("train", named[0])
    if class_folders(main):
        return found
    if len(named) == len(inside):
        raise LabelError(main, "no class folders in it", "Put the pictures of every class in a folder of its own: "
                         f"{main.name}/cat/..., {main.name}/dog/...")
    return {}


def open_folders(root: Path, splits: dict[str, Path]) -> PictureDataset:
    """Lists pictures in class folders: those of each split folder, or of the root where `splits` is empty.

    Raises:
        LabelError: a class of another split is not in train.
    """
    layout = "split folders" if splits else "class folders"
    notes: list[str] = []
    listing: dict[str, dict[str, list[Path]]] = {}
    for split, folder in (splits or {"train": root}).items():
        listing[split] = _class_pictures(folder, folder.relative_to(root).as_posix() + "/" if splits else "", notes)
    if splits:
        others = [path.name for path in class_folders(root) if path not in splits.values()]
        notes += [f"{name}/ is beside the split folders and was left out" for name in others]
    names = list(listing["train"]) if "train" in listing else natsorted(sorted(set().union(*listing.values())))
    for split, classes in listing.items():
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise LabelError(
                splits[split], f"class folders without pictures in {splits['train'].name}/: {suggestions(unknown, names)}",
                f"Classes with pictures there: {listed(names, ', ')}. Rename the folder, or add training pictures.")
    return PictureDataset(
        root, tuple(names),
        {split: tuple(Sample(path, label) for label, name in enumerate(names) for path in classes.get(name, ()))
         for split, classes in listing.items()}, layout, tuple(notes))


def open_unlabelled(root: Path) -> PictureDataset:
    """Lists all pictures of a folder, at any depth, without labels; with `train/` among its folders, split by split.

    Raises:
        InputError: there are none.
    """
    notes: list[str] = []
    splits, layout = split_folders(root, labelled=False), "split folders"
    if not splits:
        splits, layout = {"train": root}, "pictures"
    samples = {}
    for split, folder in splits.items():
        pictures, junk = walk(folder)
        notes += _junk_notes(folder.name, junk)
        samples[split] = tuple(Sample(path, NO_LABEL) for path in pictures)
    if not any(samples.values()):
        raise InputError(f"{root}: no pictures found.")
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
    by_class: dict[int, list[tuple[float, int]]] = {}
    samples = dataset.splits["train"]
    for index, sample in enumerate(samples):
        by_class.setdefault(sample.label, []).append((_place(seed, dataset, sample), index))
    chosen: set[int] = set()
    for places in by_class.values():
        places.sort()
        below = sum(place < fraction for place, _ in places)
        taken = min(max(below, 1), len(places) - 1)
        chosen.update(index for _, index in places[:taken])
    splits = {"train": tuple(sample for index, sample in enumerate(samples) if index not in chosen),
              "val": tuple(sample for index, sample in enumerate(samples) if index in chosen)}
    splits.update((name, rest) for name, rest in dataset.splits.items() if name not in splits)
    note = f"validation split made from train: {len(splits['val'])} of {len(samples)} pictures, seed {seed}"
    return replace(dataset, splits=splits, notes=(*dataset.notes, note))


def _place(seed: int, dataset: PictureDataset, sample: Sample) -> float:
    """Where a picture falls between 0 and 1, by its path below its class folder (below the root for label lists)."""
    parts = Path(os.path.relpath(sample.path, dataset.root)).parts
    above = {"label files": 0, "split folders": 2, "class folders": 1}[dataset.layout] if dataset.labelled else 0
    relative = "/".join(parts[above:])
    text = unicodedata.normalize("NFC", f"{seed}\0{dataset.class_of(sample)}\0{relative}")
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _class_pictures(folder: Path, prefix: str, notes: list[str]) -> dict[str, list[Path]]:
    """Pictures by class name, classes without any left out; what was left out is added to `notes`."""
    classes: dict[str, list[Path]] = {}
    loose = sum(not entry.is_dir() and not is_junk_file(entry.name) for entry in entries(folder))
    if loose:
        notes.append(f"{prefix or 'the root'}: {counted(loose, 'file')} beside the class folders left out")
    for below in class_folders(folder):
        name = unicodedata.normalize("NFC", below.name)
        pictures, junk = walk(below)
        notes += _junk_notes(prefix + name, junk)
        if not pictures:
            notes.append(f"{prefix}{name}/: no pictures in it, so it is not a class")
        elif name in classes:
            raise InputError(f"{folder}: two class folders are named {name!r} in different Unicode forms. Merge them.")
        else:
            classes[name] = pictures
    return classes


def _junk_notes(folder: str, junk: Counter[str]) -> list[str]:
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(junk.items()))
    return [f"{folder}/: {counted(sum(junk.values()), 'file')} of no picture format left out ({kinds})"] if junk else []
