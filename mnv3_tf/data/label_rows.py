"""What label files of any form come to: rows with a picture and a label, found in the folder and numbered."""

import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from natsort import natsorted

from mnv3_tf.data.labels import read_labels
from mnv3_tf.data.sample_list import Listing
from mnv3_tf.data.samples import LabelError, PictureDataset
from mnv3_tf.data.split_names import says_nothing, split_of
from mnv3_tf.data.walk import class_folders, pictures_below
from mnv3_tf.errors import InputError
from mnv3_tf.text import counted, few, listed

MAX_CLASSES = 100_000  # where no labels.txt says how many
_LABEL_FILES = ("labels.txt", "classes.txt", "class_names.txt", "label_list.txt", "label.labels.txt")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBERS = re.compile(r"\[?\s*[+-]?\d+(?:\.0)?(?:[\s,;|]+[+-]?\d+(?:\.0)?)+\s*\]?")


@dataclass(frozen=True)
class Row:
    """A picture and its label, as a file gives them; `line` is such as "train_list.txt:12"."""

    path: str
    label: str
    line: str


def several_labels(where: str, label: str) -> LabelError:
    """The error for a label file that gives a picture more than one label, or none."""
    return LabelError(where, f"{label!r}: this file gives several labels a picture (multi-label), which is not supported",
                      "A classifier here answers one class a picture: give each picture one.")


def is_several(label: str) -> bool:
    """Whether a label is a list of numbers, such as ``0,1,0``."""
    return bool(_NUMBERS.fullmatch(label.strip()))


def several_of(labels: set[str], *, plural: bool) -> set[str]:
    """Labels that are several, such as "0;3"; or "clear primary", where "clear" and "primary" are met in other labels too.

    Args:
        labels: all of a data set.
        plural: their column says so itself, such as "tags"; only then may blanks part labels.
    """
    found = {label for label in labels if is_several(label) or label.startswith("[")}
    for separator in ";|, " if plural else ";|,":
        parts = {label: {part.strip() for part in label.split(separator)} for label in labels}
        met = Counter(part for each in parts.values() for part in each)
        composite = {label for label, each in parts.items() if separator in label}
        if separator in ";|" or all(met[part] > 1 for label in composite for part in parts[label]):
            found |= composite
    return found


def label_file(root: Path) -> Path | None:
    """The file of class names beside the pictures: `labels.txt`, or one of a few other names; None where there is none, or
    several of the other names."""
    found = [root / name for name in _LABEL_FILES if (root / name).is_file()]
    others = list(root.glob("*_label_list.txt"))
    return found[0] if found else others[0] if len(others) == 1 else None


@dataclass
class Pictures:
    """Finds the files that label files name.

    Attributes:
        root: the data set's folder.
        notes: how many were found by other ways than their path below `root`.
    """

    root: Path
    notes: Counter[str] = field(default_factory=Counter)
    _below: dict[str, list[Path]] | None = None

    def __post_init__(self) -> None:
        self._folders = [(split_of(folder.name), folder) for folder in class_folders(self.root)]

    def find(self, text: str, split: str, *, anywhere: bool) -> Path:
        """The file that `text` names.

        Args:
            text: a path below the root or below a folder named for the split or for nothing (`images/`); an absolute one of
                another machine, whose last parts are looked for; with backslashes or without.
            split: of the label file.
            anywhere: a name without folder or ending is looked for in all folders.

        Raises:
            ValueError: there is no such file, or there are several; in words.
        """
        try:
            if os.path.isfile(os.path.join(self.root, text)):  # quicker than a Path's, for the usual case
                return self.root / text
            moved = text.replace("\\", "/")
            if "\\" in text and (self.root / moved).is_file():
                self.notes["with backslashes read as folders"] += 1
                return self.root / moved
            for parsed, folder in self._folders:
                if (parsed[0] == split if parsed else says_nothing(folder.name)) and (folder / moved).is_file():
                    return folder / moved
            parts = PurePosixPath(moved).parts
            if PureWindowsPath(text).is_absolute() or parts[:1] in (("/",), (self.root.name,)):
                for start in range(1, len(parts)):
                    if (self.root.joinpath(*parts[start:])).is_file():
                        self.notes["of another folder found by their last parts"] += 1
                        return self.root.joinpath(*parts[start:])
        except (OSError, ValueError):  # a name too long for the file system, or with a zero in it
            raise ValueError(f"no file {text!r}") from None
        if anywhere and (found := self._by_name(moved, split)):
            return found
        raise ValueError(f"no file {text!r}")

    def _by_name(self, text: str, split: str) -> Path | None:
        if self._below is None:
            self._below = {}
            for path in pictures_below(self.root):
                for name in {path.name, path.stem}:
                    self._below.setdefault(name, []).append(path)
        found = [path for path in self._below.get(PurePosixPath(text).name, ())
                 if f"/{path.as_posix()}".endswith(f"/{text}") or f"/{path.with_suffix('').as_posix()}".endswith(f"/{text}")]
        named = [path for path in found if (split_of(path.relative_to(self.root).parts[0]) or ("",))[0] == split]
        found = named if len(found) > 1 and named else found
        if len(found) > 1:
            places = few([path.relative_to(self.root) for path in found], 2)
            raise ValueError(f"{len(found)} files are named {text!r} ({places}): give the path below the root")
        return found[0] if found else None


