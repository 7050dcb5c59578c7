"""The quantized network in whole numbers: exactly what an int8 file of it computes.

Fake quantization computes in float32 and rounds to 8-bit grids. Where a value lies half-way between two of them, float32 and
integers may choose differently; in a deep network one such choice moves the logits by one or two steps. Training does not mind.
What is scored, shown, and compared with files is computed here, by the rules of the kernels that will run it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from mnv3_tf.errors import KitError
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.integer_arithmetic import KERNELS, QuantParams
from mnv3_tf.quantization.lowering import LoweredGraph, LoweredOp, lower, walk
from mnv3_tf.quantization.operations import convolve

Kernels = Literal["xnnpack", "reference"]

# Whole numbers up to here are exact in float32.
_EXACT = 2.0 ** 24
# The constant of a hard-swish's gate, relu6(x + 3), as the converter stores it: level 127 of a grid over 0..3.
_THREE = QuantParams.of_range(0.0, 3.0)


def has_integer_form(lowered: LoweredGraph) -> bool:
    """Whether all of a network's file is integer arithmetic that is known here.

    It is not where blocks are left float, nor for the HARD_SWISH operator of the "native" lowering.
    """
    return lowered.lowering == "xnnpack" and not lowered.folded.float_blocks


class IntegerNetwork:
    """A fake-quantized network, computed in whole numbers.

    Args:
        network: the fake-quantized model, lowered for XNNPACK, nothing left float. Its weights and ranges are read here and by
            :meth:`refresh`; biases are rounded to the grid that a file has for them.
        kernels: "xnnpack", or "reference" for TFLite's reference kernels.

    Raises:
        KitError: the network has no integer form (:func:`has_integer_form`).
    """

    def __init__(self, network: LoweredNetwork, kernels: Kernels = "xnnpack"):
        if not has_integer_form(network.lowered):
            raise KitError("A network with blocks left float, or lowered for native hard-swishes, has no integer form here. "
                           "QuantizedNetwork computes it with fake quantization.")
        self._network, self._arithmetic = network, KERNELS[kernels]
        self.refresh()

    def refresh(self) -> None:
        """Reads the fake-quantized model's weights and ranges again."""
        learned: list[Any] = [*self._network.weights().values(), *self._network.ranges().values()]
        self._finite = all(np.isfinite(values).all() for pair in learned for values in pair)
        if not self._finite:
            return
        self.quant_params: dict[str, QuantParams] = {}
        for op in self._network.lowered.ops:
            self.quant_params[op.name] = (self.quant_params[op.inputs[0]] if op.kind == "flatten"
                                          else self._network.quant_params(op))
        self._constants = {op.name: tuple(map(tf.constant, self._prepared(op))) for op in self._network.lowered.ops}

    def _prepared(self, op: LoweredOp) -> tuple[Any, ...]:
        """The constants of an operation; the ends of its output are the last two."""
        output = self.quant_params[op.name]
        inputs = [self.quant_params[name] for name in op.inputs]
        ends = tuple(np.float32(end) for end in output.ends)
        arithmetic = self._arithmetic
        if op.kind in ("conv", "depthwise"):
            kernel, bias = self._network.integers(op)
            axes = (0, 1, 3) if op.kind == "depthwise" else (0, 1, 2)
            reach = np.abs(kernel).sum(axis=axes) * max(-inputs[0].ends[0], inputs[0].ends[1]) + np.abs(bias)
            exact = np.float32 if reach.max() < _EXACT else np.float64
            scales = self._network.kernel_steps(op).astype(np.float32)
            return (kernel.astype(exact), bias.astype(exact), *arithmetic.convolving(inputs[0], scales, output), *ends)
        if op.kind == "multiply":
            return (*arithmetic.multiplying(inputs[0], inputs[1], output), *ends)
        if op.kind in ("add", "gate"):
            return (*arithmetic.adding(inputs[0], inputs[1] if op.kind == "add" else _THREE, output), *ends)
        if op.kind == "pool":
            return (*arithmetic.averaging(inputs[0], output, self._network.places(op.inputs[0])), *ends)
        return ()

    def _compute(self, centred: Any, names: Sequence[str]) -> list[Any]:
        """Some tensors, centred, from the centred input. Not in a `tf.function`: tracing it takes longer than computing."""
        def compute(op: LoweredOp, inputs: list[Any]) -> Any:
            return self._apply(op, inputs, self._constants[op.name]) if inputs else centred

        found = {op.name: output for op, output in walk(self._network.lowered.ops, compute) if op.name in names}
        return [found[name] for name in names]

    def _apply(self, op: LoweredOp, inputs: list[Any], constants: Any) -> Any:
        arithmetic = self._arithmetic
        if op.kind == "flatten":
            return tf.reshape(inputs[0], (tf.shape(inputs[0])[0], -1))
        *constants, low, high = constants
        if op.kind in ("conv", "depthwise"):
            kernel, bias, *constants = constants
            value = arithmetic.rescale(convolve(op, tf.cast(inputs[0], kernel.dtype), kernel) + bias, constants)
        elif op.kind == "multiply":
            value = arithmetic.rescale(inputs[0] * inputs[1], constants)
        elif op.kind == "add":
            value = arithmetic.add(inputs[0], inputs[1], constants)
        elif op.kind == "gate":
            value = arithmetic.add(inputs[0], tf.fill((1, 1, 1, 1), _THREE.ends[1]), constants)
        else:
            value = arithmetic.average(tf.reduce_sum(inputs[0], axis=(1, 2), keepdims=True), constants)
        return tf.clip_by_value(value, low, high)

    def tensors(self, names: Sequence[str], pixels: np.ndarray) -> list[np.ndarray]:
        """The 8-bit levels, int8, of some operations' outputs, for pixels (n, height, width, 3) in 0..255."""
        return [(found + self.quant_params[name].zero_point).astype(np.int8)
                for name, found in zip(names, self._run(pixels, names), strict=True)]

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 (n, classes) of pixels (n, height, width, 3) in 0..255; not numbers where training diverged."""
        if not self._finite:
            return np.full((len(pixels), self._network.lowered.folded.classes), np.nan, np.float32)
        last = self._network.lowered.ops[-1].name
        return self._run(pixels, (last,))[0] * self.quant_params[last].scale

    def _run(self, pixels: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        centred = np.asarray(pixels, np.float32) - np.float32(self._network.lowered.folded.zero_pixel)
        with tf.device("/CPU:0"):
            return [tensor.numpy() for tensor in self._compute(tf.constant(centred), names)]


class QuantizedNetwork:
    """The quantized network as it is scored and compared: in whole numbers wherever it has an integer form.

    Args:
        network: its fake-quantized model.

    Attributes:
        exact: whether :meth:`logits` are those of an int8 file, bit by bit. Where blocks are left float they are not, and fake
            quantization answers.
    """

    def __init__(self, network: LoweredNetwork):
        self.fake_quantized = network
        self.exact = has_integer_form(network.lowered)
        self._integers = IntegerNetwork(network) if self.exact else None

    @classmethod
    def of(cls, graph: FoldedGraph, ranges: Ranges) -> "QuantizedNetwork":
        """The network of a quantized run."""
        return cls(LoweredNetwork(lower(graph), ranges))

    def refresh(self) -> None:
        """Reads the fake-quantized model's weights and ranges again."""
        if self._integers is not None:
            self._integers.refresh()

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 (n, classes) of pixels (n, height, width, 3) in 0..255."""
        return self.fake_quantized.logits(pixels) if self._integers is None else self._integers.logits(pixels)

    def reference(self) -> IntegerNetwork:
        """The same network as TFLite's reference kernels round.

        Raises:
            KitError: it has no integer form.
        """
        return IntegerNetwork(self.fake_quantized, "reference")
