"""Every tensor of a `.tflite` file beside the float network's, under the network's own names."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mnv3_tf.export.convert.placement import Placed, detect_lowering, place
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, input_units
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.lowering import LoweredGraph, LoweredOp, lower, range_rule
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
class Layer:
    """One tensor of the file. Values are in the network's own units.

    Attributes:
        name: of the layer that makes it, such as "block_07/depthwise".
        kind: of the operation.
        sqnr_db: signal to noise against the float model's tensor, with all the noise from before.
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
        plain = asdict(self)
        for key in ("sqnr_db", "own_sqnr_db"):
            plain[key] = plain[key] if math.isfinite(plain[key]) else None
        if self.channels and not math.isfinite(self.channels.sqnr_db):
            plain["channels"]["sqnr_db"] = None
        return {**plain, "range_excess": self.range_excess}


@dataclass
class _Sums:
    """What is added up over the pictures for one tensor."""

    signal: float = 0.0
    noise: float = 0.0
    own_signal: float = 0.0
    own_noise: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    outside: int = 0
    values: int = 0


@dataclass(frozen=True)
class LayerTable:
    """All tensors of a file in order of computation.

    Attributes:
        layers: the tensors; empty where the file's operations are not the network's.
        refused: why they are not, or "".
        pictures: how many were run.
        stem: the file's first tensor on these pictures, (n, h, w, c) in the network's own units; None where refused.
    """

    layers: tuple[Layer, ...]
    refused: str = ""
    pictures: int = 0
    stem: np.ndarray | None = field(default=None, repr=False)

    def worst_first(self) -> list[Layer]:
        """By signal to noise against the float model."""
        return sorted(self.layers, key=lambda layer: layer.sqnr_db)

    def __getitem__(self, name: str) -> Layer:
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
    return _Examination(content, file, lowered, lower(own_graph or float_graph, lowering), placed).table(pixels, advance)


