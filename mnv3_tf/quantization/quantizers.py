"""Fake quantization for tfmot: per-channel kernels, activation ranges that are trained from calibrated starts.

Everything here round-trips through `get_config`, as tfmot's classes do.
"""

from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras import quantize_config, quantizers

from mnv3_tf.quantization.lowering import LoweredOp
from mnv3_tf.quantization.operations import compute

BITS = 8


class KernelQuantizer(quantizers.Quantizer):
    """Symmetric 8-bit per output channel, range from the kernel itself.

    Args:
        depthwise: the kernel is (h, w, channels, 1) and has one scale per channel. It is reshaped to (h, w, 1, channels) for
            that, the one form that the converter recognises.
        floor: the largest weight of a channel counts as at least this. A scale that is too small would make a bias too large
            for the 32 bits that an integer file has for it.
    """

    def __init__(self, depthwise: bool, floor: float = 1e-8):
        self.depthwise, self.floor = depthwise, floor

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        return {}

    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        height, width, channels, multiplier = inputs.shape
        kernel = tf.reshape(inputs, (height, width, 1, channels * multiplier)) if self.depthwise else inputs
        high = tf.stop_gradient(tf.maximum(tf.reduce_max(tf.abs(kernel), axis=[0, 1, 2]), self.floor))
        fake = tf.quantization.fake_quant_with_min_max_vars_per_channel(kernel, -high, high, num_bits=BITS,
                                                                        narrow_range=True)
        return tf.reshape(fake, inputs.shape) if self.depthwise else fake

    def get_config(self) -> dict[str, Any]:
        return {"depthwise": self.depthwise, "floor": self.floor}


class RangeQuantizer(quantizers.Quantizer):
    """8-bit activations over a range that starts where it is set and is then trained by gradient.

    The ends of the range are the layer's variables `low` and `high`. The gradient of TensorFlow's fake quantization moves an
    end outwards where clipping costs more, inwards where resolution does (as in Jain et al., "Trained quantization
    thresholds", 2020). Moving averages of the batches' extremes, tfmot's rule, ended three times further from the float model
    in the measurements that docs/quantization.md gives.

    Args:
        floor, ceiling: an end that stays where it is, or None for a trained one.
        fixed: neither end is trained.
    """

    def __init__(self, floor: float | None = None, ceiling: float | None = None, fixed: bool = False):
        self.floor, self.ceiling, self.fixed = floor, ceiling, fixed

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        def end(key: str, start: float | None, otherwise: float) -> Any:
            return layer.add_weight(name=f"range_{key}", trainable=start is None and not self.fixed,
                                    initializer=tf_keras.initializers.Constant(otherwise if start is None else start))

        return {"low": end("low", self.floor, -1.0), "high": end("high", self.ceiling, 1.0)}

    def __call__(self, inputs: Any, training: Any, weights: dict[str, Any], **kwargs: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_vars(inputs, weights["low"], weights["high"], num_bits=BITS)

    def get_config(self) -> dict[str, Any]:
        return {"floor": self.floor, "ceiling": self.ceiling, "fixed": self.fixed}


class OpConfig(quantize_config.QuantizeConfig):
    """How one layer of the fake-quantized model is quantized.

    Args:
        kernel: None, "conv" or "depthwise".
        output: arguments of the output's :class:`RangeQuantizer`, or None for no quantization of the output.
        kernel_floor: of the :class:`KernelQuantizer`.
    """

    def __init__(self, kernel: str | None = None, output: dict[str, Any] | None = None, kernel_floor: float = 1e-8):
        self.kernel, self.output, self.kernel_floor = kernel, output, kernel_floor

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        if self.kernel is None:
            return []
        return [(layer.kernel, KernelQuantizer(self.kernel == "depthwise", self.kernel_floor))]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        if self.kernel is not None:
            layer.kernel = quantize_weights[0]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return []

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        return None

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [] if self.output is None else [RangeQuantizer(**self.output)]

    def get_config(self) -> dict[str, Any]:
        return {"kernel": self.kernel, "output": self.output, "kernel_floor": self.kernel_floor}


class Operation(tf_keras.layers.Layer):
    """An operation of the lowered network as a layer, for tfmot's wrapper; it computes what it computes everywhere else.

    Args:
        op: the operation.
        shape: of its output for one picture.
        kernel_shape: of a convolution's kernel.
    """

    def __init__(self, op: LoweredOp, shape: tuple[int, ...], kernel_shape: tuple[int, ...] | None = None):
        super().__init__(name=op.name.replace("/", "_"))
        self._op, self._shape = op, shape
        self.kernel = self.bias = None
        if kernel_shape is not None:
            self.kernel, self.bias = self.add_weight("kernel", kernel_shape), self.add_weight("bias", shape[-1:])

    def call(self, inputs: Any) -> Any:
        return compute(self._op, inputs if isinstance(inputs, (list, tuple)) else [inputs], self.kernel, self.bias)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return None, *self._shape
