"""Limits on results: "median_ms < 8 @ adb"."""

import fnmatch
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.store import COUNTED, Record, name_of, targets
from mnv3_tf.text import nearest

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
FIELDS = ("median_ms", "mean_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "init_ms", "first_ms", "peak_memory_mb",
          "spread", "drift", "partitions", "size_bytes", "runs", *COUNTED)


@dataclass(frozen=True)
class Limit:
    """A limit.

    Attributes:
        text: as the user wrote it.
        field: of the record.
        sign: "<", "<=", ">", ">=" or "==".
        number: to compare with.
        target: the targets that it is for, with wildcards; "" for all.
    """

    text: str
    field: str
    sign: str
    number: float
    target: str


def parse_limit(text: str) -> Limit:
    """Reads a limit.

    Raises:
        InputError: it is not a limit, or names an unknown field.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|==|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?:@\s*(\S+)\s*)?", text)
    if not match:
        raise InputError(f"--gate {text!r}: is not a limit. Write it as \"median_ms < 8\", or \"median_ms < 8 @ adb\".")
    field, sign, number, target = match.groups()
    if field not in FIELDS:
        raise InputError(f"--gate {text!r}: unknown field {field!r}{nearest(field, FIELDS) or '.'} Fields: {', '.join(FIELDS)}.")
    return Limit(text, field, sign, float(number), target or "")


def check_limit(limit: Limit, records: Sequence[Record]) -> list[str]:
    """What does not hold, a line each; a limit that is for no row does not hold either."""
    meant = [record for record in records if not limit.target or record["target"].startswith(f"{limit.target}:") or
             fnmatch.fnmatch(record["target"], limit.target)]
    if not meant:
        return [f"{limit.text}: there is no row of {limit.target} (rows are of {', '.join(targets(records))})"]
    lines = []
    for record in meant:
        value = record.get(limit.field)
        if value is None:
            reason = record.get("failure") or f"{record['runner']} does not give it"
            lines.append(f"{limit.text}: {name_of(record)} has no {limit.field} ({reason})")
        elif not _OPERATORS[limit.sign](float(value), limit.number):
            lines.append(f"{limit.text}: {name_of(record)} has {value if isinstance(value, int) else format(value, 'g')}")
    return lines
