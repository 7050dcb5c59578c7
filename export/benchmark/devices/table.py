"""A device's rows beside each other: the table, and which file is faster."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_tf.export.benchmark.devices.other_load import other_load
from mnv3_tf.export.benchmark.ratio import latency_ratio
from mnv3_tf.export.benchmark.store import Record, latency
from mnv3_tf.export.benchmark.table import ms, short_names

# Blocks that a line names.
_BLOCKS_SAID = 6

if TYPE_CHECKING:
    from rich.table import Table

    from mnv3_tf.export.benchmark.devices.bench import DeviceResult


def comparisons(records: Sequence[Record], baseline: str) -> list[dict[str, Any]]:
    """Each row's latency relative to the baseline file's on the same target, with the same threads and cores.

    Args:
        records: measured together.
        baseline: the file's path as in the records.

    Returns:
        For each record: ratio (below 1 is faster), low and high (the 95% interval, None where only summaries are known) and
        verdict; ratio is None where either failed.
    """
    found = []
    for record in records:
        base = next((other for other in records if other["file"] == baseline and _same_place(other, record)), None)
        found.append({"file": record["file"], "target": record["target"], "threads": record["threads"], "cores": record["cores"],
                      "baseline": baseline, **_compare(record, base)})
    return found


def _same_place(one: Record, other: Record) -> bool:
    return all(one[key] == other[key] for key in ("target", "threads", "cores", "runner", "delegate_asked"))


def _compare(record: Record, base: Record | None) -> dict[str, Any]:
    nothing: dict[str, Any] = {"ratio": None, "low": None, "high": None}
    if record["failure"]:
        return {**nothing, "verdict": "failed"}
    found = latency_ratio(record, base) if base is not None else None
    if found is None:
        return {**nothing, "verdict": "no baseline"}
    return {"ratio": 1.0, "low": 1.0, "high": 1.0, "verdict": "baseline"} if base is record else asdict(found)


def device_table(rows: Sequence[Record], compared: Sequence[dict[str, Any]]) -> "Table":
    """A rich table with a line for each row."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    for heading in ("threads", "cores", "median ms", "p90 ms", "p99 ms", "init ms", "peak MB", "delegate"):
        table.add_column(heading, justify="right" if heading not in ("cores", "delegate") else "left")
    table.add_column("time / baseline (95%)", no_wrap=True)
    for label, row, entry in zip(short_names([row["file"] for row in rows]), rows, compared, strict=True):
        if row["failure"]:
            table.add_row(label, str(row["threads"]), row["cores"], "failed", "", "", "", "", "", "")
            continue
        mean = "" if row["median_ms"] is not None else " (mean)"
        table.add_row(label, str(row["threads"]), row["cores"], f"{ms(latency(row) or 0.0)}{mean}", _ms(row["p90_ms"]),
                      _ms(row["p99_ms"]), _ms(row["init_ms"]), f"{row['peak_memory_mb']:.1f}" if row["peak_memory_mb"] else "",
                      f"{row['delegate']}{_partitions(row)}", _ratio(entry))
    return table


def _ms(value: float | None) -> str:
    return "" if value is None else ms(value)


def _partitions(row: Record) -> str:
    return f", {row['partitions']} partition{'s' * (row['partitions'] != 1)}" if row["partitions"] else ""


def _ratio(entry: dict[str, Any]) -> str:
    if entry["ratio"] is None or entry["verdict"] == "baseline":
        return str(entry["verdict"])
    span = f" ({entry['low']:.2f} to {entry['high']:.2f})" if entry["low"] is not None else ""
    return f"{entry['ratio']:.2f}{span} {entry['verdict']}"


def device_lines(result: "DeviceResult") -> list[str]:
    """What was measured on what, and what to be careful about."""
    rows, measured = result.rows, result.measurement
    first = rows[0]
    lines = [f"{result.identity.name}, {result.identity.soc or result.identity.architecture}: {first['runner']} "
             f"({first['runner_version']}), {measured.rounds} interleaved rounds, {measured.seconds:.0f} s of which "
             f"{measured.overhead:.0%} were not measuring{_waited(measured.waited)}.",
             f"Before: {measured.states[0].state.sentence()}. After: {measured.states[-1].state.sentence()}."]
    load = other_load(measured.states[0].state.processes, measured.states[-1].state.processes)
    lines += [f"Other processes took {load.sentence()} during the measurement."] if load else []
    lines += profile_lines(rows)
    lines.append("A program started from a shell is not an app: an app may be scheduled differently, above all on a GPU.")
    for row in rows:
        label = f"{Path(row['file']).name}, threads {row['threads']}"
        lines += [f"Warning: {label}: {text}." for text in (*row["flags"], *row["warnings"])]
    return lines


def profile_lines(rows: Sequence[Record]) -> list[str]:
    """A line for each row whose operators were timed: its slowest blocks, and what all of them add up to."""
    from mnv3_tf.export.benchmark.runners.operators import time_by_block

    lines = []
    for row in rows:
        profile = row.get("profile")
        if not profile or profile["problem"] or not profile["sum_ms"]:
            continue
        slowest = sorted(time_by_block(row["ops"]).items(), key=lambda item: -item[1])[:_BLOCKS_SAID]
        said = ", ".join(f"{block} {time / profile['sum_ms']:.0%}" for block, time in slowest)
        lines.append(f"{Path(row['file']).name}, threads {row['threads']}: {said}. The operators add up to "
                     f"{ms(profile['sum_ms'])} ms, {profile['of_median']:.0%} of the median.")
    return lines


def _waited(seconds: float) -> str:
    return f", and {seconds:.0f} s of cooling down" if seconds >= 1 else ""