def label_dataset(root: Path, rows: Mapping[str, Iterable[Row]], bad: list[str], class_names: Sequence[str] | None,
                  notes: list[str], *, ids: bool, rule: str) -> PictureDataset:
    """A data set of label rows.

    Args:
        root: the folder.
        rows: split -> rows, which are gone through several times.
        bad: lines that cannot be used, known already.
        class_names: a model's labels, which numbers mean where no file of class names is there.
        notes: added to.
        ids: numbers are class ids, which count from 0, also where no file says the names. Otherwise they are names.
        rule: what a line must be, for the error.

    Raises:
        InputError: lines that cannot be used, all of them, each with its file, its line and what is wrong.
    """
    named = label_file(root)
    known = read_labels(named, numbered=True) if named else None
    if named and named.name != "labels.txt":
        notes.append(f"class names are from {named.name}")
    labels = {row.label for split in rows.values() for row in split}
    several = several_of(labels, plural=False).difference(known or ())
    for row in (row for split in (rows.values() if several else ()) for row in split if row.label in several):
        raise several_labels(f"{root / row.line.replace(':', ', line ')}", row.label)
    numbers = [label for label in labels if _WHOLE.fullmatch(label)]
    are_ids = bool(numbers) if ids else len(numbers) == len(labels)
    if known is None and class_names and are_ids and not labels <= set(class_names):
        known = tuple(class_names)
        notes.append("no labels.txt: the ids are taken in the order of the model's classes")
    limit = len(known) if known else MAX_CLASSES
    if known is None and are_ids:
        notes.append("no labels.txt: the classes are named by their ids")
    names = known or (tuple(map(str, range(1 + max((int(label) for label in numbers if 0 <= int(label) < limit), default=-1))))
                      if are_ids and ids else tuple(natsorted(sorted(labels))))
    index = {name: number for number, name in enumerate(names)}
    pictures, listing, found = Pictures(root), Listing(root), dict[str, tuple[array, array]]()
    bad = list(bad)
    for split, lines in rows.items():
        here, numbers_here = found.setdefault(split, (array("i"), array("i")))
        for row in lines:
            try:
                label = _number_of(row.label, index, limit, by_id=known is not None or ids)
                here.append(listing.add(pictures.find(row.path, split, anywhere=not ids), row.line))
                numbers_here.append(label)
            except ValueError as error:
                bad.append(f"{row.line.replace(':', ', line ')}: {error}")
    if bad:
        raise InputError(f"{root}: {counted(len(bad), 'line')} of the label files cannot be used:\n  {listed(bad)}\n{rule} "
                         "Correct the lines or take them out.")
    notes += [f"{counted(count, 'path')} {how}" for how, count in pictures.notes.items()]
    splits = {split: listing.samples(*columns) for split, columns in found.items()}
    return PictureDataset(root, names, splits, "label files", tuple(notes))


def _number_of(label: str, index: dict[str, int], limit: int, *, by_id: bool) -> int:
    if by_id and _WHOLE.fullmatch(label):
        if not 0 <= int(label) < limit:
            raise ValueError(f"class id {int(label)} is out of range, which is 0 to {limit - 1}")
        return int(label)
    if label not in index:
        raise ValueError(f"label {label!r} is not a whole number, and not a class name")
    return index[label]
