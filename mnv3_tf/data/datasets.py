"""Datasets: opened from a folder, whichever of the usual layouts it has."""

import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mnv3_tf.data.folders import open_folders, open_unlabelled, refuse_unknown_splits, split_folders, with_validation
from mnv3_tf.data.label_rows import label_file
from mnv3_tf.data.labels import read_labels
from mnv3_tf.data.lists import find_lists, open_lists
from mnv3_tf.data.sample_list import NO_LABEL, PicturePath
from mnv3_tf.data.samples import LabelError, PictureDataset
from mnv3_tf.data.shards import find_shards, open_shards
from mnv3_tf.data.signatures import HEAD_BYTES, holds_many, kind_of
from mnv3_tf.data.tables import ENDINGS, RULE, find_tables, open_tables, read_table
from mnv3_tf.data.walk import class_folders, pictures_below
from mnv3_tf.errors import InputError
from mnv3_tf.progress import Progress, Silent
from mnv3_tf.text import counted, nearest

LAYOUTS = """Layouts that are understood:
  train_list.txt, val_list.txt, labels.txt    a picture's path and class id a line
  train/CLASS/..., val/CLASS/..., test/...    class folders in split folders
  train.csv, or labels.csv                    a picture's path and class a row
  train-0000.tar, val-0000.tar, labels.txt    shards: tar (WebDataset) or TFRecord
  CLASS/...                                   class folders, split by the kit"""


def open_dataset(root: str | Path, *, validation_fraction: float = 0.15, seed: int = 0,
                 class_names: Sequence[str] | None = None, labels_needed: bool = True,
                 progress: Progress | None = None) -> PictureDataset:
    """Lists the pictures of a folder; no picture is opened.

    The layout is found: label lists as PaddleClas has them; shards (tar, TFRecord) named for their splits; `train/`, `val/` and
    `test/` (or names like these) with class folders; tables with a picture and its class a row; or class folders alone. Classes
    of folders are in natural order. Without validation pictures a part of every class is taken from train, by a hash of (seed,
    class, relative path): adding pictures moves no other.

    Args:
        root: the folder, or a .csv file of labels.
        validation_fraction: 0..1, the part to take where there is no validation split. 0 takes none; 1 takes all, to
            evaluate on every picture.
        seed: of that choice.
        class_names: a model's labels; the dataset's labels then index these, matched by name.
        labels_needed: False takes any folder of pictures: where its layout is none of these, or a class is unknown or alone, all
            pictures in it are listed without labels, and a note says why.
        progress: told of the index of shards while it is made.

    Raises:
        InputError: no folder, no picture, label lines that cannot be used.
        LabelError: no layout, a class that is unknown or alone.
    """
    fraction = validation_fraction
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise InputError(f"validation_fraction is {fraction!r}; allowed: numbers from 0 to 1.")
    root, progress = Path(root), progress or Silent()
    _check_root(root)
    try:
        dataset = _open_labelled(root, class_names, progress)
    except LabelError as error:
        if labels_needed or not root.is_dir():
            raise
        dataset = _open_unlabelled(root, error.what, progress)
    if "val" not in dataset.splits and "train" in dataset.splits:
        dataset = with_validation(dataset, fraction, seed)
    return dataset


def every_picture(folder: Path, progress: Progress) -> Sequence[PicturePath]:
    """The pictures of a folder, whatever they mean: those in its shards, or all files that may be pictures, at any depth."""
    if shards := find_shards(folder):
        dataset = open_shards(folder, shards, None, progress, labelled=False)
        return [sample.path for sample in dataset.split("all")]
    return pictures_below(folder)


def _open_labelled(root: Path, class_names: Sequence[str] | None, progress: Progress) -> PictureDataset:
    try:
        dataset = _open_layout(root, class_names, progress)
        if not any(dataset.splits.values()):
            if pictures_below(root):
                raise LabelError(root, "its pictures are in no class folder",
                                 "Labels are needed: put the pictures of every class in a folder of its own.")
            raise LabelError(root, "no pictures found", LAYOUTS)
        if class_names is not None:
            return dataset.with_class_names(class_names)
        if len(dataset.class_names) < 2:
            raise _single_class(dataset)
        return dataset
    except LabelError as error:
        raise _explained(root, error) from None


