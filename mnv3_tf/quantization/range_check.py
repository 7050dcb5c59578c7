"""Whether ranges suit pictures: what `quantize` looks at before it ends, and `verify` in the file."""

from dataclasses import dataclass

import numpy as np

from mnv3_tf.config import VerifyConfig
from mnv3_tf.network.layer_names import display_name
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges, input_units
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.lowering import lower, range_rule

_CHUNK = 16
# A range that is made to fit the pictures looked at is this share of the widest allowed, for others need a little less.
_FITTING = 0.75


@dataclass(frozen=True)
class RangeProblem:
    """A range that is much wider than pictures need, or cuts off many of their values.

    Attributes:
        name: of the tensor.
        text: what is wrong.
        score: the worse, the higher.
        fitting: the range, narrowed to what is allowed; None where it is not too wide.
    """

    name: str
    text: str
    score: float
    fitting: tuple[float, float] | None = None


def judge_range(name: str, ends: tuple[float, float], needed: tuple[float, float], saturated: float,
                limits: VerifyConfig) -> list[RangeProblem]:
    """Compares a range with what pictures need.

    Args:
        name: of the tensor.
        ends: the range.
        needed: the extremes of the values that matter, widened to hold 0.
        saturated: share of the values that lie outside of the range.
        limits: `range_excess` and `saturated_share` are used.
    """
    found, excess = [], (ends[1] - ends[0]) / max(needed[1] - needed[0], 1e-12)
    span, need = (f"{low:.3g} to {high:.3g}" for low, high in (ends, needed))
    if excess > limits.range_excess and ends[1] - ends[0] > 2e-3:
        most = _FITTING * limits.range_excess
        found.append(RangeProblem(
            name, f"its range {span} is {excess:.1f} times wider than what the pictures need ({need}), so only "
            f"{max(255 / excess, 1):.0f} of 255 steps are used; allowed are {limits.range_excess:g} times (verify.range_excess)",
            excess, (max(ends[0], most * needed[0]), min(ends[1], most * needed[1]))))
    if saturated > limits.saturated_share:
        found.append(RangeProblem(
            name, f"its range {span} cuts off {saturated:.1%} of its values (they reach from {need}); allowed are "
            f"{limits.saturated_share:.1%} (verify.saturated_share)", 100 * saturated))
    return found


class RangeCheck:
    """The ranges of a quantized network beside what the float network needs.

    Args:
        graph: the float network, its channels divided as those of the quantized one are.
        pixels: uint8 (n, height, width, 3), of some pictures that did not calibrate.
        limits: what is allowed.
    """

    def __init__(self, graph: FoldedGraph, pixels: np.ndarray, limits: VerifyConfig):
        self._graph, self._pixels, self._limits = graph, pixels, limits

    def narrow(self, ranges: Ranges) -> list[str]:
        """Narrows what is too wide, in place; returns what was done, a line for each of the first three."""
        problems = [problem for problem in self._look(ranges) if problem.fitting]
        ranges.update({problem.name: problem.fitting for problem in problems if problem.fitting})
        return _shortened([f"range, {display_name(problem.name)}: narrowed, for {problem.text}" for problem in problems])

    def problems(self, ranges: Ranges) -> list[str]:
        """What `verify` would find, the worst three a line each, and how many more there are."""
        return _shortened([f"range, {display_name(problem.name)}: {problem.text}" for problem in self._look(ranges)])

    def _look(self, ranges: Ranges) -> list[RangeProblem]:
        """All that is wrong, the worst first."""
        network = LoweredNetwork(lower(self._graph, "native"))
        seen: dict[str, list[tuple[float, float, float]]] = {}
        for start in range(0, len(self._pixels), _CHUNK):
            for op, tensor in network.walk(input_units(self._graph, self._pixels[start:start + _CHUNK])):
                if op.name not in ranges or (rule := range_rule(self._graph, self._graph[op.name]))[1] is not None:
                    continue
                values = np.asarray(tensor) / op.tensor_factor
                values, (low, high) = values if rule[0] is None else np.maximum(values, rule[0]), ranges[op.name]
                half = (high - low) / 510
                outside = ((values < low - half) | (values > high + half)).mean()
                seen.setdefault(op.name, []).append((float(values.min()), float(values.max()), float(outside) * len(values)))
        found = []
        for name, rows in seen.items():
            lows, highs, outsides = zip(*rows, strict=True)
            found += judge_range(name, ranges[name], (min(0.0, *lows), max(0.0, *highs)), sum(outsides) / len(self._pixels),
                                 self._limits)
        return sorted(found, key=lambda problem: -problem.score)


def spread(total: int, count: int) -> list[int]:
    """The numbers of some pictures of all, evenly spread."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).astype(int).tolist()))


def _shortened(lines: list[str]) -> list[str]:
    return [*lines[:3], f"range: {len(lines) - 3} more of this kind"] if len(lines) > 3 else lines
