"""The operator profile that benchmark tools print: tables with a heading row, their cells apart by tabs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mnv3_tf.export.benchmark.runners.log_lines import read_number

_NAMED = re.compile(r"^\[(.*)\](?::\d+)?$")


@dataclass(frozen=True)
class OpTime:
    """A row of the operator profile.

    Attributes:
        name: of what it makes, or of the layer that it belongs to.
        kind: such as "CONV_2D", or "ADD+MUL" where two ran as one.
        mean_ms: of a run.
        share: of all operators' time, 0..1.
        calls: in a run.
        kernel: the delegate's own name of it, or "".
    """

    name: str
    kind: str
    mean_ms: float
    share: float
    calls: int
    kernel: str = ""


def read_profile(lines: Sequence[str]) -> tuple[tuple[OpTime, ...], tuple[OpTime, ...]]:
    """The operators of the timed runs in their order, and those within a delegate, where the log tells them.

    A log may hold tables of the initialization, of the timed runs, of further subgraphs and of a delegate's inside. Without any
    heading, as LiteRT prints it, the first table is that of the runs.
    """
    tables: list[tuple[str, list[OpTime]]] = []
    part, inside = "", False
    columns: list[str] = []
    for line in lines:
        if "Profiling Info for Benchmark Initialization" in line:
            part = "initialization"
        elif "for Regular Benchmark Runs" in line:
            part = "runs"
        elif line.startswith("Delegate internal:"):
            part = f"{part} delegate"
        elif line.startswith("====") or line.startswith("Number of nodes executed"):
            columns, inside = [], "= Run Order =" in line
            if inside:
                tables.append((part, []))
        elif inside and "\t" in line:
            cells = [cell.strip() for cell in line.split("\t")]
            if not columns:
                columns = [cell.strip("[]").lower() for cell in cells]
            elif (row := _row(dict(zip(columns, cells, strict=False)))) is not None:
                tables[-1][1].append(row)
    for wanted in ("runs", ""):
        outer = [table for part, table in tables if part == wanted]
        if outer:
            inner = [table for part, table in tables if part == f"{wanted} delegate"]
            return tuple(outer[0]), tuple(inner[0] if inner else ())
    return (), ()


def _row(cells: dict[str, str]) -> OpTime | None:
    mean, share, calls = (read_number(cells.get(key, "").rstrip("%")) for key in ("avg ms", "%", "times called"))
    if mean is None or share is None or calls is None or not cells.get("name"):
        return None
    named = _NAMED.match(cells["name"])
    name = named.group(1) if named else re.sub(r":\d+$", "", cells["name"])
    # Of several names the first.
    return OpTime(name.split(";")[0], cells.get("node type", ""), mean, share / 100, int(calls))
