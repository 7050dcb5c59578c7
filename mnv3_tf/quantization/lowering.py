"""Rewrites the folded network for a target, exactly in real numbers.

- ``xnnpack``: hard_swish(x) becomes ``x * relu6(x + 3)``, six times too large; hard_sigmoid(z) becomes ``relu6(z + 3)`` fused
  into its convolution, six times too large. The factor travels with the tensor until a convolution divides its kernel by it.
- ``native``: hard_swish stays one native operation; hard_sigmoid is fused as above.

A residual addition needs both sides in the same unit: the side that a linear convolution makes takes on the other's factor.

A float convolution between two quantized tensors would be quantized by the converter, asked or not. It takes its input negated,
which has no integer form, and a negated kernel.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mnv3_tf.errors import KitError
from mnv3_tf.network.layer_names import block_of
from mnv3_tf.quantization.graph import FoldedGraph, Op

Lowering = Literal["xnnpack", "native"]
LOWERINGS: tuple[Lowering, ...] = ("xnnpack", "native")
# What cards and commands of version 0.1 say, and what it is called now.
FORMER_LOWERINGS: dict[str, Lowering] = {"fused": "native"}

GATE_RANGE = (0.0, 6.0)
# The least value of hard_swish, at x = -1.5.
HARD_SWISH_FLOOR = -0.375
PRE_SWISH_FLOOR = -3.0


@dataclass(frozen=True)
class LoweredOp:
    """An operation of the lowered network.

    Attributes:
        name: unique; the gate of a hard-swish is called ``NAME/gate``, the negated input of a convolution ``NAME/negated``.
        kind: conv, depthwise, gate (relu6(x + 3)), negate, hard_swish, multiply, add, pool, flatten or input.
        inputs: names.
        source: the folded operation whose tensor this makes, or None (a gate, a negation).
        factor: the linear output is `factor` times the source's; a fused hard-sigmoid multiplies by another 6.
        kernel_scale: this kernel is `kernel_scale` times the source's kernel.
        bias_shift: the bias is ``factor * bias + bias_shift``.
        activation: None, "relu" or "relu6".
        stride, padding: of a convolution.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    source: str | None
    factor: float = 1.0
    kernel_scale: float = 1.0
    bias_shift: float = 0.0
    activation: str | None = None
    stride: int = 1
    padding: str = "same"

    @property
    def tensor_factor(self) -> float:
        """This tensor is so many times the folded network's tensor of the same name."""
        return self.factor * (6.0 if self.is_hard_sigmoid else 1.0)

    @property
    def is_hard_sigmoid(self) -> bool:
        """Whether a hard-sigmoid is fused: relu6 behind a bias that is larger by 3. A relu6 of the network has no such bias."""
        return self.activation == "relu6" and self.bias_shift != 0.0


