"""What a lowered operation computes, in TensorFlow."""

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from mnv3_tf.quantization.lowering import LoweredOp

# What an operation without weights computes.
_PLAIN: dict[str, Any] = {
    "input": tf.identity, "gate": lambda x: tf.nn.relu6(x + 3.0), "negate": lambda x: -x,
    "hard_swish": lambda x: x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0), "multiply": lambda x, y: x * y, "add": lambda x, y: x + y,
    "pool": lambda x: tf.reduce_mean(x, axis=(1, 2), keepdims=True),
    "flatten": lambda x: tf.reshape(x, (-1, math.prod(x.shape[1:])))}
_ACTIVATIONS: dict[str, Any] = {"relu": tf.nn.relu, "relu6": tf.nn.relu6}


def compute(op: LoweredOp, inputs: Sequence[Any], kernel: Any = None, bias: Any = None) -> Any:
    """An operation's output, a tensor in the lowered network's units; a convolution's with its kernel and bias."""
    if kernel is None:
        return _PLAIN[op.kind](*(tf.convert_to_tensor(values, tf.float32) for values in inputs))
    value = tf.nn.bias_add(convolve(op, inputs[0], kernel), bias)
    return _ACTIVATIONS[op.activation](value) if op.activation else value


def convolve(op: LoweredOp, values: Any, kernel: Any) -> Any:
    """A convolution's sums of products, without bias."""
    padding = op.padding.upper()
    if op.padding == "symmetric":
        height, width = (side // 2 for side in kernel.shape[:2])
        values, padding = tf.pad(values, [[0, 0], [height, height], [width, width], [0, 0]]), "VALID"
    if op.kind == "depthwise":
        return tf.nn.depthwise_conv2d(values, kernel, (1, op.stride, op.stride, 1), padding)
    return tf.nn.conv2d(values, kernel, op.stride, padding)
