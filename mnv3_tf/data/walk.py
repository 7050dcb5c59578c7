"""Walking through picture folders: in natural order, without what is no picture."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from natsort import natsorted

from mnv3_tf.errors import InputError
from mnv3_tf.text import counted, few

# What operating systems, network drives and archives leave in folders, beside what begins with a dot.
_LEFTOVERS = {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r", "__macosx", "__pycache__",
              "@eadir", "@tmp", "@__thumb", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler",
              "lost+found", "system volume information", "network trash folder", "temporary items", "found.000", "~snapshot",
              "_gsdata_"}
_LEFTOVER_ENDS = ("@synoeastream", "@synoresource", "zone.identifier", "~")
_JUNK_SUFFIXES = {".txt", ".json", ".csv", ".tsv", ".xml", ".md", ".yaml", ".yml", ".html", ".log", ".ini", ".db",
                  ".lnk", ".url", ".py", ".ipynb", ".tmp", ".bak", ".part", ".crdownload", ".download"}


def class_folders(folder: Path) -> list[Path]:
    """The folders directly inside, in natural order (class2 before class10)."""
    return in_natural_order((Path(entry.path) for entry in entries(folder) if entry.is_dir()), folder)


def pictures_below(folder: Path) -> list[Path]:
    """Files of a folder that may be pictures, at any depth, in natural order."""
    return walk(folder)[0]


def walk(folder: Path, leftovers: Counter[str] | None = None) -> tuple[list[Path], Counter[str]]:
    """Files that may be pictures, at any depth, in natural order; and counts of the other files, by suffix.

    Args:
        folder: where to look.
        leftovers: what systems leave behind is counted here, by name.
    """
    pictures: list[Path] = []
    junk: Counter[str] = Counter()
    waiting, seen = [folder], set()
    while waiting:
        here = waiting.pop()
        try:
            state = here.stat()
        except OSError as error:
            raise InputError(f"{here}: cannot be read ({error.strerror or error}).") from error
        if (state.st_dev, state.st_ino) in seen:  # a link that leads back
            continue
        seen.add((state.st_dev, state.st_ino))
        for entry in entries(here, leftovers):
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


def refuse_undecodable(folder: Path) -> None:
    """Refuses a class folder whose name no labels.txt can hold.

    Raises:
        InputError: the name is not UTF-8.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in folder.name):
        raise InputError(f"{os.fsencode(folder)!r}: the name of this class folder is not UTF-8, as archives of other systems "
                         "leave it, and class names are written as UTF-8. Rename the folder.")


def is_junk_file(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _JUNK_SUFFIXES


def entries(folder: Path, leftovers: Counter[str] | None = None) -> Iterable[os.DirEntry[str]]:
    """What is in a folder, without hidden files and what systems leave behind, which is counted in `leftovers`."""
    try:
        with os.scandir(folder) as found:
            kept = []
            for entry in found:
                name = entry.name.lower()
                if not name.startswith(".") and name not in _LEFTOVERS and not name.endswith(_LEFTOVER_ENDS):
                    kept.append(entry)
                elif leftovers is not None:
                    end = next((end for end in _LEFTOVER_ENDS if name.endswith(end)), None)
                    leftovers["._*" if name.startswith("._") else f"*{end}" if end else entry.name.strip()] += 1
            return kept
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}).") from error


def leftover_note(leftovers: Counter[str]) -> list[str]:
    """One note about all that was counted, or none."""
    kinds = [f"{count} {name}" for name, count in sorted(leftovers.items())]
    return [f"{counted(leftovers.total(), 'hidden file or folder', 'hidden files and folders')} of operating systems and "
            f"archives ignored ({few(kinds)})"] if kinds else []