@dataclass(frozen=True)
class LoweredGraph:
    """A folded network with its rewriting; weights stay in :attr:`folded`, in the network's own units."""

    folded: FoldedGraph
    ops: tuple[LoweredOp, ...]
    lowering: Lowering

    def __getitem__(self, name: str) -> LoweredOp:
        return next(op for op in self.ops if op.name == name)

    def is_float(self, op: LoweredOp) -> bool:
        """Whether an operation computes in float where the rest is quantized: it belongs to a block that is left float."""
        return op.kind not in ("input", "flatten") and block_of(op.name) in self.folded.float_blocks

    def has_range(self, op: LoweredOp) -> bool:
        """Whether an operation's output is quantized over a range of its own.

        It is where the operation, or anything that takes its output, is quantized. Input and logits always are: they are what
        an integer file takes and gives. A flattening passes on what it gets.
        """
        if op.kind == "flatten":
            return False
        consumers = [other for other in self.ops if op.name in other.inputs]
        return not (self.is_float(op) and consumers and all(self.is_float(other) for other in consumers))

    def weights(self, op: LoweredOp) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias as the lowered operation uses them."""
        source = self.folded[op.source or ""]
        assert source.kernel is not None and source.bias is not None
        return source.kernel * np.float32(op.kernel_scale), source.bias * np.float32(op.factor) + np.float32(op.bias_shift)

    def with_weights(self, weights: dict[str, tuple[np.ndarray, np.ndarray]]) -> FoldedGraph:
        """The folded network with new weights, given as the lowered operations use them."""
        changed = {}
        for op in self.ops:
            if op.name in weights:
                kernel, bias = weights[op.name]
                source, (was_kernel, was_bias) = self.folded[op.source or ""], self.weights(op)
                # What did not change comes back bit by bit, which there and back through the factors it would not.
                changed[op.source] = (
                    source.kernel if np.array_equal(kernel, was_kernel) else kernel / np.float32(op.kernel_scale),
                    source.bias if np.array_equal(bias, was_bias)
                    else (bias - np.float32(op.bias_shift)) / np.float32(op.factor))
        ops = tuple(dataclasses.replace(op, kernel=changed[op.name][0], bias=changed[op.name][1])
                    if op.name in changed else op for op in self.folded.ops)
        return dataclasses.replace(self.folded, ops=ops)


def walk(ops: tuple[LoweredOp, ...], compute: Callable[[LoweredOp, list[Any]], Any]) -> Iterator[tuple[LoweredOp, Any]]:
    """Every operation with what `compute` makes of the outputs before it; those are let go of when nothing takes them."""
    last_use = {name: op.name for op in ops for name in op.inputs}
    outputs: dict[str, Any] = {}
    for op in ops:
        outputs[op.name] = compute(op, [outputs[name] for name in op.inputs])
        yield op, outputs[op.name]
        for name in set(op.inputs):
            if last_use[name] == op.name:
                del outputs[name]


def lower(graph: FoldedGraph, lowering: Lowering = "xnnpack") -> LoweredGraph:
    """Rewrites a folded network.

    Raises:
        KitError: two tensors with different factors meet in an addition and neither can take on the other's.
    """
    ops: dict[str, LoweredOp] = {}
    for op in graph.ops:
        inputs = op.inputs
        if op.kind in ("hard_swish", "hard_sigmoid") and ops[inputs[0]].tensor_factor != 1.0:
            raise KitError(f"{op.name}: its input is {ops[inputs[0]].tensor_factor:g} times too large for an activation.")
        if op.kind == "hard_swish" and lowering == "xnnpack":
            gate = f"{op.name}/gate"
            ops[gate] = LoweredOp(gate, "gate", inputs, None)
            ops[op.name] = LoweredOp(op.name, "multiply", (*inputs, gate), op.name, factor=6.0)
        elif op.kind == "hard_sigmoid":
            conv = ops.pop(inputs[0])
            ops[op.name] = dataclasses.replace(conv, name=op.name, bias_shift=conv.bias_shift + 3.0, activation="relu6")
        elif op.kind == "add":
            ops[op.name] = _add(graph, ops, op)
        else:
            ops[op.name] = _plain(ops, op)
    last = list(ops.values())[-1]
    if last.factor != 1.0:
        raise KitError(f"The output {last.name!r} ends up {last.factor:g} times too large; it must come from a convolution.")
    return _keep_float(LoweredGraph(graph, tuple(ops.values()), lowering))


def _keep_float(lowered: LoweredGraph) -> LoweredGraph:
    """Negates the input of every float convolution that takes a quantized tensor and makes one."""
    ops: dict[str, LoweredOp] = {}
    for op in lowered.ops:
        if op.kind in ("conv", "depthwise") and lowered.is_float(op) and lowered.has_range(op):
            source = ops[op.inputs[0]]
            if lowered.has_range(source):
                name = f"{op.name}/negated"
                ops[name] = LoweredOp(name, "negate", op.inputs, None, factor=-source.tensor_factor)
                op = dataclasses.replace(op, inputs=(name,), kernel_scale=-op.kernel_scale)
        ops[op.name] = op
    return dataclasses.replace(lowered, ops=tuple(ops.values()))


def _plain(ops: dict[str, LoweredOp], op: Op) -> LoweredOp:
    factors = [ops[name].tensor_factor for name in op.inputs]
    if op.kind in ("conv", "depthwise"):
        return LoweredOp(op.name, op.kind, op.inputs, op.name, kernel_scale=1 / factors[0], activation=op.activation,
                         stride=op.stride, padding=op.padding)
    return LoweredOp(op.name, op.kind, op.inputs, op.name, factor=math.prod(factors, start=1.0))


def _add(graph: FoldedGraph, ops: dict[str, LoweredOp], op: Op) -> LoweredOp:
    factors = [ops[name].tensor_factor for name in op.inputs]
    if factors[0] != factors[1]:
        for own, other in ((0, 1), (1, 0)):
            side = ops[op.inputs[own]]
            if side.kind == "conv" and side.activation is None and len(graph.consumers(op.inputs[own])) == 1:
                ratio = factors[other] / factors[own]
                ops[side.name] = dataclasses.replace(side, factor=factors[other], kernel_scale=side.kernel_scale * ratio)
                return LoweredOp(op.name, "add", op.inputs, op.name, factor=factors[other])
        raise KitError(f"{op.name}: adds tensors in different units ({factors[0]:g} and {factors[1]:g} times) and neither "
                       "comes from a linear convolution of its own.")
    return LoweredOp(op.name, "add", op.inputs, op.name, factor=factors[0])


def range_rule(graph: FoldedGraph, op: Op) -> tuple[float | None, float | None]:
    """The ends that an activation's quantized range must not pass, in the network's own units.

    Returns:
        (floor, ceiling), None where free. A gate's range is its whole range; what feeds only hard-swishes may start at -3,
        below which they are 0. The linear side of a split stem is multiplied by 0 below -3 of its channel, which is at most as
        far from 0 as its largest channel gets.
    """
    if graph.split_stem and op.name == graph.ops[1].name:
        return -float(max(graph.channel_sizes[product.name].max() for product in graph.consumers(op.name))), None
    if op.kind == "hard_sigmoid":
        return 0.0, 1.0
    if op.activation is not None:
        return 0.0, 6.0 if op.activation == "relu6" else None
    if op.kind == "hard_swish":
        return HARD_SWISH_FLOOR, None
    consumers = graph.consumers(op.name)
    if consumers and all(consumer.kind == "hard_swish" for consumer in consumers):
        return PRE_SWISH_FLOOR, None
    return None, None
