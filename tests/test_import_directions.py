"""Who imports whom: no circles, and never upwards (`cli` -> `export` -> `mnv3_tf`). Imports inside of functions count too."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"mnv3_tf": ROOT / "mnv3_tf", "mnv3_tf.export": ROOT / "export", "mnv3_tf.cli": ROOT / "cli"}


def modules() -> dict[str, Path]:
    """Module name -> file; packages themselves are left out, for they hold no code but lists of names."""
    return {".".join([package, *path.relative_to(folder).with_suffix("").parts]): path
            for package, folder in PACKAGES.items() for path in folder.rglob("*.py") if path.name != "__init__.py"}


def imports(source: str) -> set[str]:
    """Every module that a source may import, at its top or late; what only type checkers import is left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def upward(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Imports from a lower package to a higher one."""
    def level(module: str) -> int:
        return 2 if module.startswith("mnv3_tf.cli.") else 1 if module.startswith("mnv3_tf.export.") else 0

    return [(module, target) for module, targets in graph.items() for target in targets if level(target) > level(module)]


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    files = modules()
    return {name: (imports(path.read_text(encoding="utf-8")) & set(files)) - {name} for name, path in files.items()}


def test_there_is_no_circle(graph: dict[str, set[str]]) -> None:
    assert len(graph) > 150 and graph["mnv3_tf.cli.convert"]
    assert circle(graph) == []


def test_nothing_is_imported_upwards(graph: dict[str, set[str]]) -> None:
    assert upward(graph) == []


def test_what_would_be_found() -> None:
    """A late import closes a circle as well as one at the top, and a type checker's does not."""
    late = imports("def f():\n    from mnv3_tf.a import g\n")
    typing = imports("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mnv3_tf.a import G\n")
    assert "mnv3_tf.a" in late and "mnv3_tf.a" not in typing
    assert set(circle({"mnv3_tf.a": {"mnv3_tf.b"}, "mnv3_tf.b": late & {"mnv3_tf.a"}})) == {"mnv3_tf.a", "mnv3_tf.b"}
    assert upward({"mnv3_tf.a": {"mnv3_tf.export.b"}, "mnv3_tf.export.b": {"mnv3_tf.cli.c"}, "mnv3_tf.cli.c": {"mnv3_tf.a"}}) == [
        ("mnv3_tf.a", "mnv3_tf.export.b"), ("mnv3_tf.export.b", "mnv3_tf.cli.c")]