class _Examination:
    def __init__(self, content: bytes, file: TfliteFile, lowered: LoweredGraph, own: LoweredGraph, placed: list[Placed]):
        self.file, self.lowered, self.placed = file, lowered, placed
        self.model = LiteRTModel(content, delegate="none", keep_tensors=True)
        self.network, self.own = LoweredNetwork(lowered), LoweredNetwork(own)
        self.sums = {item.op.name: _Sums() for item in placed}
        self.floors = {item.op.name: self._floor(item.op) for item in placed}
        self.stem: list[np.ndarray] = []

    def _floor(self, op: LoweredOp) -> float | None:
        """Below this the tensor's values do not matter; in the network's own units."""
        if op.source is None or op.kind == "flatten":
            return None
        return range_rule(self.lowered.folded, self.lowered.folded[op.name])[0]

    def table(self, pixels: np.ndarray, advance: Callable[[int], None]) -> LayerTable:
        done = 0
        for chunk in self._chunks(pixels):
            self._add(chunk)
            done += len(chunk)
            advance(done)
        layers = tuple(self._layer(item) for item in self.placed)
        return LayerTable(layers, pictures=len(pixels), stem=np.concatenate(self.stem))

    def _chunks(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        values = sum(math.prod(item.output.shape) for item in self.placed)
        size = int(max(1, min(16, _CHUNK_BYTES // (values * 4 * 3))))
        for start in range(0, len(pixels), size):
            yield pixels[start:start + size]

    def _add(self, pixels: np.ndarray) -> None:
        names = [item.op.name for item in self.placed]
        reference = dict(zip(names, self.network.tensors(names, input_units(self.lowered.folded, pixels)), strict=True))
        found = self._run(pixels)
        for item in self.placed:
            name, factor = item.op.name, item.op.tensor_factor
            inputs = [input_units(self.lowered.folded, pixels) if source == self.lowered.ops[0].name else found[source]
                      for source in item.op.inputs]
            expected = self.own.apply(item.op, inputs)
            self._sum(item, reference[name] / factor, expected / factor, found[name] / factor)
        first = self.placed[0].op
        self.stem.append(found[first.name] / first.tensor_factor)

    def _run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The file's tensors of some pictures, dequantized, by operation."""
        rows: dict[str, list[np.ndarray]] = {item.op.name: [] for item in self.placed}
        for picture in pixels:
            self.model.predict(picture[None])
            for item in self.placed:
                rows[item.op.name].append(self.model.real_values(item.output.index))
        return {name: np.concatenate(parts) for name, parts in rows.items()}

    def _sum(self, item: Placed, reference: np.ndarray, expected: np.ndarray, found: np.ndarray) -> None:
        sums, floor = self.sums[item.op.name], self.floors[item.op.name]
        sums.low, sums.high = min(sums.low, float(reference.min())), max(sums.high, float(reference.max()))
        if floor is not None:
            reference, expected = np.maximum(reference, floor), np.maximum(expected, floor)
            if item.output.dtype == "float32":  # 8 bits end there by their range
                found = np.maximum(found, floor)
        sums.signal += _power(reference)
        sums.noise += _power(found - reference)
        sums.own_signal += _power(expected)
        sums.own_noise += _power(found - expected)
        low, high = _range(item)
        if low is not None and high is not None:
            half = (high - low) / 510
            sums.outside += int(((reference < low - half) | (reference > high + half)).sum())
        sums.values += reference.size

    def _layer(self, item: Placed) -> Layer:
        sums, floor = self.sums[item.op.name], self.floors[item.op.name]
        low, high = _range(item)
        return Layer(
            name=item.op.name, kind=item.op.kind, sqnr_db=_decibels(sums.signal, sums.noise),
            own_sqnr_db=_decibels(sums.own_signal, sums.own_noise), low=low, high=high, seen_low=sums.low,
            seen_high=sums.high, needed_low=min(0.0, sums.low if floor is None else max(floor, sums.low)),
            needed_high=max(0.0, sums.high), saturated=sums.outside / max(sums.values, 1), channels=self._channels(item))

    def _channels(self, item: Placed) -> Channels | None:
        if item.op.kind not in ("conv", "depthwise"):
            return None
        return kernel_channels(item, self.lowered, self.file)


def kernel_channels(item: Placed, lowered: LoweredGraph, file: TfliteFile) -> Channels:
    """The channels of a convolution's kernel beside the float model's."""
    scale = item.op.kernel_scale
    kernel = item.kernel_and_bias(file)[0] / scale
    expected = lowered.weights(item.op)[0] / scale
    size = channel_sizes(kernel, item.op.kind)
    median = float(np.median(size))
    ratio = size / max(median, 1e-12)
    odd = [int(i) for i in np.argsort(-np.abs(np.log(np.maximum(ratio, 1e-12))))
           if not 1 / OUTLIER_RATIO <= ratio[i] <= OUTLIER_RATIO]
    return Channels(float(size.min()), median, float(size.max()), tuple((i, float(ratio[i])) for i in odd),
                    _decibels(_power(expected), _power(kernel - expected)))


def channel_sizes(kernel: np.ndarray, kind: str) -> np.ndarray:
    """The largest absolute weight of each output channel."""
    return np.abs(kernel).max(axis=(0, 1, 3) if kind == "depthwise" else (0, 1, 2))


def _range(item: Placed) -> tuple[float | None, float | None]:
    """The least and greatest value that the 8 bits of a tensor can hold, in the network's own units."""
    tensor = item.output
    if tensor.dtype not in ("int8", "uint8") or len(tensor.scales) != 1:
        return None, None
    limits = np.iinfo(tensor.dtype)
    low, high = ((end - tensor.zero_points[0]) * tensor.scales[0] / item.op.tensor_factor for end in (limits.min, limits.max))
    return float(low), float(high)


def _power(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(max(signal, 1e-300) / noise)


def decibels(value: float) -> str:
    """A ratio as people read it."""
    return f"{value:.1f} dB" if math.isfinite(value) else "exact"
