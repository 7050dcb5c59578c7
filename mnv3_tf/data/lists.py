"""The layout of PaddleClas: `train_list.txt`, `val_list.txt`, `test_list.txt` and `labels.txt` beside the pictures."""

from collections.abc import Sequence
from pathlib import Path

from mnv3_tf.data.labels import read_labels, read_lines, split_list_line
from mnv3_tf.data.samples import PictureDataset, Sample
from mnv3_tf.errors import InputError
from mnv3_tf.text import counted, listed

LISTS = {"train": "train_list.txt", "val": "val_list.txt", "test": "test_list.txt"}
MAX_CLASSES = 100_000  # where no labels.txt says how many


def has_lists(root: Path) -> bool:
    """Whether a folder holds at least one label list."""
    return any((root / name).is_file() for name in LISTS.values())


def open_lists(root: Path, class_names: Sequence[str] | None) -> PictureDataset:
    """Reads every label list of a folder.

    Args:
        root: the folder; paths in the lists are relative to it.
        class_names: what ids mean where there is no `labels.txt`.

    Raises:
        InputError: lines that cannot be used, all of them, each with its file, its line and what is wrong.
    """
    notes: list[str] = []
    labels = root / "labels.txt"
    names = read_labels(labels, numbered=True) if labels.is_file() else None
    known = names or (tuple(class_names) if class_names else None)
    splits, bad = {}, []
    for split, file_name in LISTS.items():
        if (root / file_name).is_file():
            splits[split], wrong, more_notes = _read_list(root, file_name, len(known) if known else None)
            bad += wrong
            notes += more_notes
    if bad:
        raise InputError(f"{root}: {counted(len(bad), 'line')} of the label files cannot be used:\n  {listed(bad)}\n"
                         "A line is a picture's path, relative to this folder, then a space or tab and the class id. "
                         "Correct the lines or take them out.")
    if known is None:
        count = 1 + max((sample.label for samples in splits.values() for sample in samples), default=-1)
        known = tuple(map(str, range(count)))
        notes.append("no labels.txt: the classes are named by their ids")
    elif names is None:
        notes.append("no labels.txt: the ids are taken in the order of the model's classes")
    return PictureDataset(root, known, splits, "label files", tuple(notes))


def _read_list(root: Path, file_name: str, classes: int | None) -> tuple[tuple[Sample, ...], list[str], list[str]]:
    """(samples, bad lines, notes) of one list."""
    samples, bad = [], []
    limit = MAX_CLASSES if classes is None else classes
    blank = backslashes = 0
    lines = read_lines(root / file_name)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            blank += number < len(lines)  # what follows the last line end is no line
            continue
        try:
            path, label = split_list_line(line)
            if not 0 <= label < limit:
                raise ValueError(f"class id {label} is out of range, which is 0 to {limit - 1}")
            found, moved = _find(root, path)
        except ValueError as error:
            bad.append(f"{file_name}, line {number}: {error}")
            continue
        backslashes += moved
        samples.append(Sample(found, label, f"{file_name}:{number}"))
    notes = [f"{file_name}: {counted(blank, 'blank line')} skipped"] if blank else []
    if backslashes:
        notes.append(f"{file_name}: {counted(backslashes, 'path')} with backslashes read as folders")
    return tuple(samples), bad, notes


def _find(root: Path, path: str) -> tuple[Path, bool]:
    """(the file, whether backslashes had to be read as folders)."""
    try:
        if (root / path).is_file():
            return root / path, False
        moved = root / path.replace("\\", "/")
        if "\\" in path and moved.is_file():
            return moved, True
    except (OSError, ValueError):  # a name too long for the file system, or with a zero in it
        pass
    raise ValueError(f"no file {path!r}")
