"""Walking through picture folders: in natural order, without what is no picture."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from natsort import natsorted

from mnv3_tf.errors import InputError

_JUNK_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}
_JUNK_SUFFIXES = {".txt", ".json", ".csv", ".tsv", ".xml", ".md", ".yaml", ".yml", ".html", ".log"}


def class_folders(folder: Path) -> list[Path]:
    """The folders directly inside, in natural order (class2 before class10)."""
    return in_natural_order((Path(entry.path) for entry in entries(folder) if entry.is_dir()), folder)


def pictures_below(folder: Path) -> list[Path]:
    """Files of a folder that may be pictures, at any depth, in natural order."""
    return walk(folder)[0]


def walk(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Files that may be pictures, at any depth, in natural order; and counts of the other files, by suffix."""
    pictures: list[Path] = []
    junk: Counter[str] = Counter()
    waiting, seen = [folder], set()
    while waiting:
        here = waiting.pop()
        state = here.stat()
        if (state.st_dev, state.st_ino) in seen:  # a link that leads back
            continue
        seen.add((state.st_dev, state.st_ino))
        for entry in entries(here):
            if entry.is_dir():
                waiting.append(Path(entry.path))
            elif is_junk_file(entry.name):
                junk[Path(entry.name).suffix.lower()] += 1
            else:
                pictures.append(Path(entry.path))
    return in_natural_order(pictures, folder), junk


def in_natural_order(paths: Iterable[Path], folder: Path) -> list[Path]:
    """class2 before class10; names that natural order takes as equal (class1, class01) in plain order."""
    return natsorted(sorted(paths), key=lambda path: path.relative_to(folder).as_posix())


def is_junk_file(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _JUNK_SUFFIXES


def entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    """What is in a folder, without hidden files and what operating systems leave behind."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".") and entry.name.lower() not in _JUNK_NAMES]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}).") from error
