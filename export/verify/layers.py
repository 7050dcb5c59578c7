"""Every tensor of a `.tflite` file beside the float network's, under the network's own names."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mnv3_tf.export.convert.placement import Placed, detect_lowering, place
from mnv3_tf.files import plain_fields
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, input_units
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.lowering import LoweredGraph, lower, range_rule
from mnv3_tf.tflite.file import TfliteFile, parse_tflite
from mnv3_tf.tflite.runtime import LiteRTModel

# A channel whose largest weight is so many times that of the median channel, or the median so many times the channel's.
OUTLIER_RATIO = 16.0
_CHUNK_BYTES = 400_000_000


@dataclass(frozen=True)
class Channels:
    """A kernel channel by channel, in the network's own units.

    Attributes:
        smallest, median, largest: of the channels' largest absolute weights.
        outliers: (channel, its largest absolute weight over the median channel's), the furthest first.
        sqnr_db: of the file's kernel against the float model's.
    """

    smallest: float
    median: float
    largest: float
    outliers: tuple[tuple[int, float], ...]
    sqnr_db: float


@dataclass(frozen=True)
class LayerRow:
    """One tensor of the file. Values are in the network's own units.

    Attributes:
        name: of the layer that makes it, such as "block_07/depthwise".
        kind: of the operation.
        sqnr_db: signal to noise against the float model's tensor, with all the noise from before, on the median picture.
        own_sqnr_db: signal to noise that this operation adds: the float operation on the file's own inputs is the reference.
        low, high: the range of the file's 8 bits; None where the tensor is no 8-bit one.
        seen_low, seen_high: extremes of the float model's tensor on the pictures.
        needed_low, needed_high: of these, the part that matters (hard-swish is 0 below -3).
        saturated: share of the float model's values that matter and lie outside of the range.
        channels: of its kernel, None without one.
    """

    name: str
    kind: str
    sqnr_db: float
    own_sqnr_db: float
    low: float | None
    high: float | None
    seen_low: float
    seen_high: float
    needed_low: float
    needed_high: float
    saturated: float
    channels: Channels | None = None

    @property
    def range_excess(self) -> float | None:
        """How many times wider the range is than what the pictures show."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / max(self.needed_high - self.needed_low, 1e-12)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite ratio is null."""
        return {**plain_fields(self), "range_excess": self.range_excess}


@dataclass(frozen=True)
class LayerTable:
    """All tensors of a file in order of computation.

    Attributes:
        layers: the tensors; empty where the file's operations are not the network's.
        refused: why they are not, or "".
        pictures: how many were run.
        stem: the file's first tensor on these pictures, (n, h, w, c) in the network's own units; None where refused.
        placed: where the network's operations are in the file.
    """

    layers: tuple[LayerRow, ...]
    refused: str = ""
    pictures: int = 0
    stem: np.ndarray | None = field(default=None, repr=False)
    placed: tuple[Placed, ...] = field(default=(), repr=False)

    def worst_first(self) -> list[LayerRow]:
        """By signal to noise against the float model."""
        return sorted(self.layers, key=lambda layer: layer.sqnr_db)

    def __getitem__(self, name: str) -> LayerRow:
        return next(layer for layer in self.layers if layer.name == name)


def examine_layers(content: bytes, float_graph: FoldedGraph, own_graph: FoldedGraph | None, pixels: np.ndarray,
                   advance: Callable[[int], None] = lambda done: None) -> LayerTable:
    """Runs pictures through the file and the float network, and compares every tensor.

    Args:
        content: the bytes of a `.tflite` file.
        float_graph: the folded float model.
        own_graph: the folded network with the quantized run's weights; None: the float model's.
        pixels: uint8 (n, height, width, 3).
        advance: told the number of pictures done.
    """
    file = parse_tflite(content)
    lowering = detect_lowering(file)
    lowered = lower(float_graph, lowering)
    placed = place(file, lowered)
    if isinstance(placed, str):
        return LayerTable((), placed)
    model = LiteRTModel(content, delegate="none", keep_tensors=True)
    network, own = LoweredNetwork(lowered), LoweredNetwork(lower(own_graph or float_graph, lowering))
    tensors = [_Tensor(item, lowered) for item in placed]
    names = [item.op.name for item in placed]
    size = int(max(1, min(16, _CHUNK_BYTES // (12 * sum(math.prod(item.output.shape) for item in placed)))))
    stem = []
    for start in range(0, len(pixels), size):
        chunk = pixels[start:start + size]
        inputs = input_units(float_graph, chunk)
        reference = network.tensors(names, inputs)
        found = {lowered.ops[0].name: inputs, **_values(model, placed, chunk)}
        for tensor, expected in zip(tensors, reference, strict=True):
            op = tensor.item.op
            alone = own.apply(op, [found[source] for source in op.inputs])
            tensor.add(*(values / op.tensor_factor for values in (expected, alone, found[op.name])))
        stem.append(found[names[0]] / placed[0].op.tensor_factor)
        advance(start + len(chunk))
    return LayerTable(tuple(tensor.layer(lowered, file) for tensor in tensors), pictures=len(pixels), stem=np.concatenate(stem),
                      placed=tuple(placed))


def _values(model: LiteRTModel, placed: list[Placed], pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The file's tensors of some pictures, dequantized, by operation."""
    rows: dict[str, list[np.ndarray]] = {item.op.name: [] for item in placed}
    for picture in pixels:
        model.predict(picture[None])
        for item in placed:
            rows[item.op.name].append(model.real_values(item.output.index))
    return {name: np.concatenate(parts) for name, parts in rows.items()}


class _Tensor:
    """What is added up over the pictures for one tensor."""

    def __init__(self, item: Placed, lowered: LoweredGraph):
        self.item, self.range, op = item, _range(item), item.op
        # Below this the tensor's values do not matter; in the network's own units.
        self.floor = None if op.source is None or op.kind == "flatten" else range_rule(lowered.folded, lowered.folded[op.name])[0]
        self.powers: list[np.ndarray] = []
        self.seen_low, self.seen_high = math.inf, -math.inf
        self.outside = self.values = 0

    def add(self, reference: np.ndarray, expected: np.ndarray, found: np.ndarray) -> None:
        """The float model's values, those of the operation on the file's own inputs, and the file's."""
        self.seen_low, self.seen_high = min(self.seen_low, float(reference.min())), max(self.seen_high, float(reference.max()))
        if self.floor is not None:
            reference, expected = np.maximum(reference, self.floor), np.maximum(expected, self.floor)
            if self.item.output.dtype == "float32":  # 8 bits end there by their range
                found = np.maximum(found, self.floor)
        self.powers.append(np.array([[power(of_picture) for of_picture in values] for values in
                                     (reference, found - reference, expected, found - expected)]))
        low, high = self.range
        if low is not None and high is not None:
            half = (high - low) / 510
            self.outside += int(((reference < low - half) | (reference > high + half)).sum())
        self.values += reference.size

    def layer(self, lowered: LoweredGraph, file: TfliteFile) -> LayerRow:
        """The sums in the units of the report."""
        op, floor, powers = self.item.op, self.floor, np.concatenate(self.powers, axis=1)
        return LayerRow(
            name=op.name, kind=op.kind, sqnr_db=_median_db(*powers[:2]), own_sqnr_db=_median_db(*powers[2:]),
            low=self.range[0], high=self.range[1],
            seen_low=self.seen_low, seen_high=self.seen_high,
            needed_low=min(0.0, self.seen_low if floor is None else max(floor, self.seen_low)),
            needed_high=max(0.0, self.seen_high), saturated=self.outside / max(self.values, 1),
            channels=_channels(self.item, lowered, file) if op.kind in ("conv", "depthwise") else None)


def _median_db(signal: np.ndarray, noise: np.ndarray) -> float:
    """The median picture's signal to noise: by sums, a few odd pictures would be all that is looked at.

    A picture on which the tensor is smaller than usual has the usual signal: 8 bits are no finer for it.
    """
    usual = np.median(signal) or signal.mean()
    return ratio_db(1.0, float(np.median(noise / np.maximum(signal, usual)))) if usual else ratio_db(0.0, float(noise.sum()))


def _channels(item: Placed, lowered: LoweredGraph, file: TfliteFile) -> Channels:
    """The channels of a convolution's kernel beside the float model's."""
    scale = item.op.kernel_scale
    kernel, expected = item.kernel_and_bias(file)[0] / scale, lowered.weights(item.op)[0] / scale
    size = np.abs(by_channel(kernel, item.op.kind)).max(axis=1)
    median = float(np.median(size))
    ratio = size / max(median, 1e-12)
    odd = [int(i) for i in np.argsort(-np.abs(np.log(np.maximum(ratio, 1e-12))))
           if not 1 / OUTLIER_RATIO <= ratio[i] <= OUTLIER_RATIO]
    return Channels(float(size.min()), median, float(size.max()), tuple((i, float(ratio[i])) for i in odd),
                    ratio_db(power(expected), power(kernel - expected)))


def by_channel(kernel: np.ndarray, kind: str) -> np.ndarray:
    """A kernel as (output channels, weights of each)."""
    turned = np.moveaxis(kernel, 2 if kind == "depthwise" else 3, 0)
    return turned.reshape(len(turned), -1)


def _range(item: Placed) -> tuple[float | None, float | None]:
    """The least and greatest value that the 8 bits of a tensor can hold, in the network's own units."""
    tensor = item.output
    if tensor.dtype not in ("int8", "uint8") or len(tensor.scales) != 1:
        return None, None
    limits = np.iinfo(tensor.dtype)
    low, high = ((end - tensor.zero_points[0]) * tensor.scales[0] / item.op.tensor_factor for end in (limits.min, limits.max))
    return float(low), float(high)


def power(values: np.ndarray) -> float:
    """The sum of the squares."""
    return float(np.square(values, dtype=np.float64).sum())


def ratio_db(signal: float, noise: float) -> float:
    """Signal to noise in decibels; infinite without noise."""
    return 10 * math.log10(max(signal, 1e-300) / noise) if noise else math.inf


def decibels(value: float) -> str:
    """A ratio as people read it."""
    return f"{value:.1f} dB" if math.isfinite(value) else "exact"
