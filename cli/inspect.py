"""`mnv3 inspect`."""

from typing import TYPE_CHECKING, Any

import click

from mnv3_tf.cli.options import json_option, print_json
from mnv3_tf.errors import GateError

if TYPE_CHECKING:
    from mnv3_tf.export.inspection.inspect import Inspection

# Numbers of operators outside of the delegate that are printed; --json has all.
_SHOWN = 6


@click.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path())
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of the TFLite runtime.")
@click.option("--require", type=click.Choice(["int8", "one-partition"]), multiple=True,
              help="Exit with 3 unless the file is int8 throughout, or runs as one XNNPACK partition. May be given twice.")
@json_option
def inspect(file: str, threads: int, require: tuple[str, ...], as_json: bool) -> None:
    """Shows what is in a .tflite file, made by this kit or not.

    The types it computes in, its operators, float islands, stray conversions, custom operators, open sizes, bytes by type, and
    the operators that XNNPACK on this machine does not run, with the reason if it is known.
    """
    from mnv3_tf.export.inspection.inspect import inspect_file

    found = inspect_file(file, threads=threads)
    failures = found.failures(require)  # type: ignore[arg-type]
    if as_json:
        print_json({**found.to_dict(), "required": list(require), "failures": failures})
    else:
        _print(found)
    if failures:
        raise GateError(f"{file}: does not meet --require: {'; '.join(failures)}.")


def _print(found: "Inspection") -> None:
    from rich.console import Console

    from mnv3_tf.export.inspection.inspect import INT8
    from mnv3_tf.text import counted
    from mnv3_tf.tflite.file import TFLITE_METADATA

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=80)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, soft_wrap=not console.is_terminal)

    file, partitions = found.file, found.run.partitions
    say(f"{file.path}: {found.kind}", "bold green" if found.kind == INT8 and not found.problems else "bold")
    say("not run" if partitions is None else f"{counted(partitions, 'XNNPACK partition')}, "
        f"{counted(len(found.outside), 'operator')} outside, {counted(len(file.operators), 'operator')} in all"
        + (" (of the main graph)" if file.others else ""))
    for problem in found.problems:
        say(f"- {problem}", "yellow")
    console.print(_ends(found))
    console.print(_operators(found))
    if found.outside:
        console.print(_outside(found))
    stored = ", ".join(f"{_bytes(size)} {dtype}" for dtype, size in found.constant_bytes.items()) or "none"
    whole = sum(found.constant_bytes.values())
    ratio = f" ({found.float32_bytes / whole:.1f} times smaller than as float32)" if whole else ""
    say(f"Constants: {stored}{ratio}")
    graphs = [f"{graph.name} ({counted(len(graph.operators), 'operator')})" for graph in file.graphs]
    for label, values in (("Graphs", graphs if len(graphs) > 1 else []), ("Custom operators", found.custom_operators),
                          ("Signatures", file.signatures), ("Carries", file.metadata)):
        if values:
            say(f"{label}: {', '.join(values)}")
    say(f"TFLite metadata: {'yes' if TFLITE_METADATA in file.metadata else 'no'}")
    say(f"{_bytes(file.size_bytes)}, SHA-256 {file.sha256}")


def _bytes(size: int) -> str:
    if size < 10_000:
        return f"{size} byte{'' if size == 1 else 's'}"
    return f"{size / 1e6:.2f} MB" if size >= 1_000_000 else f"{size / 1000:.1f} kB"


def _ends(found: "Inspection") -> Any:
    table = _table("", "tensor", "shape", "type", "scale", "zero")
    for label, tensors in (("in", found.file.inputs), ("out", found.file.outputs)):
        for tensor in tensors:
            table.add_row(label, _plain(tensor.name), " x ".join(map(str, tensor.shape_signature)), tensor.dtype,
                          f"{tensor.scales[0]:.6g}" if tensor.scales else "",
                          str(tensor.zero_points[0]) if tensor.zero_points else "")
    return table


def _operators(found: "Inspection") -> Any:
    """By type; with the graph that they are in, where there are several."""
    from collections import Counter

    from mnv3_tf.tflite.file import operator_counts

    outside = Counter((item.name, item.dtype) for item in found.outside)
    several = bool(found.file.others)
    table = _table("operator", "computes in", *(["graph"] if several else []))
    table.add_column("count", justify="right")
    table.add_column("outside", justify="right")
    for graph in found.file.graphs:
        for (name, dtype), count in operator_counts(graph).items():
            left = outside[name, dtype] if graph is found.file else 0
            table.add_row(_plain(name), dtype, *([_plain(graph.name)] if several else []), str(count), str(left) if left else "")
    return table


def _outside(found: "Inspection") -> Any:
    from mnv3_tf.text import few

    groups: dict[tuple[str, str, str], list[int]] = {}
    for item in found.outside:
        groups.setdefault((item.name, item.dtype, item.reason), []).append(item.index)
    table = _table("outside of XNNPACK", "number", "why")
    for (name, dtype, why), numbers in groups.items():
        table.add_row(_plain(f"{name} {dtype}"), few(numbers, _SHOWN), _plain(why))
    return table


def _table(*headings: str) -> Any:
    from rich import box
    from rich.table import Table

    return Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)


def _plain(text: str) -> Any:
    """Text of a file, whose brackets are no markup."""
    from rich.text import Text

    return Text(text)
