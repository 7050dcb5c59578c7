"""Activation ranges from pictures: where the quantized network's ranges start.

Every tensor's range is cut where the squared error of 8 bits over it is least: a wider range makes larger steps, a narrower
one clips more (Banner et al., "Post training 4-bit quantization", 2019, do this in closed form; here it is counted).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from mnv3_tf.errors import InputError
from mnv3_tf.quantization.audit import Step
from mnv3_tf.quantization.graph import DeployGraph
from mnv3_tf.quantization.lowering import lower, range_rule
from mnv3_tf.quantization.twin import Ranges, Twin, input_units

_BINS = 2048
_LEVELS = 255
_SHARES = np.linspace(0.4, 1.0, 61)
# Of each tensor at most so many values per batch enter its histogram; the extremes are taken over all.
_VALUES_PER_BATCH = 1 << 16


@dataclass(frozen=True)
class Calibration:
    """Ranges and how they came about.

    Attributes:
        ranges: (low, high) by deploy tensor, in the network's own units.
        pictures: how many were seen.
        convergence: how far the ranges were after some of the pictures.
    """

    ranges: Ranges
    pictures: int
    convergence: tuple[Step, ...] = ()


def calibrate(graph: DeployGraph, batches: Iterable[np.ndarray],
              advance: Callable[[int], None] = lambda done: None) -> Calibration:
    """Runs pictures through the folded float network and chooses the range of every tensor.

    Args:
        graph: the network.
        batches: pixels uint8 (n, height, width, 3); iterated twice.
        advance: told the number of pictures done, over both passes.

    Raises:
        InputError: there are no pictures, or they all are the same.
    """
    lowered = lower(graph, "fused")
    twin = Twin(lowered)
    factors = {op.name: op.tensor_factor for op in lowered.ops}
    names = [op.name for op in graph.ops if op.kind not in ("input", "flatten") and _is_free(graph, op.name)]
    probe = tf_keras.Model(twin.model.input, [twin.model.get_layer(name).output / factors[name] for name in names])
    span_low, span_high, pictures, spans = _extremes(graph, probe, batches, advance)
    if pictures == 0:
        raise InputError("Calibration: there are no pictures.")
    counts = _histograms(graph, probe, batches, span_low, span_high, lambda done: advance(pictures + done))
    ranges: Ranges = {}
    for i, name in enumerate(names):
        ranges[name] = _best_range(counts[i], span_low[i], span_high[i], *range_rule(graph, graph[name]))
    for op in graph.ops:
        if op.kind == "hard_sigmoid":
            ranges[op.name] = 0.0, 1.0
    return Calibration(ranges, pictures, _convergence(spans))


def _convergence(spans: list[tuple[int, np.ndarray]]) -> tuple[Step, ...]:
    """The spans after 1, 2, 4 ... batches as shares of the last."""
    picked = [spans[2 ** i - 1] for i in range(len(spans).bit_length()) if 2 ** i <= len(spans)]
    if picked[-1][0] != spans[-1][0]:
        picked.append(spans[-1])
    steps = []
    for pictures, span in picked:
        share = span / np.maximum(spans[-1][1], 1e-12)
        steps.append(Step(pictures, float(share.min()), float(np.median(share))))
    return tuple(steps)


def _is_free(graph: DeployGraph, name: str) -> bool:
    """Whether a tensor is quantized over a range of its own; a gate's is fixed, and what feeds it is fused into it."""
    op = graph[name]
    return op.kind != "hard_sigmoid" and not any(c.kind == "hard_sigmoid" for c in graph.consumers(name))


def _extremes(graph: DeployGraph, probe: Any, batches: Iterable[np.ndarray],
              advance: Callable[[int], None]) -> tuple[np.ndarray, np.ndarray, int, list[tuple[int, np.ndarray]]]:
    """Least and greatest value of every tensor, widened to hold 0; the number of pictures; (pictures, spans) by batch."""
    @tf.function(reduce_retracing=True, autograph=False)
    def step(inputs: Any) -> tuple[Any, Any]:
        tensors = probe(inputs, training=False)
        return tf.stack([tf.reduce_min(t) for t in tensors]), tf.stack([tf.reduce_max(t) for t in tensors])

    low = np.zeros(len(probe.outputs))
    high = np.full(len(probe.outputs), 1e-3)
    pictures = 0
    spans = []
    for pixels in batches:
        batch_low, batch_high = step(input_units(graph, pixels))
        low, high = np.minimum(low, batch_low), np.maximum(high, batch_high)
        pictures += len(pixels)
        spans.append((pictures, high - low))
        advance(pictures)
    return low, high, pictures, spans


def _histograms(graph: DeployGraph, probe: Any, batches: Iterable[np.ndarray], low: np.ndarray, high: np.ndarray,
                advance: Callable[[int], None]) -> np.ndarray:
    """Counts (tensors, bins) of every tensor's values between its extremes."""
    @tf.function(reduce_retracing=True, autograph=False)
    def sample(inputs: Any) -> list[Any]:
        picked = []
        for tensor in probe(inputs, training=False):
            flat = tf.reshape(tensor, [-1])
            # By chance: every n-th value would leave out channels and columns, whenever n has a factor in common with them.
            places = tf.random.stateless_uniform([_VALUES_PER_BATCH], (0, 0), 0, tf.size(flat), tf.int32)
            picked.append(tf.cond(tf.size(flat) > _VALUES_PER_BATCH, lambda v=flat, at=places: tf.gather(v, at),
                                  lambda v=flat: v))
        return picked

    counts = np.zeros((len(low), _BINS))
    done = 0
    for pixels in batches:
        for i, values in enumerate(sample(input_units(graph, pixels))):
            counts[i] += np.histogram(values.numpy(), bins=_BINS, range=(low[i], high[i]))[0]
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
    best = (np.inf, low, high)
    for low_share in cut_low:
        below = np.maximum(low * low_share - centres, 0.0)
        for high_share in _SHARES:
            above = np.maximum(centres - high * high_share, 0.0)
            step = (high * high_share - low * low_share) / _LEVELS
            error = float((counts * (below + above) ** 2).sum() / total + step * step / 12)
            if error < best[0]:
                best = (error, low * low_share, high * high_share)
    return float(best[1]), float(best[2])
