"""What is recovered from a foreign file: the network's convolutions in order, in the network's own units."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mnv3_tf.network.plan import Role, layer_name

Pads = tuple[int, int, int, int]
Channels = tuple[float, float, float]


def rgb(values: np.ndarray) -> Channels:
    """A number, or one for each channel, as three; minus zero as zero."""
    red, green, blue = (float(value) + 0.0 for value in np.broadcast_to(values, (3,)))
    return red, green, blue


@dataclass(frozen=True, eq=False)
class ForeignConvolution:
    """A convolution of the network, or a fully connected layer written as one.

    Attributes:
        name: what the file calls its operator or result.
        place: the operator's number, kind and name, for messages.
        kind: "conv" or "depthwise".
        kernel: float32 (height, width, in, out), or (height, width, channels, 1) of a depthwise one; in true units: between
            tensors that no converter's factor has scaled.
        bias: float32 (out,), likewise; a BatchNorm that the file leaves apart is folded in.
        stride: 1 or 2 (or what the file says).
        padding: "same" where the amounts are those of TensorFlow's SAME at this size, "symmetric" where they are (kernel - 1) / 2
            on every side and differ from that, "valid" for none; else (top, bottom, left, right).
        pads: the amounts (top, bottom, left, right), None where the file leaves the input's size open.
        activation: None, "relu", "hard_swish" or "hard_sigmoid" (clip(x / 6 + 0.5, 0, 1), whatever slope the file has).
        role: its part in the network.
        block: number of its block from 1, 0 outside of the blocks.
        kernel_step: size of a quantization step of the kernel for each output channel, (out,), in true units; None if not
            quantized.
        bias_step: the same of the bias.
    """

    name: str
    place: str
    kind: Literal["conv", "depthwise"]
    kernel: np.ndarray
    bias: np.ndarray
    stride: int
    padding: str | Pads
    pads: Pads | None
    activation: str | None
    role: Role
    block: int
    kernel_step: np.ndarray | None
    bias_step: np.ndarray | None

    @property
    def layer(self) -> str:
        """The name of the layer that :func:`mnv3_tf.MobileNetV3` has in this place."""
        return layer_name(self.role, self.block)


@dataclass(frozen=True, eq=False)
class ForeignNetwork:
    """A MobileNetV3 inside a file.

    Attributes:
        path: the file.
        format: "tflite" or "tfjs".
        convolutions: in order of execution.
        height, width: of the input in pixels, None where the file leaves them open.
        residual_adds: numbers of the blocks whose input is added to their output.
        input_scale, input_offset: by channel: the first convolution sees scale * (input tensor, as a real number) + offset.
        pixel_scale, pixel_offset: by channel: it sees scale * pixel + offset, for RGB pixels 0..255; None where the file does
            not say how pixels become its input (a float input without rescaling).
        ignored: places of the operators that are no part of the network: heads of other tasks, a softmax.
        stopped: why the network ends where it does, None where it goes on to a classifier.
    """

    path: str
    format: Literal["tflite", "tfjs"]
    convolutions: tuple[ForeignConvolution, ...]
    height: int | None
    width: int | None
    residual_adds: tuple[int, ...]
    input_scale: Channels
    input_offset: Channels
    pixel_scale: Channels | None
    pixel_offset: Channels | None
    ignored: tuple[str, ...]
    stopped: str | None

    @property
    def block_count(self) -> int:
        """Inverted residual blocks."""
        return max((conv.block for conv in self.convolutions), default=0)

    @property
    def head(self) -> tuple[ForeignConvolution, ...]:
        """The convolutions after the blocks: none, the one before pooling, or all three."""
        return tuple(conv for conv in self.convolutions if conv.role in ("head_conv", "head_expand", "classifier"))

    @property
    def classes(self) -> int | None:
        """Width of the classifier, None where there is none."""
        last = self.convolutions[-1]
        return len(last.bias) if last.role == "classifier" else None
