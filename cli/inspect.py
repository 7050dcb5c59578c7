"""`mnv3 inspect`."""

from typing import TYPE_CHECKING

import click

from mnv3_tf.cli.options import json_option, new_table, print_json, show
from mnv3_tf.errors import CheckFailed
from mnv3_tf.files import plain
from mnv3_tf.text import counted, few

if TYPE_CHECKING:
    from rich.table import Table

    from mnv3_tf.export.inspection.inspect import Inspection
    from mnv3_tf.export.microcontrollers import EthosURun, MicroRun

# Numbers of operators outside of the delegate that are printed; --json has all.
_SHOWN = 6


@click.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path())
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of the TFLite runtime.")
@click.option("--require", type=click.Choice(["int8", "one-partition", "micro", "ethos-u"]), multiple=True,
              help="Exit with 3 unless the file is int8 throughout, runs as one XNNPACK partition, runs on tflite-micro as the "
                   "reference kernels do, or wholly on an Arm Ethos-U. May be given more than once.")
@json_option
def inspect(file: str, threads: int, require: tuple[str, ...], as_json: bool) -> None:
    """Shows what is in a .tflite file, made by this kit or not.

    The types it computes in, its operators, float islands, stray conversions, custom operators, open sizes, bytes by type, and
    the operators that XNNPACK on this machine does not run, with the reason if it is known.
    """
    from mnv3_tf.export.inspection.inspect import inspect_file

    tools = _ask_tools(file, require)
    found = inspect_file(file, threads=threads)
    failures = [*found.failures(name for name in require if name not in tools),  # type: ignore[arg-type]
                *(line for tool in tools.values() for line in tool.failures())]
    if as_json:
        asked = {name.replace("-", "_"): plain(tool) for name, tool in tools.items()}
        print_json({**found.to_dict(), **asked, "required": require, "failures": failures})
    else:
        _print(found)
        for tool in tools.values():
            show(tool.sentence())
    if failures:
        raise CheckFailed(f"{file}: does not meet --require: {'; '.join(failures)}.")


def _ask_tools(file: str, require: tuple[str, ...]) -> "dict[str, MicroRun | EthosURun]":
    """What the tools of microcontrollers say that are required, by requirement."""
    if not {"micro", "ethos-u"}.intersection(require):
        return {}
    from mnv3_tf.export.microcontrollers import ETHOS_U, MICRO, compile_for_ethos_u, run_on_micro
    from mnv3_tf.tflite.file import read_tflite_bytes

    content = read_tflite_bytes(file)
    found: dict[str, MicroRun | EthosURun] = {}
    if MICRO in require:
        found[MICRO] = run_on_micro(content, file)
    if ETHOS_U in require:
        found[ETHOS_U] = compile_for_ethos_u(content)
    return found


def _print(found: "Inspection") -> None:
    from mnv3_tf.export.inspection.inspect import INT8
    from mnv3_tf.tflite.file import TFLITE_METADATA

    file, partitions = found.file, found.run.partitions
    show(f"{file.path}: {found.kind}", "bold green" if found.kind == INT8 and not found.problems else "bold")
    show("not run" if partitions is None else f"{counted(partitions, 'XNNPACK partition')}, "
         f"{counted(len(found.outside), 'operator')} outside, {counted(len(file.operators), 'operator')} in all"
         + (" (of the main graph)" if file.others else ""))
    for problem in found.problems:
        show(f"- {problem}", "yellow")
    show(_ends(found), width=80)
    show(_operators(found), width=80)
    if found.outside:
        show(_outside(found), width=80)
    stored = ", ".join(f"{_bytes(size)} {dtype}" for dtype, size in found.constant_bytes.items()) or "none"
    whole = sum(found.constant_bytes.values())
    ratio = f" ({found.float32_bytes / whole:.1f} times smaller than as float32)" if whole else ""
    show(f"Constants: {stored}{ratio}")
    graphs = [f"{graph.name} ({counted(len(graph.operators), 'operator')})" for graph in file.graphs]
    for label, values in (("Graphs", graphs if len(graphs) > 1 else []), ("Custom operators", found.custom_operators),
                          ("Signatures", file.signatures), ("Carries", file.metadata)):
        if values:
            show(f"{label}: {', '.join(values)}")
    show(f"TFLite metadata: {'yes' if TFLITE_METADATA in file.metadata else 'no'}")
    show(f"{_bytes(file.size_bytes)}, SHA-256 {file.sha256}")


def _bytes(size: int) -> str:
    if size < 10_000:
        return counted(size, "byte")
    return f"{size / 1e6:.2f} MB" if size >= 1_000_000 else f"{size / 1000:.1f} kB"


def _ends(found: "Inspection") -> "Table":
    table = _table("", "tensor", "shape", "type", "scale", "zero")
    for label, tensors in (("in", found.file.inputs), ("out", found.file.outputs)):
        for tensor in tensors:
            table.add_row(label, tensor.name, " x ".join(map(str, tensor.shape_signature)), tensor.dtype,
                          f"{tensor.scales[0]:.6g}" if tensor.scales else "",
                          str(tensor.zero_points[0]) if tensor.zero_points else "")
    return table


def _operators(found: "Inspection") -> "Table":
    """By type; with the graph that they are in, where there are several."""
    from collections import Counter

    from mnv3_tf.tflite.file import operator_counts

    outside = Counter((item.name, item.dtype) for item in found.outside)
    several = bool(found.file.others)
    table = _table("operator", "computes in", *(["graph"] if several else []), "count", "outside", right=2)
    for graph in found.file.graphs:
        for (name, dtype), count in operator_counts(graph).items():
            left = outside[name, dtype] if graph is found.file else 0
            table.add_row(name, dtype, *([graph.name] if several else []), str(count), str(left) if left else "")
    return table


def _outside(found: "Inspection") -> "Table":
    groups: dict[tuple[str, str, str], list[int]] = {}
    for item in found.outside:
        groups.setdefault((item.name, item.dtype, item.reason), []).append(item.index)
    table = _table("outside of XNNPACK", "number", "why")
    for (name, dtype, why), numbers in groups.items():
        table.add_row(f"{name} {dtype}", few(numbers, _SHOWN), why)
    return table


def _table(*headings: str, right: int = 0) -> "Table":
    from rich import box

    return new_table(*headings, right=right, box=box.SIMPLE_HEAD, pad_edge=False)
