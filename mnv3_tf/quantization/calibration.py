"""Activation ranges from pictures: where the quantized network's ranges start.

Every tensor's range is cut where the squared error of 8 bits over it is least: a wider range makes larger steps, a narrower
one clips more (Banner et al., "Post training 4-bit quantization", 2019, do this in closed form; here it is counted).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mnv3_tf.errors import InputError
from mnv3_tf.quantization.calibration_check import RangeGrowth
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges, input_units
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.lowering import lower, range_rule

# Pixels uint8 (n, height, width, 3) -> the number of every tensor with its values, one after the other.
Look = Callable[[np.ndarray], Iterator[tuple[int, Any]]]

_BINS = 2048
_LEVELS = 255
_SHARES = np.linspace(0.4, 1.0, 61)
# Of each tensor at most so many values per batch enter its histogram; the extremes are taken over all.
_VALUES_PER_BATCH = 1 << 16


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


def calibrate(graph: FoldedGraph, batches: Iterable[np.ndarray],
              advance: Callable[[int], None] = lambda done: None) -> Calibration:
    """Runs pictures through the folded float network and chooses the range of every tensor.

    Args:
        graph: the network.
        batches: pixels uint8 (n, height, width, 3); iterated twice.
        advance: told the number of pictures done, over both passes.

    Raises:
        InputError: there are no pictures, or they all are the same.
    """
    lowered = lower(graph, "native")
    network = LoweredNetwork(lowered)
    factors = {op.name: op.tensor_factor for op in lowered.ops}
    # A gate's range is fixed, and what feeds it is fused into it.
    names = [op.name for op in graph.ops if op.kind not in ("input", "flatten", "hard_sigmoid")
             and not any(consumer.kind == "hard_sigmoid" for consumer in graph.consumers(op.name))]
    places = {name: place for place, name in enumerate(names)}

    def look(pixels: np.ndarray) -> Iterator[tuple[int, Any]]:
        """The number of every free tensor with its values, one after the other."""
        for op, tensor in network.walk(input_units(graph, pixels)):
            if op.name in places:
                yield places[op.name], tensor / factors[op.name]

    span_low, span_high, pictures, spans = _extremes(len(names), look, batches, advance)
    if pictures == 0:
        raise InputError("Calibration: there are no pictures.")
    counts = _histograms(look, batches, span_low, span_high, lambda done: advance(pictures + done))
    ranges = {name: _best_range(counts[i], span_low[i], span_high[i], *range_rule(graph, graph[name]))
              for i, name in enumerate(names)}
    ranges.update({op.name: (0.0, 1.0) for op in graph.ops if op.kind == "hard_sigmoid"})
    return Calibration(ranges, pictures, _convergence(spans))


def _convergence(spans: list[tuple[int, np.ndarray]]) -> tuple[RangeGrowth, ...]:
    """The spans after 1, 2, 4 ... batches as shares of the last."""
    picked = [spans[2 ** i - 1] for i in range(len(spans).bit_length()) if 2 ** i <= len(spans)]
    if picked[-1][0] != spans[-1][0]:
        picked.append(spans[-1])
    shares = [(pictures, span / np.maximum(spans[-1][1], 1e-12)) for pictures, span in picked]
    return tuple(RangeGrowth(pictures, float(share.min()), float(np.median(share))) for pictures, share in shares)


def _extremes(tensors: int, look: Look, batches: Iterable[np.ndarray],
              advance: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray, int, list[tuple[int, np.ndarray]]]:
    """Least and greatest value of every tensor, widened to hold 0; the number of pictures; (pictures, spans) by batch."""
    low = np.zeros(tensors)
    high = np.full(tensors, 1e-3)
    pictures = 0
    spans = []
    for pixels in batches:
        for place, tensor in look(pixels):
            low[place] = min(low[place], float(tf.reduce_min(tensor)))
            high[place] = max(high[place], float(tf.reduce_max(tensor)))
        pictures += len(pixels)
        spans.append((pictures, high - low))
        advance(pictures)
    return low, high, pictures, spans


def _histograms(look: Look, batches: Iterable[np.ndarray], low: np.ndarray, high: np.ndarray,
                advance: Callable[[int], None]) -> np.ndarray:
    """Counts (tensors, bins) of every tensor's values between its extremes."""
    counts = np.zeros((len(low), _BINS))
    done = 0
    for pixels in batches:
        for place, tensor in look(pixels):
            flat = tf.reshape(tensor, [-1])
            if len(flat) > _VALUES_PER_BATCH:
                # By chance: every n-th value would leave out channels and columns, whenever n has a factor in common with them.
                flat = tf.gather(flat, tf.random.stateless_uniform([_VALUES_PER_BATCH], (0, 0), 0, len(flat), tf.int32))
            counts[place] += np.histogram(flat.numpy(), bins=_BINS, range=(low[place], high[place]))[0]
        done += len(pixels)
        advance(done)
    return counts


def _best_range(counts: np.ndarray, low: float, high: float, floor: float | None,
                ceiling: float | None) -> tuple[float, float]:
    """The range, cut from [low, high], with the least squared error of 8 bits over the histogram.

    The low end is cut only where values below the floor do not matter, or together with the high end.
    """
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    if floor is not None:
        counts = np.where(centres < floor, 0.0, counts)
        low = max(low, floor)
    if ceiling is not None:
        high = min(high, ceiling)
    total = max(counts.sum(), 1.0)
    cut_low = _SHARES if floor is None and low < 0 else np.ones(1)
    lows, highs = low * cut_low, high * _SHARES
    below = [(counts * np.maximum(end - centres, 0.0) ** 2).sum() for end in lows]
    above = [(counts * np.maximum(centres - end, 0.0) ** 2).sum() for end in highs]
    steps = (highs - lows[:, None]) / _LEVELS
    errors = (np.array(below)[:, None] + np.array(above)) / total + steps ** 2 / 12
    at_low, at_high = np.unravel_index(errors.argmin(), errors.shape)
    return float(lows[at_low]), float(highs[at_high])
