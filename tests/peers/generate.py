"""Weights and pictures from a seed, the same in every package's environment: a tensor follows from its name and shape.

Needs NumPy only. The values make every part of the network matter: variances of 0.3 to 2, scales of 0.5 to 1.5, activations on
all sides of the knees of hard-swish and hard-sigmoid.
"""

import zlib
from collections.abc import Sequence

import numpy as np

# Ends of the names of the bias before a gate, in each package.
_GATE_BIASES = (".fc2.bias", ".conv_expand.bias", ".mid_se.conv2.bias", "squeeze_excite/Conv_1/bias")

# The kernel after the average pooling, which leaves little to see: larger, so that hard-swish bends there too.
_AFTER_POOLING = ("classifier.0.weight", "conv_head.weight", "last_conv.weight", "Conv_2/kernel")


def tensor(name: str, shape: Sequence[int]) -> np.ndarray:
    """The float32 values of a tensor.

    Args:
        name: in the package: PyTorch's, PaddlePaddle's, or for Keras that of a variable in Keras 2 without ``:0``.
        shape: as the package has it.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    last = name.replace("/", ".").rpartition(".")[2]
    if last in ("running_var", "_variance", "moving_variance"):
        values = rng.uniform(0.3, 2.0, shape)
    elif last in ("running_mean", "_mean", "moving_mean"):
        values = rng.normal(0.0, 0.1, shape)
    elif len(shape) == 1 and last in ("weight", "gamma"):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = rng.normal(0.0, 2.5 if name.endswith(_GATE_BIASES) else 0.2, shape)
    else:
        inputs = _input_axis(name, shape)
        values = rng.normal(0.0, 4.0 if name in _AFTER_POOLING else 1.3, shape)
        values /= np.sqrt(values.size / shape[_output_axis(name, shape)])
        if shape[inputs] > 3:
            # Kernels that add up to nothing take away what all pictures have in common after a ReLU; else every layer would make
            # the answers to two pictures more alike, until a mistake at the input could not be seen any more.
            values -= values.mean(axis=inputs, keepdims=True)
    return values.astype(np.float32)


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """uint8 (count, height, width, 3): coarse colours with noise on top."""
    rng = np.random.default_rng(height * 10_000 + width)
    rows, columns = (np.arange(side) * 5 // side for side in (height, width))
    coarse = rng.integers(0, 200, (count, 5, 5, 3))[:, rows][:, :, columns]
    return np.clip(coarse + rng.integers(-40, 60, (count, height, width, 3)), 0, 255).astype(np.uint8)


def _input_axis(name: str, shape: Sequence[int]) -> int:
    """Where a kernel's input channels are: Keras's (h, w, in, out), PaddlePaddle's Linear (in, out), else PyTorch's
    (out, in, ...). A depthwise kernel has an axis of length 1 there."""
    if "/" in name:
        return 3 if name.endswith("depthwise_kernel") else 2
    return 0 if name == "fc.weight" else 1


def _output_axis(name: str, shape: Sequence[int]) -> int:
    if "/" in name:
        return 2 if name.endswith("depthwise_kernel") else 3
    return 1 if name == "fc.weight" else 0
