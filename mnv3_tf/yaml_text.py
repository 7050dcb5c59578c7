"""YAML read with the line of every key kept, so that an error can name it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mnv3_tf.errors import InputError
from mnv3_tf.files import read_bytes
from mnv3_tf.text import nearest


@dataclass(frozen=True)
class YamlDocument:
    """A parsed file.

    Attributes:
        path: where it came from.
        value: the plain Python value (None for an empty file).
        lines: line number, from 1, of every key and list item, by its path of keys and positions.
    """

    path: Path
    value: Any
    lines: dict[tuple[str | int, ...], int]

    def line(self, *keys: str | int) -> int:
        """The line of a key, or of the nearest enclosing one."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)

    def mapping(self, allowed: set[str], required: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
        """The document as a mapping with only `allowed` keys and all `required` ones."""
        if not isinstance(self.value, dict):
            raise InputError(f"{self.path}: the file must hold a mapping (key: value lines); allowed keys: "
                             f"{', '.join(sorted(allowed))}.")
        for key in self.value:
            if key not in allowed:
                raise InputError(f"{self.path}, line {self.line(key)}: unknown key {key!r}{nearest(str(key), allowed)}. "
                                 f"Allowed: {', '.join(sorted(allowed))}.")
        for key in sorted(required):
            if key not in self.value:
                raise InputError(f"{self.path}: the key {key!r} is missing.")
        return self.value

    def rows(self, key: str) -> Iterator[tuple[Any, int]]:
        """The items of a non-empty list below `key`, each with its line."""
        items = self.value.get(key)
        if not isinstance(items, list) or not items:
            raise InputError(f"{self.path}, line {self.line(key)}: {key} must be a list with at least one row.")
        for position, item in enumerate(items):
            yield item, self.line(key, position)


def read_yaml(path: str | Path) -> YamlDocument:
    """Reads one YAML document, with plain values only (no Python objects).

    Raises:
        InputError: the file cannot be read or parsed, or a key stands twice; the message names file and line.
    """
    path = Path(path)
    try:
        text = read_bytes(path).decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
        lines: dict[tuple[str | int, ...], int] = {}
        if node is not None:
            _collect_lines(path, node, (), lines)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text.") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}, line {line}: not valid YAML ({error.problem}).") from error
    except RecursionError as error:
        raise InputError(f"{path}: not valid YAML (nested too deep, or in itself).") from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML ({error}).") from error
    return YamlDocument(path, value, lines)


def _collect_lines(path: Path, node: yaml.Node, keys: tuple[str | int, ...],
                   lines: dict[tuple[str | int, ...], int]) -> None:
    lines.setdefault(keys, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            below, line = (*keys, key_node.value), key_node.start_mark.line + 1
            if below in lines:
                raise InputError(f"{path}, line {line}: the key {key_node.value!r} was already given on line {lines[below]}. "
                                 "Keep one of them.")
            lines[below] = line
            _collect_lines(path, value_node, below, lines)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _collect_lines(path, item, (*keys, position), lines)
