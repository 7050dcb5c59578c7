"""Walks a neutral graph in order of execution and says what every tensor is (:mod:`mnv3_tf.weights.graphs.values`)."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mnv3_tf.weights.graphs.graph import Constant, Graph, Operator, Tensor
from mnv3_tf.weights.graphs.recovered import Pads
from mnv3_tf.weights.graphs.values import (
    Convolution,
    Mean,
    NotUnderstood,
    Pixels,
    Raw,
    Unknown,
    Value,
    clipped,
    hard_swish,
    product,
    residual,
    with_unit,
)


def walk(graph: Graph) -> "Walked":
    """Explains every tensor; what is not understood becomes :class:`Unknown` with its reason, and all that depends on it."""
    walked = Walked(graph)
    for operator in graph.operators:
        walked.step(operator)
    for value in reversed(walked.values.values()):
        # What no operator takes any more, such as logits: a bias may have been added after the convolution.
        if isinstance(value.base, Raw) and value.base.conv.unit is None:
            with_unit(value)
    return walked


class Walked:
    """The graph with every tensor explained, as far as it was walked.

    Attributes:
        values: by tensor, what it is.
        makers: by tensor, the operator that makes it.
        convolutions: in order of execution.
        first_inputs: what the convolutions see that take the picture: scale and offset on the input's real numbers.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self._constants = dict(graph.constants)
        size = (graph.height, graph.width) if graph.height and graph.width else None
        self.values: dict[Tensor, Value] = {graph.input: Value(Pixels(), size=size)}  # type: ignore[arg-type]
        self.makers: dict[Tensor, Operator] = {}
        self.convolutions: list[Convolution] = []
        self.first_inputs: dict[Convolution, tuple[np.ndarray, np.ndarray]] = {}
        self._rules: dict[str, Callable[[Operator], Value]] = {
            "conv": self._convolution, "depthwise": self._convolution, "fully_connected": self._convolution,
            "add": self._add, "sub": self._subtract, "mul": self._multiply, "div": self._divide,
            "neg": lambda op: self._only(op).scaled(-1.0), "relu": lambda op: clipped(self._only(op), 0.0, math.inf),
            "clip": lambda op: clipped(self._only(op), op.attributes["low"], op.attributes["high"]),
            "minimum": self._bound, "maximum": self._bound, "hard_swish": lambda op: hard_swish(self._only(op)),
            "batchnorm": self._batchnorm, "mean": self._mean, "average_pool": self._average_pool, "pad": self._pad,
            "reshape": self._reshape, "identity": self._only,
        }

    def step(self, operator: Operator) -> None:
        """Explains the operator's results."""
        if operator.inputs and all(tensor in self._constants for tensor in operator.inputs):
            constant = _computed(operator, [self._constants[tensor] for tensor in operator.inputs])
            if constant is not None:
                self._constants.update(dict.fromkeys(operator.outputs, constant))
                return
        unknown = next((value.base for tensor in operator.inputs
                        if (value := self.values.get(tensor)) and isinstance(value.base, Unknown)), None)
        try:
            if unknown:
                value = Value(unknown)
            elif operator.kind not in self._rules:
                reason = operator.attributes.get("reason", "a MobileNetV3 has no such operator here")
                raise NotUnderstood(reason)
            else:
                value = self._activate(operator, self._rules[operator.kind](operator))
        except NotUnderstood as error:
            value = Value(Unknown(f"{operator.place}: {error}"))
        for tensor in operator.outputs:
            self.values[tensor] = value
            self.makers[tensor] = operator

    def _activate(self, operator: Operator, value: Value) -> Value:
        """The activation that is fused after an operator."""
        if operator.activation is None:
            return value
        highs = {"relu": math.inf, "relu6": 6.0}
        if operator.activation not in highs:
            raise NotUnderstood(f"its fused activation {operator.activation} is not one that MobileNetV3 uses")
        return clipped(value, 0.0, highs[operator.activation])

    def _value(self, tensor: Tensor) -> Value:
        if tensor not in self.values:
            raise NotUnderstood(f"it takes {tensor!r}, a constant where a tensor of the network is expected")
        return self.values[tensor]

    def _only(self, operator: Operator) -> Value:
        """The value of an operator's single input."""
        return self._value(operator.inputs[0])

    def _split(self, operator: Operator) -> tuple[list[Value], list[Constant]]:
        """Inputs that are computed, and those that are constant."""
        constants = [self._constants[tensor] for tensor in operator.inputs if tensor in self._constants]
        return [self._value(tensor) for tensor in operator.inputs if tensor not in self._constants], constants

    def _add(self, operator: Operator) -> Value:
        values, constants = self._split(operator)
        return _shifted(values[0], channels(constants[0])) if constants else residual(*values)

    def _subtract(self, operator: Operator) -> Value:
        values, constants = self._split(operator)
        if not constants:
            return residual(values[0], values[1].scaled(-1.0))
        if operator.inputs[0] in self._constants:
            return _shifted(values[0].scaled(-1.0), channels(constants[0]))
        return _shifted(values[0], -channels(constants[0]))

    def _multiply(self, operator: Operator) -> Value:
        values, constants = self._split(operator)
        return values[0].scaled(channels(constants[0])) if constants else product(*values)

    def _divide(self, operator: Operator) -> Value:
        if operator.inputs[1] not in self._constants:
            raise NotUnderstood("it divides by something that is not constant")
        return self._only(operator).scaled(1 / channels(self._constants[operator.inputs[1]]))

    def _bound(self, operator: Operator) -> Value:
        values, constants = self._split(operator)
        if not constants or constants[0].value.size != 1:
            raise NotUnderstood("it compares two tensors")
        bound = float(np.ravel(constants[0].value)[0])
        return clipped(values[0], -math.inf, bound) if operator.kind == "minimum" else clipped(values[0], bound, math.inf)

    def _batchnorm(self, operator: Operator) -> Value:
        values, constants = self._split(operator)
        if len(values) != 1 or len(constants) != 4:
            raise NotUnderstood("its statistics are not constant")
        gamma, beta, mean, variance = map(channels, constants)
        scale = gamma / np.sqrt(variance + operator.attributes["epsilon"])
        return _shifted(values[0].scaled(scale), beta - mean * scale)

    def _mean(self, operator: Operator) -> Value:
        axes = {axis % 4 for axis in operator.attributes["axes"]}
        if axes != {1, 2}:
            raise NotUnderstood(f"it averages over the axes {sorted(axes)}; height and width are expected")
        return self._pooled(self._only(operator))

    def _average_pool(self, operator: Operator) -> Value:
        value = self._only(operator)
        if value.size is None or operator.attributes["window"] != value.size or (
                operator.attributes["padding"] == "same" and operator.attributes["stride"] != value.size):
            raise NotUnderstood(f"it averages over windows of {operator.attributes['window']} of a map of {value.size}")
        return self._pooled(value)

    def _pooled(self, value: Value) -> Value:
        value = with_unit(value)
        if value.pads or value.has_offset or isinstance(value.base, Pixels):
            raise NotUnderstood("it averages something that is not a feature map")
        return replace(value, base=Mean(value.base), size=(1, 1), pooled=True)

    def _pad(self, operator: Operator) -> Value:
        value = self._only(operator)
        if value.has_offset and not isinstance(value.base, Pixels):
            value = with_unit(value)
        if value.pads or value.pooled:
            raise NotUnderstood("it pads a map that is padded or pooled already")
        return replace(value, pads=operator.attributes["pads"])

    def _reshape(self, operator: Operator) -> Value:
        value = self._only(operator)
        if not (value.pooled or value.size == (1, 1)):
            raise NotUnderstood("it reorders a map that is not pooled")
        return value

    def _convolution(self, operator: Operator) -> Value:
        value = with_unit(self._only(operator))
        kernel, bias = self._weights(operator)
        attributes = operator.attributes
        is_dense = operator.kind == "fully_connected"
        if is_dense and not (value.pooled or value.size == (1, 1)):
            raise NotUnderstood("a fully connected layer takes a map that is not pooled")
        if attributes.get("dilation", (1, 1)) != (1, 1):
            raise NotUnderstood(f"its dilation is {attributes['dilation']}")
        vertical, horizontal = attributes.get("stride", (1, 1))
        if vertical != horizontal:
            raise NotUnderstood(f"its stride is {vertical} downwards and {horizontal} sideways")
        pads, size = self._padding(operator, value, kernel.value.shape[:2], vertical)
        scale, step = np.asarray(1.0), kernel.step
        if not isinstance(value.base, Pixels):
            if value.has_offset:
                raise NotUnderstood("it takes a tensor with a constant added")
            scale = value.scale[:, None] if value.scale.ndim else value.scale
        is_depthwise, same = operator.kind == "depthwise", attributes.get("padding") == "same"
        outs = kernel.value.shape[2 if is_depthwise else 3]
        if step is not None:
            inner = (0, 1, 3) if is_depthwise else (0, 1, 2)  # the kernel's axes other than the output channels'
            step = np.max(np.abs(np.broadcast_to(step * scale, kernel.value.shape)), axis=inner)
        conv = Convolution(
            operator, "depthwise" if is_depthwise else "conv", kernel.value * scale,
            np.zeros(outs) if bias is None else bias.value.reshape(-1).astype(np.float64), step,
            None if bias is None or bias.step is None else np.broadcast_to(bias.step.reshape(-1), (outs,)),
            vertical, pads, _named_padding(pads, same, kernel.value.shape[0], value.size, vertical), value.base)
        self.convolutions.append(conv)
        if isinstance(value.base, Pixels):
            self.first_inputs[conv] = (value.scale, value.offset)
        return Value(Raw(conv), size=size, pooled=value.pooled)

    def _weights(self, operator: Operator) -> tuple[Constant, Constant | None]:
        """Kernel as (height, width, in, out) or (height, width, channels, 1), and bias."""
        missing = [tensor for tensor in operator.inputs[1:] if tensor not in self._constants]
        if missing or len(operator.inputs) < 2:
            raise NotUnderstood("its kernel or bias is not constant")
        kernel = self._constants[operator.inputs[1]]
        if operator.kind == "fully_connected":
            kernel = kernel.turned(lambda a: (a.T if operator.attributes.get("transposed") else a)[None, None])
        if operator.kind == "depthwise" and kernel.value.shape[3] != 1:
            raise NotUnderstood(f"it makes {kernel.value.shape[3]} channels of each; a depthwise convolution makes one")
        return kernel, self._constants[operator.inputs[2]] if len(operator.inputs) > 2 else None

    def _padding(self, operator: Operator, value: Value, kernel: tuple[int, ...], stride: int
                 ) -> tuple[Pads | None, tuple[int, int] | None]:
        """Amounts, and size of the result; None where open."""
        padding = operator.attributes.get("padding", "valid")
        if value.pads and padding != "valid":
            raise NotUnderstood("it pads a map that is padded already")
        pads: Pads | None = value.pads or (0, 0, 0, 0)
        if padding == "same":
            pads = None if value.size is None else same_pads(value.size, kernel, stride)
        elif padding != "valid":
            pads = padding
        if value.size is None or pads is None:
            return pads, None
        return pads, ((value.size[0] + pads[0] + pads[1] - kernel[0]) // stride + 1,
                      (value.size[1] + pads[2] + pads[3] - kernel[1]) // stride + 1)


def same_pads(size: tuple[int, int], kernel: tuple[int, ...], stride: int) -> Pads:
    """What TensorFlow's SAME pads: (top, bottom, left, right)."""
    amounts: list[int] = []
    for length, side in zip(size, kernel, strict=True):
        total = max((math.ceil(length / stride) - 1) * stride + side - length, 0)
        amounts += [total // 2, total - total // 2]
    return amounts[0], amounts[1], amounts[2], amounts[3]


def channels(constant: Constant) -> np.ndarray:
    """A constant as a number or one for each channel.

    Raises:
        NotUnderstood: it differs between places of the map.
    """
    value = np.asarray(constant.value, np.float64)
    if value.size == 1:
        return value.reshape(())
    if value.shape[-1] != value.size:
        raise NotUnderstood(f"it takes a constant of shape {value.shape} that is not one number for each channel")
    return value.reshape(-1)


def _computed(operator: Operator, inputs: list[Constant]) -> Constant | None:
    """What an operator makes of constants; None where it is none of those that converters leave on constants."""
    if operator.kind == "identity":
        return inputs[0]
    if operator.kind == "reshape" and "shape" in operator.attributes and inputs[0].step is None:
        return Constant(inputs[0].value.reshape(operator.attributes["shape"]))
    if operator.kind == "reshape" and inputs[0].value.size == max(inputs[0].value.shape, default=1):
        return Constant(inputs[0].value.reshape(-1))  # one for each channel, in whatever shape
    if operator.kind == "rsqrt":
        return Constant(1 / np.sqrt(inputs[0].value))
    arithmetic = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
    if operator.kind in arithmetic and len(inputs) == 2 and operator.activation is None:
        return Constant(np.asarray(arithmetic[operator.kind](inputs[0].value, inputs[1].value)))
    return None


def _shifted(value: Value, amount: np.ndarray) -> Value:
    if value.pads and np.any(amount):
        raise NotUnderstood("it adds a constant to a padded map")
    return replace(value, offset=value.offset + amount)


def _named_padding(pads: Pads | None, same: bool, kernel: int, size: tuple[int, int] | None, stride: int) -> str | Pads:
    """See :attr:`ForeignConvolution.padding`."""
    if same or (kernel == 1 and not any(pads or ())):
        return "same"
    assert pads is not None
    if size is not None and pads == same_pads(size, (kernel, kernel), stride):
        return "same"
    if pads == (kernel // 2,) * 4:
        return "same" if stride == 1 else "symmetric"
    return pads if any(pads) else "valid"
