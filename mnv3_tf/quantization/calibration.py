"""Activation ranges from pictures: where the quantized network's ranges start.

Every tensor's range is cut where the squared error of 8 bits over it is least: a wider range makes larger steps, a narrower
one clips more (Banner et al., "Post training 4-bit quantization", 2019, do this in closed form; here it is counted).

A few odd pictures, on which a tensor is ten times as large as on all others, would spend its levels. They count for less, and
such a tensor's ends reach as far as a share of the pictures do. The error of the logits on pictures that
did not calibrate decides which share.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mnv3_tf.errors import InputError
from mnv3_tf.quantization.calibration_check import RangeGrowth
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges, input_units, picture_weights
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.lowering import lower, range_rule
from mnv3_tf.quantization.range_choice import choose_ranges

# Pixels uint8 (n, height, width, 3) -> the number of every tensor with its values, one after the other.
Look = Callable[[np.ndarray], Iterator[tuple[int, Any]]]

_BINS = 8192
_LEVELS = 255
_SHARES = np.linspace(0.05, 1.0, 96)
# Of each tensor at most so many values per batch enter its histogram; the extremes are taken over all.
_VALUES_PER_BATCH = 1 << 16
# A tensor's range is tried with ends that reach as far as so many of the pictures do, where a few of them make it so many times
# wider than nearly all do. All other ranges may hold what was seen.
_REACHES = (1.0, 0.99, 0.97)
_NEARLY_ALL, _ODD = 0.97, 2.0


@dataclass(frozen=True)
class Calibration:
    """Ranges and how they came about.

    Attributes:
        ranges: (low, high) by folded tensor, in the network's own units.
        pictures: how many were seen.
        convergence: how far the ranges were after some of the pictures.
    """

    ranges: Ranges
    pictures: int
    convergence: tuple[RangeGrowth, ...] = ()


@dataclass(frozen=True)
class _Seen:
    """What the pictures show of every tensor.

    Attributes:
        low, high: extremes of what matters, (pictures, tensors), widened to hold 0.
        power: mean squares of it, (pictures, tensors).
        batches: how many pictures were seen after each batch.
    """

    low: np.ndarray
    high: np.ndarray
    power: np.ndarray
    batches: list[int]

    def reach(self, tensor: int, share: float) -> tuple[float, float]:
        """The ends that a share of the pictures keep within."""
        return (float(np.quantile(self.low[:, tensor], 1 - share, method="higher")),
                float(np.quantile(self.high[:, tensor], share, method="lower")))

    def is_odd(self, tensor: int) -> bool:
        """Whether a few pictures make it much larger than nearly all others do."""
        (low, high), (near_low, near_high) = self.reach(tensor, 1.0), self.reach(tensor, _NEARLY_ALL)
        enough = len(self.low) * (1 - _NEARLY_ALL) >= 1  # of fewer, a single one is no small share
        return enough and high - low > _ODD * (near_high - near_low)


def calibrate(graph: FoldedGraph, batches: Iterable[np.ndarray], advance: Callable[[int], None] = lambda done: None, *,
              deciding: np.ndarray | None = None) -> Calibration:
    """Runs pictures through the folded float network and chooses the range of every tensor.

    Args:
        graph: the network.
        batches: pixels uint8 (n, height, width, 3); iterated twice.
        advance: told the number of pictures done, over both passes.
        deciding: pixels uint8 (n, height, width, 3) of other pictures, by which it is decided how much of the calibration
            pictures' extremes a range should hold; None: those of the first batch.

    Raises:
        InputError: there are no pictures, or they all are the same.
    """
    lowered = lower(graph, "native")
    network = LoweredNetwork(lowered)
    factors = {op.name: op.tensor_factor for op in lowered.ops}
    # A gate's range is fixed, and what feeds it is fused into it.
    names = [op.name for op in graph.ops if op.kind not in ("input", "flatten", "hard_sigmoid")
             and not any(consumer.kind == "hard_sigmoid" for consumer in graph.consumers(op.name))]
    places, rules = {name: place for place, name in enumerate(names)}, [range_rule(graph, graph[name]) for name in names]

    def look(pixels: np.ndarray) -> Iterator[tuple[int, Any]]:
        """The number of every free tensor with its values, (n, values), one after the other."""
        for op, tensor in network.walk(input_units(graph, pixels)):
            if op.name in places:
                yield places[op.name], tf.reshape(tensor / factors[op.name], [len(pixels), -1])

    seen = _extremes([floor for floor, _ in rules], look, batches, advance)
    pictures = len(seen.low)
    counts = _histograms(look, batches, seen, lambda done: advance(pictures + done))

    def best(i: int, *ends: tuple[float, float]) -> tuple[float, float]:
        return _best_range(counts[i], seen.low[:, i].min(), seen.high[:, i].max(), *rules[i], *ends)

    tried = {name: tuple(best(i, seen.reach(i, share)) for share in _REACHES) if seen.is_odd(i) else (best(i),)
             for i, name in enumerate(names)}
    return Calibration(choose_ranges(graph, tried, next(iter(batches)) if deciding is None else deciding), pictures,
                       _convergence(seen))


def _convergence(seen: _Seen) -> tuple[RangeGrowth, ...]:
    """The spans after 1, 2, 4 ... batches as shares of the last."""
    ends = [seen.batches[2 ** i - 1] for i in range(len(seen.batches).bit_length()) if 2 ** i <= len(seen.batches)]
    if ends[-1] != seen.batches[-1]:
        ends.append(seen.batches[-1])
    spans = [seen.high[:pictures].max(axis=0) - seen.low[:pictures].min(axis=0) for pictures in ends]
    shares = [span / np.maximum(spans[-1], 1e-12) for span in spans]
    return tuple(RangeGrowth(pictures, float(share.min()), float(np.median(share)))
                 for pictures, share in zip(ends, shares, strict=True))


def _extremes(floors: Sequence[float | None], look: Look, batches: Iterable[np.ndarray],
              advance: Callable[[int], None]) -> _Seen:
    """Extremes and power of every tensor on every picture; what lies below a tensor's floor does not matter."""
    parts, done = [], [0]
    for pixels in batches:
        found = np.zeros((3, len(pixels), len(floors)))
        for place, values in look(pixels):
            floor = floors[place]
            values = values if floor is None else tf.maximum(values, floor)
            found[:, :, place] = [reduce(made, axis=1) for reduce, made in (
                (tf.reduce_min, values), (tf.reduce_max, values), (tf.reduce_mean, tf.square(values)))]
        parts.append(found)
        done.append(done[-1] + len(pixels))
        advance(done[-1])
    if not parts:
        raise InputError("Calibration: there are no pictures.")
    low, high, power = np.concatenate(parts, axis=1)
    return _Seen(np.minimum(low, 0.0), np.maximum(high, 1e-3), power, done[1:])


