"""How the latencies of two rows compare: with an interval where every run is known, else as plain numbers."""

from dataclasses import dataclass

from mnv3_tf.export.benchmark.host import verdict
from mnv3_tf.export.benchmark.statistics import ratio_with_interval
from mnv3_tf.export.benchmark.store import Record, latency


@dataclass(frozen=True)
class LatencyRatio:
    """One row's latency / another's.

    Attributes:
        ratio: below 1 is faster.
        low, high: the 95% interval, None where only summaries are known, or the rounds are not the same number.
        verdict: "faster", "slower", "no difference shown", "too few rounds", or why there is no interval.
    """

    ratio: float
    low: float | None
    high: float | None
    verdict: str


def latency_ratio(row: Record, base: Record) -> LatencyRatio | None:
    """Compares a row with another; None where one has no latency."""
    ours, theirs = latency(row), latency(base)
    if row["failure"] or base["failure"] or ours is None or not theirs:
        return None
    samples, base_samples = row["samples_ms"], base["samples_ms"]
    if not samples or not base_samples or len(samples) != len(base_samples):
        return LatencyRatio(ours / theirs, None, None, "no interval: the runner gives no single runs, or other rounds")
    ratio, low, high = ratio_with_interval(samples, base_samples)
    return LatencyRatio(ratio, low, high, verdict(low, high, len(samples)))
