"""Two sets of results beside each other, for regressions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnv3_tf.export.benchmark.ratio import latency_ratio
from mnv3_tf.export.benchmark.store import Record, name_of

# What of two rows that are compared should be the same, and is said where it is not.
_SHOULD_AGREE = ("runner", "runner_sha256", "delegate", "partitions", "build_fingerprint", "architecture")


@dataclass(frozen=True)
class Change:
    """A row of the new results beside that of the old ones.

    Attributes:
        name: of the row, in words.
        ratio: new latency / old; below 1 is faster; None where either failed or is missing.
        low, high: the 95% interval, None where only summaries are known.
        verdict: "faster", "slower", "no difference shown", or why there is none.
        regression: slower, and by more than the threshold.
        differs: what else is not the same.
    """

    name: str
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str
    regression: bool
    differs: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare_results(base: Sequence[Record], new: Sequence[Record], threshold: float) -> list[Change]:
    """Compares rows of the same file name, target, threads, cores and delegate; of several such rows the last.

    Args:
        base, new: the results.
        threshold: ratio above which a row that is slower is a regression.
    """
    before, after = ({_key(record): record for record in records} for records in (base, new))
    changes = [_change(before[key], record, threshold) for key, record in after.items() if key in before]
    for one, other, said in ((after, before, "is new"), (before, after, "is no longer measured")):
        changes += [Change(name_of(record), None, None, None, said, False, ()) for key, record in one.items() if key not in other]
    return changes


def _key(record: Record) -> tuple[Any, ...]:
    return (Path(record["file"]).name, *(record[key] for key in ("target", "threads", "cores", "delegate_asked", "runner")))


def _change(old: Record, new: Record, threshold: float) -> Change:
    differs = tuple(f"{key} is {new.get(key)!r} and was {old.get(key)!r}" for key in _SHOULD_AGREE
                    if old.get(key) != new.get(key))
    if new["failure"]:
        return Change(name_of(new), None, None, None, f"failed: {new['failure']}", not old["failure"], differs)
    found = latency_ratio(new, old)
    if found is None:
        return Change(name_of(new), None, None, None, "failed before", False, differs)
    return Change(name_of(new), found.ratio, found.low, found.high, found.verdict,
                  found.verdict == "slower" and found.ratio > threshold, differs)
