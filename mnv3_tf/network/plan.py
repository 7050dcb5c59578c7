"""The plan of a network: its convolutions in order with their channels, made of block table and alpha in this place alone.

The builder makes Keras layers of it. What needs to know a network without building it reads the plan: which variables its weights
have, which network named tensors or the convolutions of a graph are of, and which units training can freeze.
"""

from dataclasses import dataclass
from typing import Literal

from mnv3_tf.network.spec import NetworkSpec

Role = Literal["stem", "expand", "depthwise", "se_reduce", "se_expand", "project", "head_conv", "head_expand", "classifier"]
Shape = tuple[int, ...]

BATCHNORM = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class Part:
    """One convolution, with the BatchNorm and the activation that follow it.

    Attributes:
        role: what it is in its block or in the network.
        block: number of the block, from 1; 0 outside of blocks.
        kernel: (height, width, input, output), of a depthwise convolution (height, width, channels, 1).
        stride: 1 or 2.
        activation: "relu", "hard_swish", "hard_sigmoid" or None.
        batchnorm: whether a BatchNorm follows.
        bias: whether it has a bias.
        residual: of a projection, whether the block's input is added to it.
    """

    role: Role
    block: int
    kernel: Shape
    stride: int = 1
    activation: str | None = None
    batchnorm: bool = True
    bias: bool = False
    residual: bool = False

    @property
    def layer(self) -> str:
        """The Keras layer's name, such as ``block_07_depthwise``; that of its BatchNorm ends in ``_bn``."""
        return layer_name(self.role, self.block)

    @property
    def outputs(self) -> int:
        """Channels that come out."""
        return self.kernel[2] if self.role == "depthwise" else self.kernel[3]

    def variables(self) -> dict[str, Shape]:
        """``layer/variable`` -> shape, as Keras names them."""
        found: dict[str, Shape] = {f"{self.layer}/kernel": self.kernel}
        if self.bias:
            found[f"{self.layer}/bias"] = (self.outputs,)
        if self.batchnorm:
            found.update({f"{self.layer}_bn/{name}": (self.outputs,) for name in BATCHNORM})
        return found


def layer_name(role: Role, block: int) -> str:
    """The name of the layer with this role in this block (0: in none)."""
    if block:
        return f"block_{block:02d}_{role}"
    return "stem_conv" if role == "stem" else role


def network_parts(spec: NetworkSpec, alpha: float, classes: int | None) -> tuple[Part, ...]:
    """Every convolution in the network's order.

    Args:
        spec: the network.
        alpha: width multiplier, > 0.
        classes: width of the classifier; None for a network without the layers after pooling.
    """
    dialect = spec.dialect
    table_input = spec.inplanes
    channels = make_divisible(spec.inplanes * alpha) if alpha >= dialect.stem_scaled_from else spec.inplanes
    parts = [Part("stem", 0, (3, 3, 3, channels), 2, spec.activation)]
    for number, row in enumerate(spec.blocks, start=1):
        wide = channels
        if number > 1 or dialect.first_block_expands or row.expansion != table_input:
            wide = make_divisible(channels * (row.expansion / table_input) if dialect.expansion_from_input
                                  else row.expansion * alpha)
            parts.append(Part("expand", number, (1, 1, channels, wide), 1, row.activation))
        parts.append(Part("depthwise", number, (row.kernel, row.kernel, wide, 1), row.stride, row.activation))
        if row.squeeze_excite:
            squeeze = make_divisible(wide * 0.25) if dialect.squeeze_divisible else max(1, wide // 4)
            parts.append(Part("se_reduce", number, (1, 1, wide, squeeze), 1, "relu", batchnorm=False, bias=True))
            parts.append(Part("se_expand", number, (1, 1, squeeze, wide), 1, "hard_sigmoid", batchnorm=False, bias=True))
        out = make_divisible(row.out * alpha)
        parts.append(Part("project", number, (1, 1, wide, out), residual=row.stride == 1 and out == channels))
        table_input, channels = row.out, out
    before, after = head_widths(spec, alpha)
    parts.append(Part("head_conv", 0, (1, 1, channels, before), 1, spec.activation))
    if classes is not None:
        parts.append(Part("head_expand", 0, (1, 1, before, after), 1, spec.activation, batchnorm=False, bias=dialect.head_bias))
        parts.append(Part("classifier", 0, (1, 1, after, classes), batchnorm=False, bias=True))
    return tuple(parts)


def head_widths(spec: NetworkSpec, alpha: float) -> tuple[int, int]:
    """Channels of the convolutions before and after the global average pooling."""
    dialect = spec.dialect
    if spec.class_squeeze is not None or dialect.head_squeeze_from_table:
        before = make_divisible((spec.class_squeeze or 6 * spec.blocks[-1].out) * alpha)
    else:
        before = make_divisible(make_divisible(spec.blocks[-1].out * alpha) * 6)
    return before, make_divisible(spec.class_expand * alpha) if dialect.head_grows(alpha) else spec.class_expand


def make_divisible(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and never more than 10% below `value` (TF-slim's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def expected_shapes(spec: NetworkSpec, alpha: float, classes: int | None) -> dict[str, Shape]:
    """``layer/variable`` -> shape of every variable that :func:`mnv3_tf.MobileNetV3` makes, in the network's order.

    Args: as for :func:`network_parts`.
    """
    return {name: shape for part in network_parts(spec, alpha, classes) for name, shape in part.variables().items()}
