"""The folded network: the trained network as plain data, with BatchNorm and activations folded into the convolutions.

It computes the same function as the Keras model, in the same units, with a handful of operation kinds. Lowering
(:mod:`mnv3_tf.quantization.lowering`) rewrites it for a target.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.files import save_arrays
from mnv3_tf.network.layer_names import block_of
from mnv3_tf.text import nearest

Kind = Literal["input", "conv", "depthwise", "hard_swish", "hard_sigmoid", "multiply", "add", "pool", "flatten"]
_FORMAT = 1
_SIZES = "channel_sizes/"


@dataclass(frozen=True)
class Op:
    """One operation, named after the Keras layer whose output it computes.

    Attributes:
        name: of the operation and of the tensor that it makes.
        kind: see `Kind`.
        inputs: names of the operations whose outputs it takes.
        kernel: conv (h, w, in, out) or depthwise (h, w, channels, 1), float32.
        bias: (out,) float32.
        stride: of a convolution, both ways.
        padding: "same", "valid", or "symmetric": (kernel - 1) / 2 zeros on every side.
        activation: None, "relu" or "relu6", applied to a convolution's output.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...] = ()
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    stride: int = 1
    padding: str = "same"
    activation: str | None = None


@dataclass(frozen=True)
class FoldedGraph:
    """Operations in the order of computation; the first is the input, the last makes the logits.

    Attributes:
        ops: the operations.
        height, width: of the input in pixels.
        scale, offset: the first convolution expects ``scale * pixel + offset``, with pixels 0..255; an offset for each channel.
            Different scales of the channels are folded into its kernel.
        float_blocks: blocks that stay float where the rest is quantized, in the network's order (:func:`leave_float`).
        split_stem: the stem's hard-swish is computed from two convolutions (see `cross_layer_equalization`).
        channel_sizes: by tensor, (channels,): what its channels are divided by, over the largest; empty as traced.
    """

    ops: tuple[Op, ...]
    height: int
    width: int
    scale: float
    offset: tuple[float, float, float]
    float_blocks: tuple[str, ...] = ()
    split_stem: bool = False
    channel_sizes: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Op:
        return next(op for op in self.ops if op.name == name)

    def consumers(self, name: str) -> list[Op]:
        """The operations that take this one's output."""
        return [op for op in self.ops if name in op.inputs]

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that hold a convolution, in order: ``stem``, ``block_01`` ... ``head``, ``classifier``."""
        return tuple(dict.fromkeys(block_of(op.name) for op in self.ops if op.kernel is not None))

    @property
    def classes(self) -> int:
        """Width of the output."""
        last = [op for op in self.ops if op.kind == "conv"][-1]
        assert last.kernel is not None
        return int(last.kernel.shape[-1])

    @property
    def zero_pixel(self) -> int:
        """The pixel value that integer files represent by the zero that convolutions pad with.

        It is the whole number nearest to what the first convolution itself takes for zero, on average over the channels: 128
        where pixels are mapped to [-1, 1], 114 for ImageNet's mean colour.
        """
        return int(np.clip(np.floor(np.mean([-offset / self.scale for offset in self.offset]) + 0.5), 0, 255))

    def stem_input(self, pixels: np.ndarray) -> np.ndarray:
        """What the first convolution sees of pixels (..., 3): float32, of the same shape."""
        return np.asarray(pixels, np.float32) * np.float32(self.scale) + np.asarray(self.offset, np.float32)


def leave_float(graph: FoldedGraph, blocks: Iterable[str]) -> FoldedGraph:
    """The network with these blocks, and no others, left float.

    Raises:
        InputError: there is no such block; the message names the nearest.
    """
    wanted = set(blocks)
    for name in sorted(wanted.difference(graph.blocks)):
        raise InputError(f"{name!r} is not a block of the network{nearest(name, graph.blocks) or '.'} Blocks: "
                         f"{', '.join(graph.blocks)}.")
    return dataclasses.replace(graph, float_blocks=tuple(name for name in graph.blocks if name in wanted))


def save_graph(path: Path, graph: FoldedGraph, ranges: dict[str, tuple[float, float]]) -> None:
    """Writes a folded network and its activation ranges (in the network's own units) as one ``.npz``, atomically."""
    rows = [{key: value for key, value in vars(op).items() if key not in ("kernel", "bias")} for op in graph.ops]
    arrays: dict[str, Any] = {f"{op.name}/{key}": value for op in graph.ops
                              for key, value in (("kernel", op.kernel), ("bias", op.bias)) if value is not None}
    head = {"format": _FORMAT, "ops": rows, "ranges": ranges,
            **{key: getattr(graph, key) for key in ("height", "width", "scale", "offset", "float_blocks", "split_stem")}}
    arrays.update({f"{_SIZES}{name}": size for name, size in graph.channel_sizes.items()})
    arrays["graph.json"] = np.frombuffer(json.dumps(head, allow_nan=False).encode(), np.uint8)
    save_arrays(path, arrays)


def load_graph(path: Path) -> tuple[FoldedGraph, dict[str, tuple[float, float]]]:
    """Reads what :func:`save_graph` wrote.

    Raises:
        InputError: the file is missing, damaged or of another version.
    """
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays["graph.json"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is not a quantized network, or is damaged ({error}). `mnv3 quantize` makes one.") from error
    if head.get("format") != _FORMAT:
        raise InputError(f"{path}: has format {head.get('format')}, this version reads {_FORMAT}. Quantize the run again.")
    ops = tuple(Op(**{**row, "inputs": tuple(row["inputs"])}, kernel=arrays.get(f"{row['name']}/kernel"),
                   bias=arrays.get(f"{row['name']}/bias")) for row in head["ops"])
    first, second, third = np.broadcast_to(head["offset"], 3)  # one number in files of the first versions
    graph = FoldedGraph(ops, head["height"], head["width"], head["scale"], (float(first), float(second), float(third)),
                        tuple(head.get("float_blocks", ())), head.get("split_stem", False),
                        {name.removeprefix(_SIZES): size for name, size in arrays.items() if name.startswith(_SIZES)})
    return graph, {name: (low, high) for name, (low, high) in head["ranges"].items()}
