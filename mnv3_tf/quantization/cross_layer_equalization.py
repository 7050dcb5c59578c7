"""Channels of one size: the folded network rewritten, exactly in real numbers, so that 8 bits serve all channels alike.

A tensor has one scale for all of its channels. Where one channel is forty times another, little of the small one is left. A
depthwise convolution has a scale for each channel of its kernel, so the channels of what feeds only depthwise convolutions may be
divided by any numbers: the convolution before it, linear or with ReLU, is divided by them, the kernel behind multiplied (Nagel
et al., "Data-free quantization through weight equalization and bias correction", 2019).

A hard-swish is in the way of that: it is not linear in its input. The stem's, whose channels see the bare picture and differ
most, is therefore computed from two convolutions with the same weights: hard_swish(x) = x * hard_sigmoid(x), and of that product
only the factor x is divided. What adds the stem's output to something else gets it multiplied back by a 1x1 depthwise
convolution. It is one small convolution more and one addition less, and it is done only where the channels differ much.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from mnv3_tf.quantization.fake_quantized import LoweredNetwork, input_units
from mnv3_tf.quantization.graph import FoldedGraph, Op
from mnv3_tf.quantization.lowering import PRE_SWISH_FLOOR, lower

# The stem is split where its largest channel is so many times the smallest that is not dead.
SPLIT_RATIO = 16.0
# A channel below this share of the largest is dead.
_DEAD = 1e-4
# No channel is made more than so many times larger: 8 bits tell no more apart, and its bias grows with it.
_MOST_GAIN = 256.0
_GATE = "_gate"


def equalize(graph: FoldedGraph, batches: Iterable[np.ndarray], *, kept: Collection[str] = (),
             split_stem: bool | None = None) -> FoldedGraph:
    """Gives channels one size, wherever that costs nothing behind.

    Args:
        graph: the network as traced.
        batches: pixels uint8 (n, height, width, 3), to see how large channels get.
        kept: operations whose weights must stay as they are.
        split_stem: whether a stem with a hard-swish is split; None: where its channels differ by :data:`SPLIT_RATIO`.

    Returns:
        The network, with :attr:`FoldedGraph.split_stem` and :attr:`FoldedGraph.channel_sizes` telling what was done.
    """
    stem = _stem(graph)
    names = [op.name for op in graph.ops if _feeds_depthwise_only(graph, op)]
    sizes = _channel_sizes(graph, names, stem, batches)
    if stem is not None and stem.name in sizes:
        size = sizes[stem.name]
        if not (size.max() / size.min() > SPLIT_RATIO if split_stem is None else split_stem):
            del sizes[stem.name]
    chosen = {name: size for name, size in sizes.items() if not _touched(graph, name).intersection(kept)}
    return reform(graph, chosen, split_stem=stem is not None and stem.name in chosen)


def reform(graph: FoldedGraph, sizes: Mapping[str, np.ndarray], *, split_stem: bool) -> FoldedGraph:
    """Divides channels by given numbers.

    Args:
        graph: the network as traced.
        sizes: tensor -> (channels,), for tensors that feed depthwise convolutions only.
        split_stem: whether the stem's hard-swish, which is then among `sizes`, is computed from two convolutions.
    """
    ops = _split(graph) if split_stem else list(graph.ops)
    work = {op.name: op for op in ops}
    for name, size in sizes.items():
        divisor = (size / size.max()).astype(np.float32)
        maker = work[name].inputs[0] if work[name].kind == "multiply" else name
        work[maker] = _scaled_outputs(work[maker], 1 / divisor)
        for op in ops:
            if name in op.inputs:
                work[op.name] = _scaled_inputs(work[op.name], divisor)
    return dataclasses.replace(graph, ops=tuple(work[op.name] for op in ops), split_stem=split_stem, channel_sizes=dict(sizes))


def like(graph: FoldedGraph, sizes: Mapping[str, np.ndarray], *, split_stem: bool) -> FoldedGraph | None:
    """A traced network in the form that another has, or None where it has not the tensors for that."""
    stem = _stem(graph)
    if split_stem and (stem is None or stem.name not in sizes):
        return None
    channels = {op.name: len(op.bias) for op in graph.ops if op.bias is not None and _feeds_depthwise_only(graph, op)}
    if split_stem and stem is not None:
        bias = graph[stem.inputs[0]].bias
        channels[stem.name] = 0 if bias is None else len(bias)
    if any(channels.get(name) != len(size) for name, size in sizes.items()):
        return None
    return reform(graph, sizes, split_stem=split_stem)


def _stem(graph: FoldedGraph) -> Op | None:
    """The hard-swish after the first convolution, if that is all that takes its output."""
    first = graph.ops[1]
    behind = graph.consumers(first.name)
    if first.kind != "conv" or len(behind) != 1 or behind[0].kind != "hard_swish":
        return None
    kinds = {op.kind for op in graph.consumers(behind[0].name)}
    return behind[0] if "depthwise" in kinds and kinds <= {"depthwise", "add"} else None


def _feeds_depthwise_only(graph: FoldedGraph, op: Op) -> bool:
    behind = graph.consumers(op.name)
    # A relu6, which ends at 6, lets no factor through.
    divides = op.kind in ("conv", "depthwise") and op.activation != "relu6"
    return divides and bool(behind) and all(other.kind == "depthwise" for other in behind)


def _touched(graph: FoldedGraph, name: str) -> set[str]:
    """The operations whose weights change when a tensor is divided."""
    maker = graph[name]
    return {maker.inputs[0] if maker.kind == "hard_swish" else name, *(op.name for op in graph.consumers(name))}


def _channel_sizes(graph: FoldedGraph, names: list[str], stem: Op | None,
                   batches: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """The largest magnitude of every channel of some tensors, and of the stem's hard-swish that of its input, as far as it
    matters; of a dead channel, the largest channel's."""
    lowered = lower(graph, "native")
    network, factors = LoweredNetwork(lowered), {op.name: op.tensor_factor for op in lowered.ops}
    looked_at = [*names, *([stem.inputs[0]] if stem else [])]
    low: dict[str, np.ndarray] = {}
    high: dict[str, np.ndarray] = {}
    if looked_at:
        for pixels in batches:
            for name, tensor in zip(looked_at, network.tensors(looked_at, input_units(graph, pixels)), strict=True):
                tensor = tensor / factors[name]
                least, most = tensor.min(axis=(0, 1, 2)), tensor.max(axis=(0, 1, 2))
                low[name], high[name] = np.minimum(low.get(name, least), least), np.maximum(high.get(name, most), most)
    sizes = {name: np.maximum(high[name], -low[name]) for name in names if name in high}
    if stem is not None and stem.inputs[0] in high:
        name = stem.inputs[0]
        sizes[stem.name] = np.maximum(high[name], -np.maximum(low[name], PRE_SWISH_FLOOR))
    return {name: np.where(size > _DEAD * size.max(), np.maximum(size, size.max() / _MOST_GAIN), size.max()).astype(np.float32)
            for name, size in sizes.items() if size.max() > 0}


