"""Labels in a table: a CSV with a picture and its class a row, as Kaggle, spreadsheets and pandas write it."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mnv3_tf.data.label_rows import Pictures, Row, label_dataset, several_labels, several_of
from mnv3_tf.data.labels import read_text
from mnv3_tf.data.samples import LabelError, PictureDataset
from mnv3_tf.data.split_names import split_of
from mnv3_tf.data.walk import class_folders, entries
from mnv3_tf.errors import InputError
from mnv3_tf.text import few

# Headings in lower case, letters and digits alone; the first that a table has is taken.
_PATH = ("path", "filepath", "filepaths", "filename", "filenames", "file", "files", "fname", "imagepath", "imagefile",
         "imagename", "imgpath", "imgname", "image", "images", "img", "picture", "photo", "imageid", "imgid", "name", "id")
_LABEL = ("labelname", "classname", "categoryname", "label", "labels", "class", "classes", "category", "categories", "target",
          "targets", "tag", "tags", "species", "breed", "diagnosis", "y", "labelid", "classid", "classidx", "categoryid")
_PLURAL = {"labels", "classes", "categories", "targets", "tags"}
_SPLIT = ("split", "set", "subset", "dataset", "partition", "phase", "usage")
_BOXES = {"xmin", "ymin", "xmax", "ymax", "bbox", "xcenter", "boundingbox"}
_INDEX = ("", "unnamed0", "index")
ENDINGS = (".csv", ".tsv")
_FLAGS = {"0", "1", "0.0", "1.0"}
_SUFFIX = re.compile(r"(?i)\.(?:jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?)$")
RULE = "A row is a picture's path or name and its class (headings such as path,label)."


@dataclass(frozen=True)
class Table:
    """A table that gives labels.

    Attributes:
        path: the file.
        rows: split -> rows; "" for a table that does not say the split.
        bad: rows that lack something, in words.
        found: whether the first picture is there.
        first: its row.
    """

    path: Path
    rows: dict[str, list[Row]]
    bad: list[str] = field(default_factory=list)
    found: bool = False

    @property
    def first(self) -> Row:
        return next(iter(self.rows.values()))[0]


def find_tables(root: Path) -> tuple[list[Table], list[str | LabelError]]:
    """(tables of a folder that give labels, what is wrong with every other table).

    Tables are looked for in the root, and in folders named for a split that have no class folders.
    """
    tables: list[Table] = []
    left: list[str | LabelError] = []
    folders = [root, *(folder for folder in class_folders(root) if split_of(folder.name) and not class_folders(folder))]
    for path in (Path(entry.path) for folder in folders for entry in sorted(entries(folder), key=lambda entry: entry.name)):
        if path.suffix.lower() not in ENDINGS or not path.is_file() or "submission" in path.name.lower():
            continue
        try:
            table = read_table(path, root)
        except LabelError as error:
            left.append(error)
        except ValueError as error:
            left.append(f"{path.relative_to(root)} {error}")
        else:
            if table.found:
                tables.append(table)
            else:
                left.append(f"{path.relative_to(root)} gives labels, but its first picture, {table.first.path!r}, is not here")
    named = [table for table in tables if "" not in table.rows]
    left += [f"{table.path.relative_to(root)} does not say the split, as others do"
             for table in tables if named and table not in named]
    return named or tables, left


def open_tables(root: Path, tables: Sequence[Table], class_names: Sequence[str] | None) -> PictureDataset:
    """The data set of tables.

    Raises:
        InputError: two tables for one split, rows that cannot be used, or a picture with two classes.
    """
    rows: dict[str, list[Row]] = {}
    origins: dict[str, Path] = {}
    for table in tables:
        for split, more in table.rows.items():
            if split in origins:
                both = f"{origins[split].relative_to(root)} and {table.path.relative_to(root)}"
                raise InputError(f"{root}: both {both} give labels{f' for {split}' if split else ''}. Keep one, or name them "
                                 "train.csv, val.csv and test.csv.")
            origins[split] = table.path
            rows[split] = more
    rows = {split or "train": rows[split] for split in ("", "train", "val", "test") if split in rows}
    bad = [line for table in tables for line in table.bad]
    notes = [f"labels are from {few(list(dict.fromkeys(str(path.relative_to(root)) for path in origins.values())))}"]
    return label_dataset(root, rows, bad, class_names, notes, ids=False, rule=RULE)


def read_table(path: Path, root: Path) -> Table:
    """Reads one table.

    Raises:
        ValueError: it gives no labels of pictures; why, in words that follow its name.
        LabelError: it gives several labels a picture.
        InputError: it cannot be read.
    """
    lines = list(_cells(path))
    names = [re.sub("[^a-z0-9]", "", cell.lower()) for cell in lines[0][1]] if lines else []
    headed = any(name in _PATH for name in names) and not any(map(_SUFFIX.search, lines[0][1]))
    body = lines[1:] if headed else lines
    if not body:
        raise ValueError("has no rows")
    columns = _columns(names if headed else [""] * len(names), lines[0][1], body, headed)
    place, base = str(path.relative_to(root)), path.parent.relative_to(root)
    default = next((parsed[0] for name in (path.stem, *base.parts) if (parsed := split_of(name)) and not parsed[1]), "")
    rows: dict[str, list[Row]] = {}
    bad: list[str] = []
    seen: dict[str, str] = {}
    for (number, cells), label in zip(body, _labels(path, columns, body), strict=True):
        picture = _at(cells, columns.picture)
        if not picture or not label:
            bad.append(f"{place}, line {number}: no {'label' if picture else 'picture'}")
            continue
        if seen.setdefault(picture, label) != label:
            raise several_labels(f"{path}, line {number}", f"{picture}: {seen[picture]}, {label}")
        parsed = split_of(_at(cells, columns.split)) if columns.split is not None else (default, ())
        if parsed is None:
            bad.append(f"{place}, line {number}: split {_at(cells, columns.split or 0)!r} is none of train, val and test")
            continue
        row = Row((base / picture).as_posix() if base.parts else picture, label, f"{place}:{number}")
        rows.setdefault(parsed[0], []).append(row)
    if not rows:
        raise ValueError("has no row with a picture and a label")
    if len(seen) > 10 and len(set(seen.values())) == len(seen):
        raise ValueError("gives every picture a label of its own")
    table = Table(path, rows, bad)
    try:
        Pictures(root).find(table.first.path, next(iter(rows)), anywhere=True)
    except ValueError:
        return table
    return replace(table, found=True)


@dataclass(frozen=True)
class _Columns:
    """Where things stand in a row; `flags` are the columns of a class each, with its name, where no column has labels."""

    picture: int
    label: int | None
    split: int | None
    flags: dict[int, str]
    plural: bool = False


def _columns(names: list[str], heads: list[str], body: list[tuple[int, list[str]]], headed: bool) -> _Columns:
    """Which column is which.

    Args:
        names: of the columns, in lower case, letters and digits alone; empty where there are no headings.
        heads: as they stand.
    """
    if _BOXES & set(names):
        raise ValueError("is a table of boxes (object detection), which are not used")
    picture = next((names.index(name) for name in _PATH if name in names), None) if headed else \
        next((at for at, cell in enumerate(body[0][1]) if _SUFFIX.search(cell)), None)
    if picture is None:
        raise ValueError("has no column of pictures (such as path, filename or image_id)")
    rest = [at for at in range(len(names)) if at != picture and not (headed and names[at] in _INDEX)]
    values = {at: {_at(cells, at) for _, cells in body} for at in rest}
    split = next((at for at in rest if (names[at] in _SPLIT and any(map(split_of, values[at])))
                  or (not headed and len(rest) > 1 and all(map(split_of, values[at])))), None)
    rest = [at for at in rest if at != split]
    label = next((at for name in _LABEL for at in rest if names[at] == name), rest[0] if len(rest) == 1 else None)
    if label is not None:
        return _Columns(picture, label, split, {}, names[label] in _PLURAL)
    if headed and len(rest) > 1 and all(values[at] <= _FLAGS for at in rest):
        return _Columns(picture, None, split, {at: heads[at] for at in rest})
    raise ValueError(f"has no column of labels (such as label, class or target) among {few(heads)}" if headed
                     else f"has {len(names)} columns and no headings")


def _at(cells: list[str], column: int) -> str:
    return cells[column] if column < len(cells) else ""


def _labels(path: Path, columns: _Columns, body: list[tuple[int, list[str]]]) -> list[str]:
    """The label of every row.

    Raises:
        LabelError: a row has several, or, with a column for every class, none.
    """
    if columns.label is not None:
        labels = [_at(cells, columns.label) for _, cells in body]
        several = several_of(set(labels), plural=columns.plural)
        for (number, _), label in zip(body, labels, strict=True):
            if label in several:
                raise several_labels(f"{path}, line {number}", label)
        return labels
    labels = []
    for number, cells in body:
        found = [name for at, name in columns.flags.items() if float(_at(cells, at)) == 1]
        if len(found) != 1:
            raise several_labels(f"{path}, line {number}", ", ".join(found) or "no class")
        labels += found
    return labels


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, stripped cells) of every row that is not blank."""
    text = read_text(path)
    head = text[:text.find("\n")] if "\n" in text else text
    separator = max(",\t;|", key=head.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator, skipinitialspace=True)
    try:
        for cells in reader:
            if any("\n" in cell for cell in cells):
                raise InputError(f"{path}, line {reader.line_num}: a line end inside of a cell. Close the quote before it.")
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not a table of text ({error}).") from error
