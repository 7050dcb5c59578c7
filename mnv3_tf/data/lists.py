"""Label lists beside the pictures: PaddleClas's `train_list.txt`, `val_list.txt` and `labels.txt`, or `train.txt`, `val.txt`."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv3_tf.data.label_rows import Row, is_several, label_dataset, several_labels
from mnv3_tf.data.labels import lines_of, split_list_line
from mnv3_tf.data.samples import PictureDataset
from mnv3_tf.data.split_names import split_of
from mnv3_tf.errors import InputError
from mnv3_tf.text import counted

_PADDLE = ("train_list.txt", "val_list.txt", "test_list.txt")
_PICTURE = re.compile(r"(?i)\.(?:jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?)(?=\s|$)")
_ALONE = re.compile(r"(?i)[/\\].*\.(?:jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?)\s*$")
_FLAGS = re.compile(rf"{_PICTURE.pattern}(?:[ \t]+[+-]?[01])+")


def find_lists(root: Path) -> dict[str, Path]:
    """The label lists of a folder, by split: those of PaddleClas, and others named for a split that begin with a picture's path.

    Raises:
        InputError: two lists for one split, none of them by PaddleClas's name.
    """
    found: dict[str, Path] = {}
    others: dict[str, Path] = {}
    for path in sorted(root.glob("*.txt")):
        parsed = split_of(path.stem)
        if parsed is None or parsed[1] or not path.is_file():
            continue
        if path.name in _PADDLE:
            found[parsed[0]] = path
        elif _names_pictures(path) and others.setdefault(parsed[0], path) != path:
            both = f"{others[parsed[0]].name} and {path.name}"
            raise InputError(f"{root}: both {both} would be the {parsed[0]} list. Keep one.")
    return others | found if found or "train" in others else {}


def open_lists(root: Path, lists: dict[str, Path], class_names: Sequence[str] | None) -> PictureDataset:
    """Reads label lists.

    Args:
        root: the folder; paths in the lists are relative to it.
        lists: of :func:`find_lists`.
        class_names: what ids mean where there is no `labels.txt`.

    Raises:
        InputError: lines that cannot be used, all of them, each with its file, its line and what is wrong.
        LabelError: lists with several labels a picture.
    """
    notes: list[str] = []
    rows: dict[str, Iterable[Row]] = {}
    bad: list[str] = []
    for split in ("train", "val", "test"):
        if split in lists:
            rows[split], wrong, more_notes = _read_list(lists[split])
            bad += wrong
            notes += more_notes
    return label_dataset(root, rows, bad, class_names, notes, ids=True, rule="A line is a picture's path, relative to this "
                         "folder, then a space or tab and the class id or name.")


def _names_pictures(path: Path) -> bool:
    """Whether the first line that is not blank has a picture's path in it."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return bool(_PICTURE.search(next((line for line in file if line.strip()), "")))
    except OSError:
        return False


def _read_list(path: Path) -> tuple["_Rows", list[str], list[str]]:
    """(rows, bad lines, notes) of one list."""
    bad, blank, alone = [], 0, True
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            blank += 1
            continue
        alone = alone and bool(_ALONE.search(line))
        try:
            split_list_line(line)
        except ValueError as error:
            bad.append(f"{path.name}, line {number}: {error}")
    rows = _Rows(path, alone)
    return rows, [] if alone else bad, [f"{path.name}: {counted(blank, 'blank line')} skipped"] if blank else []


@dataclass(frozen=True)
class _Rows:
    """The good rows of a list, read anew each time, so that a long one takes no memory.

    Attributes:
        path: the list.
        alone: its lines are paths without labels: their folders say the class.
    """

    path: Path
    alone: bool

    def __iter__(self) -> Iterator[Row]:
        for number, line in enumerate(lines_of(self.path), 1):
            if not line.strip():
                continue
            if self.alone:
                yield Row(line.strip(), re.split(r"[/\\]", line.strip())[-2], f"{self.path.name}:{number}")
                continue
            try:
                picture, label = split_list_line(line)
            except ValueError:
                continue
            if is_several(label) or _FLAGS.search(picture):
                raise several_labels(f"{self.path}, line {number}", line.strip() if _FLAGS.search(picture) else label)
            yield Row(picture, label, f"{self.path.name}:{number}")
