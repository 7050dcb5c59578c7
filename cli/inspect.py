"""`mnv3 inspect`."""

from typing import TYPE_CHECKING, Any

import click

from mnv3_tf.cli.options import json_option, print_json
from mnv3_tf.errors import GateError

if TYPE_CHECKING:
    from mnv3_tf.export.inspection import Inspection

# Numbers of operators outside of the delegate that are printed; --json has all.
_SHOWN = 6


@click.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path())
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the TFLite runtime.")
@click.option("--require", type=click.Choice(["int8", "one-partition"]), multiple=True,
              help="Exit with 3 unless it is so: int8 throughout, or run by XNNPACK in one piece. May be given twice.")
@json_option
def inspect(file: str, threads: int, require: tuple[str, ...], as_json: bool) -> None:
    """Shows what any .tflite file is: ours or foreign.

    What it computes in, its operators by type, float islands, stray conversions, custom operators, open sizes, bytes by type, and
    what XNNPACK on this machine leaves outside, with the reason where it is known.
    """
    from mnv3_tf.export.inspection import inspect_file

    found = inspect_file(file, threads=threads)
    failures = found.failures(require)  # type: ignore[arg-type]
    if as_json:
        print_json({**found.to_dict(), "required": list(require), "failures": failures})
    else:
        _print(found)
    if failures:
        raise GateError(f"{file}: is not what was required: {'; '.join(failures)}.")


def _print(found: "Inspection") -> None:
    from rich.console import Console

    from mnv3_tf.data.samples import counted
    from mnv3_tf.export.inspection import INT8

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, soft_wrap=not console.is_terminal)

    file, partitions = found.file, found.run.partitions
    say(f"{file.path}: {found.kind}", "bold green" if found.kind == INT8 and not found.problems else "bold")
    say("not run" if partitions is None else f"{counted(partitions, 'XNNPACK partition')}, "
        f"{counted(len(found.outside), 'operator')} outside, {counted(len(file.operators), 'operator')} in all")
    for problem in found.problems:
        say(f"- {problem}", "yellow")
    console.print(_ends(found))
    console.print(_operators(found))
    if found.outside:
        console.print(_outside(found))
    stored = ", ".join(f"{size / 1000:.1f} kB {dtype}" for dtype, size in found.constant_bytes.items()) or "none"
    whole = sum(found.constant_bytes.values())
    ratio = f" ({found.float32_bytes / whole:.1f} times smaller than as float32)" if whole else ""
    say(f"Constants: {stored}{ratio}")
    more = [f"{name} ({counted(count, 'operator')})" for name, count in found.graphs[1:]]
    for label, values in (("Other graphs", more), ("Signatures", found.signatures), ("Carries", found.metadata)):
        if values:
            say(f"{label}: {', '.join(values)}")
    say(f"{file.size_bytes / 1e6:.2f} MB, SHA-256 {file.sha256}")


def _ends(found: "Inspection") -> Any:
    from rich import box
    from rich.table import Table

    table = Table("", "tensor", "shape", "type", "scale", "zero", box=box.SIMPLE_HEAD, pad_edge=False)
    for label, tensors in (("in", found.file.inputs), ("out", found.file.outputs)):
        for tensor in tensors:
            table.add_row(label, tensor.name, " x ".join(map(str, tensor.shape_signature)), tensor.dtype,
                          f"{tensor.scales[0]:.6g}" if tensor.scales else "",
                          str(tensor.zero_points[0]) if tensor.zero_points else "")
    return table


def _operators(found: "Inspection") -> Any:
    from collections import Counter

    from rich import box
    from rich.table import Table

    from mnv3_tf.export.tflite_file import operator_counts

    outside = Counter((item.name, item.dtype) for item in found.outside)
    table = Table("operator", "computes in", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("count", justify="right")
    table.add_column("outside", justify="right")
    for key, count in operator_counts(found.file).items():
        table.add_row(*key, str(count), str(outside[key]) if outside[key] else "")
    return table


def _outside(found: "Inspection") -> Any:
    from rich import box
    from rich.table import Table

    groups: dict[tuple[str, str, str], list[int]] = {}
    for item in found.outside:
        groups.setdefault((item.name, item.dtype, item.reason), []).append(item.index)
    table = Table("outside of XNNPACK", "computes in", "why", "numbers", box=box.SIMPLE_HEAD, pad_edge=False)
    for key, numbers in groups.items():
        more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        table.add_row(*key, ", ".join(map(str, numbers[:_SHOWN])) + more)
    return table
