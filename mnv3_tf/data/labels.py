"""Label files: `labels.txt` with the class names, and lists with a picture and a class id a line."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mnv3_tf.errors import InputError
from mnv3_tf.files import read_bytes, write_text

_LINE_END = re.compile(r"\r\n|\n|\r")
_LIST_LINE = re.compile(r"(.*[^ \t])[ \t]+([^ \t]+)", re.DOTALL)
_TABBED_LINE = re.compile(r"(.*[^ \t])[ ]*\t[ \t]*([^\t]+)", re.DOTALL)
_NUMBERED = re.compile(r"([0-9]+)(?:[ \t]+|:[ \t]*)(.*\S)")


def write_labels(path: str | Path, names: Sequence[str]) -> None:
    """Writes class names, one a line in the order of the model's outputs, UTF-8, whole or not at all.

    Raises:
        InputError: a name is empty, given twice, has a line end in it or blanks around it.
    """
    for index, name in enumerate(names):
        if not name or name != name.strip() or len(name.splitlines()) != 1 or name.startswith("\ufeff"):
            raise InputError(f"{path}: class {index} is named {name!r}. A name is one line of text without blanks "
                             "around it. Rename the class.")
    _refuse_duplicates(path, names)
    if not names:
        raise InputError(f"{path}: no class names to write. Give at least one.")
    write_text(path, "".join(f"{name}\n" for name in names))


def read_labels(path: str | Path, *, numbered: bool = False) -> tuple[str, ...]:
    """Reads class names, one a line; a byte-order mark, Windows line ends and blank lines at the end are fine.

    Args:
        path: the file.
        numbered: take "0 cat", "1 dog", ... (or "0:cat") as "cat", "dog", as some datasets write them: only where every line
            starts with its own number, from 0.

    Raises:
        InputError: it cannot be read, has no names, a blank line between names, or a name twice.
    """
    names = [line.strip() for line in read_lines(path)]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise InputError(f"{path}: no class names in it. Write one a line, in the order of the class ids.")
    for number, name in enumerate(names, 1):
        if not name:
            raise InputError(f"{path}, line {number}: blank, between names; it would move every id after it by one. "
                             "Take the line out, or name the class.")
    if numbered:
        matches = [_NUMBERED.fullmatch(name) for name in names]
        if all(match and match[1] == str(index) for index, match in enumerate(matches)):
            names = [match[2] for match in matches if match]
    _refuse_duplicates(path, names)
    return tuple(names)


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text file without their ends; a byte-order mark is dropped.

    Raises:
        InputError: as :func:`read_text`.
    """
    return _LINE_END.split(read_text(path))


def lines_of(path: str | Path) -> Iterator[str]:
    """The lines of a UTF-8 text file as :func:`read_lines` has them, one after the other.

    Raises:
        InputError: as :func:`read_text`.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from (line.removesuffix("\n") for line in file)
    except (OSError, UnicodeDecodeError):
        read_text(path)  # says what is wrong, and where


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file without its byte-order mark.

    Raises:
        InputError: it cannot be read or is not UTF-8; the message names the line.
    """
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from error


def split_list_line(line: str) -> tuple[str, str]:
    """Parts a line of a label list, `relative/path.jpg 3`: (path, class id or name).

    The last tab is the separator, or else the last run of spaces, so a path may hold spaces.

    Raises:
        ValueError: what is wrong, in words.
    """
    line = line.rstrip(" \t")
    match = _TABBED_LINE.fullmatch(line) or _LIST_LINE.fullmatch(line)
    if not match:
        raise ValueError(f"{line.strip()!r} has no class id")
    return match[1], match[2]


def _refuse_duplicates(path: str | Path, names: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if name in first:
            raise InputError(f"{path}, line {number}: the class {name!r} is in line {first[name]} too. "
                             "Give every class its own name.")
        first[name] = number
