"""How rows compare, by latency or count: those of one measurement with its baseline, and two sets of results, for regressions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.statistics import MIN_ROUNDS, ratio_with_interval
from mnv3_tf.export.benchmark.store import COUNTED, Record, figure, name_of

#: Two loads of one and the same file differ by up to this much (measured: 1.6%; where their memory lies), so a smaller
#: difference says nothing about the file.
SAME_FILE_MARGIN = 1.02
# What of two rows that are compared should be the same, and is said where it is not.
_SHOULD_AGREE = ("runner", "runner_sha256", "delegate", "partitions", "build_fingerprint", "architecture")
_MORE = "more"
#: Ratio, low, high, verdict.
Ratio = tuple[float | None, float | None, float | None, str]


@dataclass(frozen=True)
class Comparison:
    """A row's latency, or count, relative to the baseline file's, measured together with it in the same place.

    Attributes:
        file, target, threads, cores: the row.
        baseline: the file that it is compared with.
        ratio: below 1 is faster; None where either failed or is missing.
        low, high: the 95% interval, None where only summaries are known, or the rounds are not the same number.
        verdict: "faster" or "slower" only where the whole interval is further from 1 than two loads of one file can be
            (:data:`SAME_FILE_MARGIN`); else "no difference shown", "too few rounds", or why there is no ratio or interval.
            Counts are exact: "fewer instructions", "more instructions" or "as many instructions".
    """

    file: str
    target: str
    threads: int
    cores: str
    baseline: str
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class Change:
    """A row of the new results beside that of the old ones.

    Attributes:
        name: of the row, in words.
        ratio, low, high, verdict: new / old, as in :class:`Comparison`.
        regression: slower, or more of what is counted, and by more than the threshold; or it fails, and did not before.
        differs: what else is not the same.
    """

    name: str
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str
    regression: bool = False
    differs: tuple[str, ...] = ()


def comparisons(records: Sequence[Record], baseline: str) -> list[Comparison]:
    """Each row's latency, or count, relative to the baseline file's on the same target, with the same threads and cores.

    Args:
        records: measured together.
        baseline: the file's path as in the records.

    Raises:
        InputError: `baseline` is not one of the measured files.
    """
    baseline, files = str(Path(baseline)), dict.fromkeys(record["file"] for record in records)
    if records and baseline not in files:
        raise InputError(f"{baseline}: is not among the measured files ({', '.join(files)}).")
    found = []
    for record in records:
        base = next((other for other in records if other["file"] == baseline and _place(other) == _place(record)), None)
        ratio: Ratio = (1.0, 1.0, 1.0, "baseline")
        if record["failure"] or base is None:
            ratio = (None, None, None, "failed" if record["failure"] else "no baseline")
        elif base is not record:
            ratio = ratio_of(record, base, "no baseline")
        found.append(Comparison(record["file"], record["target"], record["threads"], record["cores"], baseline, *ratio))
    return found


def _place(record: Record) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("target", "threads", "cores", "delegate_asked", "runner"))


def ratio_of(row: Record, base: Record, otherwise: str) -> Ratio:
    """Compares a row with another; the verdict is `otherwise` where they are not about the same, or one has no figure."""
    (name, ours), (base_name, theirs) = figure(row), figure(base)
    if row["failure"] or base["failure"] or ours is None or not theirs or name != base_name:
        return None, None, None, otherwise
    if name in COUNTED:
        return ours / theirs, None, None, f"{'fewer' if ours < theirs else _MORE if ours > theirs else 'as many'} {COUNTED[name]}"
    samples, base_samples = row["samples_ms"], base["samples_ms"]
    if not samples or not base_samples or len(samples) != len(base_samples):
        return ours / theirs, None, None, "no interval: the runner gives no single runs, or other rounds"
    ratio, low, high = ratio_with_interval(samples, base_samples)
    said = "faster" if high < 1.0 / SAME_FILE_MARGIN else "slower" if low > SAME_FILE_MARGIN else "no difference shown"
    return ratio, low, high, said if len(samples) >= MIN_ROUNDS else "too few rounds"


def in_words(found: Comparison | Change) -> str:
    """Such as "0.52 (0.51 to 0.53) faster"."""
    span = f" ({found.low:.2f} to {found.high:.2f})" if found.low is not None else ""
    return found.verdict if found.ratio is None or found.verdict == "baseline" else f"{found.ratio:.2f}{span} {found.verdict}"


def compare_results(base: Sequence[Record], new: Sequence[Record], threshold: float) -> list[Change]:
    """Compares rows of the same file name, target, threads, cores and delegate; of several such rows the last.

    Args:
        base, new: the results.
        threshold: ratio above which a row that is slower is a regression.
    """
    before, after = ({(Path(record["file"]).name, _place(record)): record for record in records} for records in (base, new))
    changes = [_change(before[key], record, threshold) for key, record in after.items() if key in before]
    for one, other, said in ((after, before, "is new"), (before, after, "is no longer measured")):
        changes += [Change(name_of(record), None, None, None, said) for key, record in one.items() if key not in other]
    return changes


def _change(old: Record, new: Record, threshold: float) -> Change:
    differs = tuple(f"{key} is {new.get(key)!r} and was {old.get(key)!r}" for key in _SHOULD_AGREE
                    if old.get(key) != new.get(key))
    if new["failure"]:
        return Change(name_of(new), None, None, None, f"failed: {new['failure']}", not old["failure"], differs)
    ratio, low, high, verdict = ratio_of(new, old, "failed before")
    worse = verdict == "slower" or verdict.startswith(f"{_MORE} ")
    return Change(name_of(new), ratio, low, high, verdict, worse and (ratio or 0.0) > threshold, differs)
