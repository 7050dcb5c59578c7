"""Finds the MobileNetV3 in a walked graph: a stem, inverted residual blocks for as long as they follow each other, a head."""

import math
from collections import defaultdict

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.network.plan import Role
from mnv3_tf.weights.graphs.graph import Operator, Tensor
from mnv3_tf.weights.graphs.recovered import Channels, ForeignConvolution, ForeignNetwork, rgb
from mnv3_tf.weights.graphs.values import Base, Clip, Convolution, Gated, Mean, Out, Pixels, Raw, Sum, Unknown, Value
from mnv3_tf.weights.graphs.walk import Walked

_ACTIVATIONS = ("relu", "hard_swish")


class _Refused(Exception):
    """A convolution does not begin a block; the text says why."""


def find_network(walked: Walked) -> ForeignNetwork:
    """The longest chain of inverted residual blocks from the picture on, with the head where there is one.

    Raises:
        InputError: there is none, or more than one way to go on; the message names the operator.
    """
    finder = _Finder(walked)
    stem, end, stopped = finder.find()
    graph = walked.graph
    tensor = next(tensor for tensor, value in walked.values.items() if _holds(value, end))
    used = _ancestors(walked, tensor)
    scale, offset = map(rgb, walked.first_inputs[stem])
    pixel_scale, pixel_offset = _pixels(walked, scale, offset)
    return ForeignNetwork(
        path=graph.path, format=graph.format, convolutions=tuple(finder.convolutions), height=graph.height, width=graph.width,
        residual_adds=tuple(finder.adds), input_scale=scale, input_offset=offset, pixel_scale=pixel_scale,
        pixel_offset=pixel_offset,
        ignored=tuple(operator.place for operator in graph.operators
                      if operator not in used and not finder.adds_nothing(operator, end)), stopped=stopped)