def _split(graph: FoldedGraph) -> list[Op]:
    """The operations with the stem's hard-swish as a product, multiplied back for what adds it."""
    swish = _stem(graph)
    assert swish is not None
    conv = graph[swish.inputs[0]]
    gate = dataclasses.replace(conv, name=f"{conv.name}{_GATE}")
    sigmoid = Op(f"{gate.name}_hard_sigmoid", "hard_sigmoid", (gate.name,))
    product = dataclasses.replace(swish, kind="multiply", inputs=(conv.name, sigmoid.name))
    assert conv.bias is not None
    channels = len(conv.bias)
    back = Op(f"{conv.name}_back", "depthwise", (swish.name,), np.ones((1, 1, channels, 1), np.float32),
              np.zeros(channels, np.float32))
    ops: list[Op] = []
    for op in graph.ops:
        if op.name == swish.name:
            ops += [gate, sigmoid, product]
        elif op.kind == "add" and swish.name in op.inputs:
            ops += [back, dataclasses.replace(op, inputs=tuple(back.name if name == swish.name else name for name in op.inputs))]
        else:
            ops.append(op)
    return ops


def _scaled_outputs(op: Op, factor: np.ndarray) -> Op:
    assert op.kernel is not None and op.bias is not None
    along = factor[:, None] if op.kind == "depthwise" else factor
    return dataclasses.replace(op, kernel=op.kernel * along, bias=op.bias * factor)


def _scaled_inputs(op: Op, factor: np.ndarray) -> Op:
    assert op.kernel is not None
    return dataclasses.replace(op, kernel=op.kernel * factor[:, None])
