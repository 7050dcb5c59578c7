"""What a tensor of a foreign graph is, as a factor and an offset on something that a MobileNetV3 has.

A value says ``tensor = scale * base + offset``. Bases are the picture, a convolution's output, its activation, a gated map, a
residual sum and a mean; scale and offset are numbers or, one for each channel, vectors. Converters differ in where they leave
the factors; the bases do not.

The output of a convolution has a unit of its own until something fixes it: a ReLU, a hard-swish, a residual addition or the next
convolution. What is fixed is ``u = unit * z + shift``, with z the output as the file's kernel and bias make it.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from mnv3_tf.weights.graphs.graph import Operator
from mnv3_tf.weights.graphs.recovered import Pads

_ONE, _ZERO = np.asarray(1.0), np.asarray(0.0)
# Constants such as 3 or 1/6 come through float16 and 8 bits; what differs by more than this is another function.
TOLERANCE = 2e-3


@dataclass(eq=False)
class Convolution:
    """A convolution while the graph is walked: kernel and bias give z from the true input; ``unit`` and ``shift`` give u."""

    operator: Operator
    kind: Literal["conv", "depthwise"]
    kernel: np.ndarray
    bias: np.ndarray
    kernel_step: np.ndarray | None
    bias_step: np.ndarray | None
    stride: int
    pads: Pads | None
    padding: str | Pads
    input: "Base"
    unit: np.ndarray | None = None
    shift: np.ndarray = field(default_factory=lambda: _ZERO)

    def fix(self, unit: np.ndarray, shift: np.ndarray) -> bool:
        """Fixes the unit; False where it is fixed already, to another."""
        if self.unit is None:
            self.unit, self.shift = np.asarray(unit, np.float64), np.asarray(shift, np.float64)
            return True
        return close(self.unit, unit) and close(self.shift, shift)


@dataclass(frozen=True)
class Pixels:
    """The graph's input, as real numbers."""


@dataclass(frozen=True)
class Raw:
    """z of a convolution whose unit may still be open."""

    conv: Convolution


@dataclass(frozen=True, eq=False)
class Clip:
    """``clip(scale * z + offset, low, high)`` of a convolution: a ReLU, or a gate in the making."""

    conv: Convolution
    scale: np.ndarray
    offset: np.ndarray
    low: float
    high: float

    @property
    def is_relu(self) -> bool:
        """Whether it only cuts what is below 0."""
        return self.low == 0 and self.high == np.inf


@dataclass(frozen=True)
class Out:
    """u of a convolution, or a function of it: "linear", "relu" or "hard_swish"."""

    conv: Convolution
    function: str


@dataclass(frozen=True)
class Gated:
    """A map times hard_sigmoid(u) of a convolution, channel by channel."""

    map: "Base"
    gate: Convolution


@dataclass(frozen=True)
class Sum:
    """A residual addition."""

    first: "Base"
    second: "Base"


@dataclass(frozen=True)
class Mean:
    """The global average of a map."""

    map: "Base"


@dataclass(frozen=True)
class Unknown:
    """What no MobileNetV3 has; says which operator and why."""

    reason: str