class _Finder:
    """Goes along the network as far as it is one.

    Attributes:
        convolutions: found so far, in order.
        adds: numbers of the blocks found so far whose input is added to their output.
    """

    def __init__(self, walked: Walked):
        self.convolutions: list[ForeignConvolution] = []
        self.adds: list[int] = []
        self._walked = walked
        self._bases: set[Base] = {_as_taken(value.base) for value in walked.values.values()}
        # Maps of one place, whose mean converters leave out.
        self._one_place: set[Base] = {_as_taken(value.base) for value in walked.values.values() if value.size == (1, 1)}
        self._after: dict[Base, list[Convolution]] = defaultdict(list)
        for conv in walked.convolutions:
            self._after[conv.input].append(conv)

    def adds_nothing(self, operator: Operator, end: Base) -> bool:
        """Whether an operator makes a constant, or only hands on `end` in another shape."""
        value = self._walked.values.get(operator.outputs[0])
        return value is None or (operator.kind in ("reshape", "identity") and _as_taken(value.base) == end)

    def find(self) -> tuple[Convolution, Base, str | None]:
        """The first convolution, what the last operator makes, and why it ends there if that is not a classifier."""
        stems = self._after[Pixels()]
        if len(stems) != 1:
            raise InputError(f"{self._path}: {self._no_stem(stems)}")
        stem = stems[0]
        activation = self._activation(stem)
        if stem.kind != "conv" or activation is None:
            raise InputError(f"{self._path}: {stem.operator.place} takes the picture but is not a convolution with a ReLU or "
                             f"hard-swish after it{self._why(Out(stem, 'linear'))}; there is no MobileNetV3 here.")
        self.convolutions.append(_foreign(stem, "stem", 0, activation))
        end: Base = Out(stem, activation)
        number = 0
        while True:
            ways, refusals = self._blocks(end, number + 1)
            if len(ways) > 1:
                places = " and ".join(found[0].place for found, _, _ in ways)
                raise InputError(f"{self._path}: {places} both begin an inverted residual block after block {number}; "
                                 "which one belongs to the network cannot be told.")
            if not ways:
                break
            number += 1
            found, has_add, end = ways[0]
            self.convolutions += found
            self.adds += [number] if has_add else []
        if not number:
            raise InputError(f"{self._path}: no inverted residual block follows the first convolution "
                             f"({stem.operator.place}){self._why(end)}{_listed(refusals)}; there is no MobileNetV3 here.")
        end, stopped = self._head(end, number)
        if stopped:
            stopped += self._why(end) + _listed(refusals)
        return stem, end, stopped

    @property
    def _path(self) -> str:
        return self._walked.graph.path

    def _no_stem(self, stems: list[Convolution]) -> str:
        if stems:
            places = " and ".join(conv.operator.place for conv in stems)
            return f"{places} both take the picture; a MobileNetV3 has one first convolution."
        first = next((value.base for value in self._walked.values.values() if isinstance(value.base, Unknown)), None)
        return f"no convolution takes the picture{f' ({first.reason})' if first else ''}; there is no MobileNetV3 here."

    def _why(self, end: Base) -> str:
        """What directly follows `end` and is not understood, for a message."""
        walked = self._walked
        for operator in walked.graph.operators:
            takes_end = any(tensor in walked.values and _is_on_the_way(walked.values[tensor].base, end)
                            for tensor in operator.inputs)
            result = walked.values[operator.outputs[0]].base if takes_end else None
            if isinstance(result, Unknown):
                return f" ({result.reason})"
        return ""

    def _activation(self, conv: Convolution) -> str | None:
        """The activation of a convolution: None for a linear one, or one that MobileNetV3 does not have."""
        taken = [name for name in _ACTIVATIONS if self._is_taken(Out(conv, name))]
        # A ReLU that nothing takes may be a step towards a hard-swish.
        found = taken or [name for name in reversed(_ACTIVATIONS) if Out(conv, name) in self._bases][:1]
        return found[0] if len(found) == 1 else None

    def _after_mean(self, base: Base) -> list[Convolution]:
        """The convolutions that take the mean of a map."""
        return self._after[Mean(base)] + (self._after[base] if base in self._one_place else [])

    def _is_taken(self, base: Base) -> bool:
        """Whether a convolution, a mean or a gate takes it."""
        return bool(self._after[base]) or Mean(base) in self._bases or any(
            isinstance(other, Gated) and other.map == base for other in self._bases)

    def _blocks(self, x: Base, number: int) -> tuple[list[tuple[list[ForeignConvolution], bool, Base]], list[str]]:
        """The inverted residual blocks that begin at `x`, and why other convolutions there are none."""
        ways, refusals = [], []
        for conv in self._after[x]:
            try:
                ways.append(self._block(x, conv, number))
            except _Refused as refusal:
                refusals.append(f"{conv.operator.place} begins no block: {refusal}")
        return ways, refusals

    def _block(self, x: Base, first: Convolution, number: int) -> tuple[list[ForeignConvolution], bool, Base]:
        """The block that begins with a convolution of `x`."""
        found = []
        depthwise = [first]
        if first.kind == "conv":
            activation = self._activation(first)
            if not _is_pointwise(first) or activation is None:
                raise _Refused(f"it is not a 1x1 convolution with a ReLU or hard-swish{self._why(Out(first, 'linear'))}")
            found.append(_foreign(first, "expand", number, activation))
            depthwise = [conv for conv in self._after[Out(first, activation)] if conv.kind == "depthwise"]
        elif number > 1:
            raise _Refused("only a first block begins with a depthwise convolution")
        kept = [conv for conv in depthwise if self._activation(conv)]
        if len(kept) != 1:
            raise _Refused(f"{len(kept)} depthwise convolutions with a ReLU or hard-swish follow it"
                           + "".join(self._why(Out(conv, "linear")) for conv in depthwise))
        return self._second_half(x, kept[0], found, number)

    def _second_half(self, x: Base, depthwise: Convolution, found: list[ForeignConvolution], number: int
                     ) -> tuple[list[ForeignConvolution], bool, Base]:
        """Depthwise convolution, squeeze-and-excite and projection."""
        activation = self._activation(depthwise)
        y: Base = Out(depthwise, activation or "")
        found = [*found, _foreign(depthwise, "depthwise", number, activation)]
        gates = [base for base in self._bases if isinstance(base, Gated) and base.map == y]
        if len(gates) > 1:
            raise _Refused(f"{depthwise.operator.place} is gated {len(gates)} times")
        if gates:
            gate = gates[0].gate
            reduce = next((conv for conv in self._after_mean(y) if gate.input == Out(conv, "relu")), None)
            if reduce is None or not _is_pointwise(reduce) or not _is_pointwise(gate):
                raise _Refused(f"the gate {gate.operator.place} does not come from the mean through two 1x1 convolutions "
                               "with a ReLU between")
            found += [_foreign(reduce, "se_reduce", number, "relu"), _foreign(gate, "se_expand", number, "hard_sigmoid")]
            y = gates[0]
        projects = [conv for conv in self._after[y] if _is_pointwise(conv) and self._is_linear(conv)]
        if len(projects) != 1:
            raise _Refused(f"{len(projects)} linear 1x1 convolutions follow {depthwise.operator.place}{self._why(y)}")
        linear = Out(projects[0], "linear")
        found.append(_foreign(projects[0], "project", number, None))
        total = next((base for base in self._bases if isinstance(base, Sum) and base in (Sum(x, linear), Sum(linear, x))), None)
        return found, total is not None, total or linear

    def _is_linear(self, conv: Convolution) -> bool:
        """Whether the output goes on without an activation: into a sum or a convolution, or out of the graph."""
        linear = Out(conv, "linear")
        summed = any(isinstance(base, Sum) and linear in (base.first, base.second) for base in self._bases)
        return summed or bool(self._after[linear]) or self._activation(conv) is None

    def _head(self, x: Base, blocks: int) -> tuple[Base, str | None]:
        """Adds what there is of the head; returns the network's last value and why it ends before a classifier."""
        for conv in self._after[x]:
            activation = self._activation(conv)
            if not _is_pointwise(conv) or activation is None:
                continue
            y: Base = Out(conv, activation)
            pooled = bool(self._after_mean(y)) or Mean(y) in self._bases
            if not pooled and not self._is_output(y):
                continue
            self.convolutions.append(_foreign(conv, "head_conv", 0, activation))
            if not pooled:
                return y, "the file ends before the pooling"
            for expand in self._after_mean(y):
                last = self._activation(expand)
                classifiers = [c for c in self._after[Out(expand, last)] if self._is_linear(c)] if last else []
                if len(classifiers) == 1:
                    self.convolutions += [_foreign(expand, "head_expand", 0, last),
                                           _foreign(classifiers[0], "classifier", 0, None)]
                    return Out(classifiers[0], "linear"), None
            return Mean(y), "no classifier (a layer with an activation and a linear one) follows the pooling"
        return x, f"no further block and no head of a classifier follows block {blocks}"

    def _is_output(self, base: Base) -> bool:
        """Whether a graph's output holds it."""
        values = self._walked.values
        return any(tensor in values and _as_taken(values[tensor].base) == base for tensor in self._walked.graph.outputs)


