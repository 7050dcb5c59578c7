"""Percentiles, and the ratio of two latencies with an interval that says how far it can be trusted."""

import math
from collections.abc import Sequence
from typing import Any

#: With fewer rounds than this the interval says too little for a verdict.
MIN_ROUNDS = 4
# Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom; the normal distribution's is 1.96.
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_NORMAL = 1.96
_MOST_DRAWN = 500


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of values in any order, interpolated linearly between neighbours."""
    import numpy as np

    if not values:
        raise ValueError("no values")
    return float(np.percentile(values, percent))


def ratio_with_interval(a_rounds: Sequence[Sequence[float]], b_rounds: Sequence[Sequence[float]], *,
                        resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """median(a) / median(b) with a 95% interval from a bootstrap over paired rounds.

    A resample draws rounds with replacement, the same ones for `a` and `b` (what disturbed a round disturbed both), and
    then runs within each drawn round, at most 500 of them: what is left of a median's error then is far below the rounds'
    differences. A bootstrap of so few rounds gives too short an interval; it is widened about the ratio by sqrt(n / (n - 1))
    and by Student's t for n rounds.

    Args:
        a_rounds: milliseconds, a_rounds[round][run].
        b_rounds: the same for the baseline; as many rounds.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Returns:
        (ratio, low, high).
    """
    import numpy as np

    if len(a_rounds) != len(b_rounds) or not a_rounds:
        raise ValueError("both need the same rounds, and at least one")
    random = np.random.default_rng(seed)
    a = [np.asarray(times, dtype=np.float64) for times in a_rounds]
    b = [np.asarray(times, dtype=np.float64) for times in b_rounds]
    ratio = float(np.median(np.concatenate(a)) / np.median(np.concatenate(b)))
    logs = np.empty(resamples)
    for draw in range(resamples):
        drawn = random.integers(len(a), size=len(a))
        medians = [_median(np.concatenate([side[index][random.integers(side[index].size, size=min(side[index].size, _MOST_DRAWN))]
                                           for index in drawn])) for side in (a, b)]
        logs[draw] = math.log(medians[0] / medians[1])
    low, high = np.quantile(logs, [0.025, 0.975])
    middle, n, wider = math.log(ratio), len(a), 1.0
    if n > 1:
        wider = math.sqrt(n / (n - 1)) * (_STUDENT[n - 2] if n - 2 < len(_STUDENT) else _NORMAL) / _NORMAL
    return ratio, math.exp(middle - wider * max(middle - low, 0.0)), math.exp(middle + wider * max(high - middle, 0.0))


def _median(values: Any) -> float:
    """The median of an array, which is put into another order: a third of the time of NumPy's for few values."""
    above, below = values.size // 2, (values.size - 1) // 2
    values.partition((below, above))
    return float(0.5 * (values[below] + values[above]))
