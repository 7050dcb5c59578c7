"""Datasets: opened from a folder, whichever of the usual layouts it has."""

import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mnv3_tf.data.folders import open_folders, open_unlabelled, refuse_unknown_splits, split_folders, with_validation
from mnv3_tf.data.labels import read_labels
from mnv3_tf.data.lists import has_lists, open_lists
from mnv3_tf.data.samples import NO_LABEL, LabelError, PictureDataset
from mnv3_tf.data.walk import class_folders, pictures_below
from mnv3_tf.errors import InputError
from mnv3_tf.text import nearest

LAYOUTS = """Layouts that are understood:
  train_list.txt, val_list.txt, labels.txt    a picture's path and class id a line
  train/CLASS/..., val/CLASS/..., test/...    class folders in split folders
  CLASS/...                                   class folders, split by the kit"""


def open_dataset(root: str | Path, *, validation_fraction: float = 0.15, seed: int = 0,
                 class_names: Sequence[str] | None = None, labels_needed: bool = True) -> PictureDataset:
    """Lists the pictures of a folder; no picture is opened.

    The layout is found: PaddleClas label lists; `train/`, `val/` (or `valid/`, `validation/`) and `test/` with class
    folders; or class folders alone. Classes of folders are in natural order. Without validation pictures a part of every
    class is taken from train, by a hash of (seed, class, relative path): adding pictures moves no other.

    Args:
        root: the folder.
        validation_fraction: 0..1, the part to take where there is no validation split. 0 takes none; 1 takes all, to
            evaluate on every picture.
        seed: of that choice.
        class_names: a model's labels; the dataset's labels then index these, matched by name.
        labels_needed: False takes any folder of pictures: where its layout is none of these, or a class is unknown or alone, all
            pictures in it are listed without labels, and a note says why.

    Raises:
        InputError: no folder, no picture, label lines that cannot be used.
        LabelError: no layout, a class that is unknown or alone.
    """
    fraction = validation_fraction
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise InputError(f"validation_fraction is {fraction!r}; allowed: numbers from 0 to 1.")
    root = Path(root)
    _check_folder(root)
    try:
        dataset = _open_labelled(root, class_names)
    except LabelError as error:
        if labels_needed:
            raise
        dataset = _open_unlabelled(root, error.what)
    if "val" not in dataset.splits and "train" in dataset.splits:
        dataset = with_validation(dataset, fraction, seed)
    return dataset


def _open_labelled(root: Path, class_names: Sequence[str] | None) -> PictureDataset:
    if has_lists(root):
        dataset = open_lists(root, class_names)
    else:
        splits = split_folders(root)
        if not splits:
            labels = root / "labels.txt"
            refuse_unknown_splits(root, class_names or (read_labels(labels) if labels.is_file() else ()))
        dataset = open_folders(root, splits)
    if not any(dataset.splits.values()):
        if pictures_below(root):
            raise LabelError(root, "its pictures are in no class folder",
                             "Labels are needed: put the pictures of every class in a folder of its own.")
        raise InputError(f"{root}: no pictures found. {LAYOUTS}")
    if class_names is not None:
        return dataset.with_class_names(class_names)
    if len(dataset.class_names) < 2:
        raise _single_class(dataset)
    return dataset


def _open_unlabelled(root: Path, why: str) -> PictureDataset:
    if has_lists(root):
        listed = open_lists(root, None)
        splits = {name: tuple(replace(sample, label=NO_LABEL) for sample in samples) for name, samples in listed.splits.items()}
        dataset = replace(listed, class_names=(), splits=splits)
    else:
        dataset = open_unlabelled(root)
    return replace(dataset, notes=(f"no labels are used: {why}", *dataset.notes))


def _check_folder(root: Path) -> None:
    if root.is_dir():
        return
    if not root.exists():
        parent = root.parent
        beside = [path.name for path in parent.iterdir()] if parent.is_dir() else []
        raise InputError(f"{root}: no such folder{nearest(root.name, beside) or '.'} Give the dataset's folder.")
    if zipfile.is_zipfile(root) or tarfile.is_tarfile(root):
        raise InputError(f"{root}: is an archive, not a folder. Unpack it, and give the folder.")
    raise InputError(f"{root}: is a file, not a folder. Give the folder that holds the pictures.")


def _single_class(dataset: PictureDataset) -> LabelError:
    name = dataset.class_names[0]
    inner, remedy = dataset.root / name, LAYOUTS
    if dataset.layout == "class folders" and (has_lists(inner) or class_folders(inner)):
        remedy = f"Its folder has folders or label lists of its own: perhaps the dataset is {inner}."
    return LabelError(dataset.root, f"only one class, {name!r}; a classifier needs two or more", remedy)
