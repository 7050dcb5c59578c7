"""Limits on results: "median_ms < 8 @ adb"."""

import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.store import Record, name_of, targets
from mnv3_tf.text import nearest

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
FIELDS = ("median_ms", "mean_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "init_ms", "first_ms", "peak_memory_mb",
          "spread", "drift", "partitions", "size_bytes", "runs")


@dataclass(frozen=True)
class Gate:
    """A limit.

    Attributes:
        text: as the user wrote it.
        field: of the record.
        sign: "<", "<=", ">", ">=" or "==".
        limit: the number.
        target: the targets that it is for, with wildcards; "" for all.
    """

    text: str
    field: str
    sign: str
    limit: float
    target: str


def parse_gate(text: str) -> Gate:
    """Reads a gate.

    Raises:
        InputError: it is not a limit, or names an unknown field.
    """
    match = re.fullmatch(r"\s*([A-Za-z_0-9]+)\s*(<=|>=|==|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(?:@\s*(\S+)\s*)?", text)
    if not match:
        raise InputError(f"--gate {text!r}: is not a limit. Write it as \"median_ms < 8\", or \"median_ms < 8 @ adb\".")
    field, sign, limit, target = match.groups()
    if field not in FIELDS:
        raise InputError(f"--gate {text!r}: unknown field {field!r}{nearest(field, FIELDS) or '.'} Fields: {', '.join(FIELDS)}.")
    return Gate(text, field, sign, float(limit), target or "")


def check_gate(gate: Gate, records: Sequence[Record]) -> list[str]:
    """What does not hold, a line each; a gate that is for no row does not hold either."""
    meant = [record for record in records if _is_for(gate, record["target"])]
    if not meant:
        return [f"{gate.text}: there is no row of {gate.target} (rows are of {', '.join(targets(records))})"]
    lines = []
    for record in meant:
        value = record.get(gate.field)
        if value is None:
            reason = record.get("failure") or f"{record['runner']} does not give it"
            lines.append(f"{gate.text}: {name_of(record)} has no {gate.field} ({reason})")
        elif not _OPERATORS[gate.sign](float(value), gate.limit):
            lines.append(f"{gate.text}: {name_of(record)} has {value:g}")
    return lines


def _is_for(gate: Gate, target: str) -> bool:
    return not gate.target or target.startswith(f"{gate.target}:") or fnmatch.fnmatch(target, gate.target)