def _as_taken(base: Base) -> Base:
    """A base as later layers take it."""
    if isinstance(base, Raw):
        return Out(base.conv, "linear")
    return Out(base.conv, "relu") if isinstance(base, Clip) and base.is_relu else base


def _is_on_the_way(base: Base, end: Base) -> bool:
    """Whether a tensor holds `end`, or the same convolution's output clipped to something."""
    return _as_taken(base) == end or (isinstance(base, Clip) and isinstance(end, Out) and base.conv is end.conv)


def _holds(value: Value, end: Base) -> bool:
    """Whether a tensor holds `end` in true units: of a convolution's, the one behind its BatchNorm and bias."""
    if isinstance(value.base, Raw):
        conv = value.base.conv
        if conv.unit is None or not (np.array_equal(value.scale, conv.unit) and np.array_equal(value.offset, conv.shift)):
            return False
    return _as_taken(value.base) == end


def _is_pointwise(conv: Convolution) -> bool:
    return conv.kind == "conv" and conv.kernel.shape[:2] == (1, 1) and conv.stride == 1


def _listed(refusals: list[str]) -> str:
    return f"; {'; '.join(refusals)}" if refusals else ""


def _foreign(conv: Convolution, role: Role, block: int, activation: str | None) -> ForeignConvolution:
    """A convolution in true units: ``u = unit * z + shift`` goes into its kernel and bias."""
    unit = np.asarray(1.0) if conv.unit is None else conv.unit
    along = unit[:, None] if conv.kind == "depthwise" and unit.ndim else unit
    size = np.abs(unit)
    return ForeignConvolution(
        name=conv.operator.name, place=conv.operator.place, kind=conv.kind, kernel=(conv.kernel * along).astype(np.float32),
        bias=(conv.bias * unit + conv.shift).astype(np.float32), stride=conv.stride, padding=conv.padding, pads=conv.pads,
        activation=activation, role=role, block=block,
        kernel_step=None if conv.kernel_step is None else conv.kernel_step * size,
        bias_step=None if conv.bias_step is None else conv.bias_step * size)


def _ancestors(walked: Walked, tensor: Tensor) -> set[Operator]:
    """The operators that a tensor depends on."""
    used: set[Operator] = set()
    waiting = [tensor]
    while waiting:
        operator = walked.makers.get(waiting.pop())
        if operator is not None and operator not in used:
            used.add(operator)
            waiting += operator.inputs
    return used


def _pixels(walked: Walked, scale: Channels, offset: Channels) -> tuple[Channels | None, Channels | None]:
    """What the first convolution sees of a pixel 0..255, where the file says so.

    An integer input holds the picture's bytes (int8: minus 128) if its range is that of pixels, of 0..1 or of -1..1; a float
    input holds pixels if the graph itself brings them to a range of a few units.
    """
    quantization = walked.graph.input_quantization
    if quantization is None:
        is_rescaled = scale != (1.0, 1.0, 1.0) and max(map(abs, scale)) * 255 < 16
        return (scale, offset) if is_rescaled else (None, None)
    dtype, step, zero = quantization
    lowest = -128 if dtype == "int8" else 0
    low, high = step * (lowest - zero), step * (lowest + 255 - zero)
    if not any(math.isclose(low, a, abs_tol=step * 1.5) and math.isclose(high, b, abs_tol=step * 1.5)
               for a, b in ((0, 255), (0, 1), (-1, 1))):
        return None, None
    return rgb(np.asarray(scale) * step), rgb(np.asarray(scale) * low + np.asarray(offset))