Base = Pixels | Raw | Clip | Out | Gated | Sum | Mean | Unknown


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: ``scale * base + offset``.

    Attributes:
        size: (height, width), None where open.
        pooled: whether it holds one value for each channel.
        pads: zeros around it that no convolution has taken yet.
    """

    base: Base
    scale: np.ndarray = field(default_factory=lambda: _ONE)
    offset: np.ndarray = field(default_factory=lambda: _ZERO)
    size: tuple[int, int] | None = None
    pooled: bool = False
    pads: Pads | None = None

    def scaled(self, factor: np.ndarray | float) -> "Value":
        """The value times a constant."""
        return replace(self, scale=self.scale * factor, offset=self.offset * factor)

    def becomes(self, base: Base, scale: np.ndarray = _ONE) -> "Value":
        """The same tensor as a multiple of another base, without an offset."""
        return replace(self, base=base, scale=scale, offset=_ZERO)

    @property
    def has_offset(self) -> bool:
        """Whether the offset matters next to the scale."""
        return bool(np.any(np.abs(self.offset) > 1e-6 * np.max(np.abs(self.scale))))


class NotUnderstood(Exception):
    """An operator does what no MobileNetV3 does; the text says what."""


def close(first: Any, second: Any) -> bool:
    """Whether two factors are the same but for rounding."""
    size = max(float(np.max(np.abs(first))), float(np.max(np.abs(second))), 1e-12)
    return bool(np.all(np.abs(np.asarray(first) - second) <= TOLERANCE * size))


def with_unit(value: Value) -> Value:
    """The value with its convolution's unit fixed: a base that later layers can take.

    Raises:
        NotUnderstood: it is an activation that MobileNetV3 does not have.
    """
    if isinstance(value.base, Clip):
        clip = value.base
        if not clip.is_relu:
            raise NotUnderstood(f"its input is clipped to {clip.low:g}..{clip.high:g}{' (ReLU6)' if clip.high == 6 else ''}, "
                                "which is neither a ReLU nor part of a hard-swish or gate")
        if not clip.conv.fix(clip.scale, clip.offset):
            raise NotUnderstood("its input is a ReLU of a convolution that is used in other units elsewhere")
        return replace(value, base=Out(clip.conv, "relu"))
    if not isinstance(value.base, Raw):
        return value
    conv = value.base.conv
    linear = Out(conv, "linear")
    if conv.unit is None:
        conv.fix(value.scale, value.offset)
    assert conv.unit is not None
    if np.array_equal(value.scale, conv.unit) and np.array_equal(value.offset, conv.shift):
        return value.becomes(linear)
    if np.any(conv.unit == 0):
        raise NotUnderstood("its input is a convolution whose BatchNorm multiplies by 0, used in two units")
    scale = value.scale / conv.unit
    return replace(value, base=linear, scale=scale, offset=value.offset - scale * conv.shift)


def clipped(value: Value, low: float, high: float) -> Value:
    """``clip(value, low, high)``.

    Raises:
        NotUnderstood: it is not a ReLU or gate of a convolution.
    """
    base = value.base
    if isinstance(base, Clip) and close(value.scale, _ONE) and not value.has_offset and max(base.low, low) < min(base.high, high):
        return replace(value, base=replace(base, low=max(base.low, low), high=min(base.high, high)))
    if not isinstance(base, Raw):
        raise NotUnderstood("it clips something that is not a convolution's output")
    return value.becomes(Clip(base.conv, value.scale, value.offset, low, high))


def hard_swish(value: Value) -> Value:
    """The native operation.

    Raises:
        NotUnderstood: it is not applied to a convolution's output.
    """
    if not isinstance(value.base, Raw):
        raise NotUnderstood("its input is not a convolution's output")
    conv = value.base.conv
    if not conv.fix(value.scale, value.offset):
        raise NotUnderstood("its input is used in other units elsewhere")
    return value.becomes(Out(conv, "hard_swish"))


def product(first: Value, second: Value) -> Value:
    """The product of two tensors: a hard-swish or a gated map.

    Raises:
        NotUnderstood: it is neither.
    """
    if first.pads or second.pads:
        raise NotUnderstood("it takes a padded map")
    for value, gate in ((first, second), (second, first)):
        if isinstance(gate.base, Clip) and gate.base.low == 0 < gate.base.high < np.inf and not gate.has_offset:
            if isinstance(value.base, Raw) and value.base.conv is gate.base.conv:
                return _swish(value, gate, gate.base)
            # A map of one place is its own mean, which converters leave out.
            if (gate.pooled or gate.size == (1, 1)) and not (value.pooled and isinstance(value.base, Clip)):
                return _gated(with_unit(value), gate, gate.base)
    raise NotUnderstood("it multiplies two tensors of which neither is a gate relu6(x + 3) or clip(slope * x + 0.5, 0, 1)")


def _swish(value: Value, gate: Value, clip: Clip) -> Value:
    """x * relu6(x + 3), with any factors: high * k * hard_swish(u) where the gate is clip(u / 6 + 0.5, 0, 1)."""
    unit, shift = 6 * clip.scale / clip.high, 6 * clip.offset / clip.high - 3
    scales, units, offsets, shifts = np.broadcast_arrays(value.scale, unit, value.offset, shift)
    moves = units != 0  # a BatchNorm may have switched channels off
    number = float(np.median(scales[moves] / units[moves])) if moves.any() else 0.0
    # x and the gate's input must be the same u: equal factors in every channel, and the gate's middle where x is 0.
    if number == 0 or not close(scales, number * units) or np.any(np.abs(offsets / number - shifts) > 3 * TOLERANCE):
        raise NotUnderstood("it multiplies x with a gate whose middle or slope is not that of hard-swish, x * relu6(x + 3) / 6")
    shift = value.offset / number  # exactly; the gate's middle, 3, may have been rounded
    if not clip.conv.fix(unit, shift):
        raise NotUnderstood("its input is used in other units elsewhere")
    return value.becomes(Out(clip.conv, "hard_swish"), np.asarray(number * clip.high) * gate.scale)


def _gated(value: Value, gate: Value, clip: Clip) -> Value:
    """A map times clip(anything, 0, high): high times the map gated by hard_sigmoid(u)."""
    if value.has_offset:
        raise NotUnderstood("it gates a map that has a constant added")
    if not clip.conv.fix(6 * clip.scale / clip.high, 6 * clip.offset / clip.high - 3):
        raise NotUnderstood("its gate is used in other units elsewhere")
    return replace(value, base=Gated(value.base, clip.conv), scale=value.scale * gate.scale * clip.high)


def residual(first: Value, second: Value) -> Value:
    """A residual addition; a linear convolution whose unit is open takes on the other side's.

    Raises:
        NotUnderstood: the sides are in different units.
    """
    if first.pads or second.pads or first.pooled != second.pooled:
        raise NotUnderstood("it adds maps of different sizes")
    is_open = [isinstance(value.base, Raw) and value.base.conv.unit is None for value in (first, second)]
    if any(is_open) and not all(is_open):
        own, other = (first, with_unit(second)) if is_open[0] else (second, with_unit(first))
        assert isinstance(own.base, Raw)
        if np.any(other.scale == 0):
            raise NotUnderstood("one side is multiplied by 0")
        own.base.conv.fix(own.scale / other.scale, own.offset / other.scale)
        taken = own.becomes(Out(own.base.conv, "linear"), other.scale)
        first, second = (taken, other) if is_open[0] else (other, taken)
    else:
        first, second = with_unit(first), with_unit(second)
    if first.has_offset or second.has_offset:
        raise NotUnderstood("it adds tensors with a constant added")
    if not close(first.scale, second.scale):
        raise NotUnderstood(f"it adds tensors in different units ({np.ravel(first.scale)[0]:g} and "
                            f"{np.ravel(second.scale)[0]:g} times too large)")
    return replace(first, base=Sum(first.base, second.base))