def _histograms(look: Look, batches: Iterable[np.ndarray], seen: _Seen, advance: Callable[[int], None]) -> np.ndarray:
    """Counts (tensors, bins) of every tensor's values between its extremes, odd pictures' for less."""
    low, high, weights = seen.low.min(axis=0), seen.high.max(axis=0), picture_weights(seen.power)
    counts = np.zeros((len(low), _BINS))
    done = 0
    for pixels in batches:
        for place, values in look(pixels):
            if values.shape[1] > (most := max(_VALUES_PER_BATCH // len(pixels), 1)):
                # By chance: every n-th value would leave out channels and columns, whenever n has a factor in common with them.
                values = tf.gather(values, tf.random.stateless_uniform([most], (0, 0), 0, values.shape[1], tf.int32), axis=1)
            each = np.repeat(weights[done:done + len(pixels), place], values.shape[1])
            counts[place] += np.histogram(values.numpy().ravel(), bins=_BINS, range=(low[place], high[place]), weights=each)[0]
        done += len(pixels)
        advance(done)
    return counts


def _best_range(counts: np.ndarray, low: float, high: float, floor: float | None, ceiling: float | None,
                ends: tuple[float, float] = (-np.inf, np.inf)) -> tuple[float, float]:
    """The range, cut from [low, high] and within `ends`, with the least squared error of 8 bits over the histogram.

    The low end is cut only where values below the floor do not matter, or together with the high end.
    """
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = max(low, ends[0]) if floor is None else low, min(high, ends[1])
    if floor is not None:
        counts = np.where(centres < floor, 0.0, counts)
        low = max(low, floor)
    if ceiling is not None:
        high = min(high, ceiling)
    total = max(counts.sum(), 1e-30)
    cut_low = _SHARES if floor is None and low < 0 else np.ones(1)
    lows, highs = low * cut_low, high * _SHARES
    below = [(counts * np.maximum(end - centres, 0.0) ** 2).sum() for end in lows]
    above = [(counts * np.maximum(centres - end, 0.0) ** 2).sum() for end in highs]
    steps = (highs - lows[:, None]) / _LEVELS
    errors = (np.array(below)[:, None] + np.array(above)) / total + steps ** 2 / 12
    at_low, at_high = np.unravel_index(errors.argmin(), errors.shape)
    return float(lows[at_low]), float(highs[at_high])