def _open_layout(root: Path, class_names: Sequence[str] | None, progress: Progress) -> PictureDataset:
    """What there is, in this order: label lists, shards, split folders with class folders, tables, class folders."""
    if root.suffix.lower() in ENDINGS and root.is_file():
        try:
            return open_tables(root.parent, [read_table(root, root.parent)], class_names)
        except ValueError as error:
            raise LabelError(root, str(error), RULE) from None
    if lists := find_lists(root):
        return open_lists(root, lists, class_names)
    if shards := find_shards(root):
        return open_shards(root, shards, class_names, progress)
    try:
        splits, failure = split_folders(root), None
    except LabelError as error:
        splits, failure = {}, error
    if splits:
        return open_folders(root, splits)
    tables, left = find_tables(root)
    remarks = tuple(f"left out: {table}" for table in left)
    if tables:
        dataset = open_tables(root, tables, class_names)
        rest = len(pictures_below(root)) - len(np.unique(dataset.split("all").keys()))
        remarks += (f"{counted(rest, 'file')} without a label left out",) if rest else ()
        return replace(dataset, notes=(*dataset.notes, *remarks))
    if failure:
        raise failure
    names = label_file(root)
    refuse_unknown_splits(root, class_names or (read_labels(names) if names else ()))
    dataset = open_folders(root, {})
    return replace(dataset, notes=(*dataset.notes, *remarks))


def _explained(root: Path, error: LabelError) -> InputError:
    """The error about a folder without labels, or a nearer one: of what it holds instead."""
    if not root.is_dir() or find_shards(root):
        return error
    kinds = {path: kind for path in pictures_below(root)[:100] if (kind := kind_of(_head(path))) and holds_many(kind)}
    if kinds:
        first, (what, remedy) = next(iter(kinds.items()))
        more = f" ({counted(len(kinds) - 1, 'more file')} like it)" if len(kinds) > 1 else ""
        return LabelError(root, f"{first.relative_to(root)} is {what}, which is not read{more}", remedy)
    left = find_tables(root)[1]
    several = next((table for table in left if isinstance(table, LabelError)), None)
    return several or (LabelError(root, f"{error.what}; {'; '.join(map(str, left))}", RULE) if left else error)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _open_unlabelled(root: Path, why: str, progress: Progress) -> PictureDataset:
    try:
        lists = find_lists(root)
        listed = open_lists(root, lists, None) if lists else None
    except LabelError:
        listed = None
    if listed:
        splits = {name: samples.with_labels(np.full(len(samples), NO_LABEL)) for name, samples in listed.splits.items()}
        dataset = replace(listed, class_names=(), splits=splits)
    elif shards := find_shards(root):
        dataset = open_shards(root, shards, None, progress, labelled=False)
    else:
        dataset = open_unlabelled(root)
    return replace(dataset, notes=(f"no labels are used: {why}", *dataset.notes))


def _check_root(root: Path) -> None:
    if root.is_dir() or (root.is_file() and root.suffix.lower() in ENDINGS):
        return
    if not root.exists():
        parent = root.parent
        beside = [path.name for path in parent.iterdir()] if parent.is_dir() else []
        raise InputError(f"{root}: no such folder{nearest(root.name, beside) or '.'} Give the dataset's folder.")
    kind = kind_of(_head(root))
    if zipfile.is_zipfile(root) or tarfile.is_tarfile(root) or (kind and holds_many(kind)):
        what, remedy = kind or ("an archive", "Unpack it.")
        raise InputError(f"{root}: is {what}, not a folder. {remedy.removesuffix('.')}, and give the folder.")
    raise InputError(f"{root}: is a file, not a folder. Give the folder that holds the pictures, or a .csv file of labels.")


def _single_class(dataset: PictureDataset) -> LabelError:
    name = dataset.class_names[0]
    inner, remedy = dataset.root / name, LAYOUTS
    if dataset.layout == "class folders" and (find_lists(inner) or class_folders(inner)):
        remedy = f"Its folder has folders or label lists of its own: perhaps the dataset is {inner}."
    return LabelError(dataset.root, f"only one class, {name!r}; a classifier needs two or more", remedy)
