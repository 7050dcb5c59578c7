"""Fake quantization for tfmot: per-channel kernels, activation ranges that are trained from calibrated starts.

Everything here round-trips through `get_config`, as tfmot's classes do.
"""

from typing import Any

import tensorflow as tf
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras import quantize_config, quantizers

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

    def _attribute(self) -> str:
        return "depthwise_kernel" if self.kernel == "depthwise" else "kernel"

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        if self.kernel is None:
            return []
        return [(getattr(layer, self._attribute()), KernelQuantizer(self.kernel == "depthwise", self.kernel_floor))]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        if self.kernel is not None:
            setattr(layer, self._attribute(), quantize_weights[0])

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        return []

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        return None

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [] if self.output is None else [RangeQuantizer(**self.output)]

    def get_config(self) -> dict[str, Any]:
        return {"kernel": self.kernel, "output": self.output, "kernel_floor": self.kernel_floor}


class InputUnits(tf_keras.layers.Layer):
    """Passes its input on; the place where the input is quantized."""

    def call(self, inputs: Any) -> Any:
        return tf.identity(inputs)


class HardSwishGate(tf_keras.layers.Layer):
    """relu6(x + 3), which the converter makes one ADD of."""

    def call(self, inputs: Any) -> Any:
        return tf.nn.relu6(inputs + 3.0)


class Negate(tf_keras.layers.Layer):
    """-x, which the converter leaves float."""

    def call(self, inputs: Any) -> Any:
        return -inputs


class _SymmetricPadding:
    """What a convolution that is built without padding needs for (kernel - 1) / 2 zeros on every side of its input."""

    kernel_size: tuple[int, int]

    def _padded(self, inputs: Any) -> Any:
        height, width = (side // 2 for side in self.kernel_size)
        return tf.pad(inputs, [[0, 0], [height, height], [width, width], [0, 0]])

    def compute_output_shape(self, input_shape: Any) -> Any:
        batch, *sides, channels = tf.TensorShape(input_shape).as_list()
        grown = [None if side is None else side + 2 * (kernel // 2)
                 for side, kernel in zip(sides, self.kernel_size, strict=True)]
        return super().compute_output_shape((batch, *grown, channels))  # type: ignore[misc]


class PaddedConv(_SymmetricPadding, tf_keras.layers.Conv2D):
    """A convolution with symmetric padding."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        return super().convolution_op(self._padded(inputs), kernel)


class PaddedDepthwise(_SymmetricPadding, tf_keras.layers.DepthwiseConv2D):
    """A depthwise convolution with symmetric padding."""

    def call(self, inputs: Any) -> Any:
        return super().call(self._padded(inputs))


class NativeHardSwish(tf_keras.layers.Layer):
    """x * relu6(x + 3) / 6 in the form that the converter makes one HARD_SWISH of."""

    def call(self, inputs: Any) -> Any:
        return inputs * tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@tf_keras.utils.register_keras_serializable("mnv3_tf")
def relu6(inputs: Any) -> Any:
    """min(max(x, 0), 6), which the converter fuses into the convolution before it."""
    return tf.nn.relu6(inputs)
