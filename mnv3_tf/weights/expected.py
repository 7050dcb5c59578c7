"""The network's convolutions and variables as pure data, before (and without) any Keras layer.

:mod:`mnv3_tf.network.build` builds the layers; this says which variables they will have, so that weights can be checked, and the
variant that fits them looked for, without building a network for each.
"""

from dataclasses import dataclass
from typing import Literal

from mnv3_tf.network.spec import NetworkSpec, head_widths, scale_blocks, stem_width

Role = Literal["stem", "expand", "depthwise", "se_reduce", "se_expand", "project", "head_conv", "head_expand", "classifier"]
Shape = tuple[int, ...]

BATCHNORM = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class Part:
    """One convolution, with the BatchNorm that follows it.

    Attributes:
        layer: the Keras layer's name, such as ``block_07_depthwise``; that of its BatchNorm ends in ``_bn``.
        role: what it is in its block or in the network.
        block: number of the block, from 1; 0 outside of blocks.
        kernel: (height, width, input, output), of a depthwise convolution (height, width, channels, 1).
        batchnorm: whether a BatchNorm follows.
        bias: whether it has a bias.
    """

    layer: str
    role: Role
    block: int
    kernel: Shape
    batchnorm: bool
    bias: bool

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


def network_parts(spec: NetworkSpec, alpha: float, classes: int | None) -> tuple[Part, ...]:
    """Every convolution in the network's order.

    Args:
        spec: the network.
        alpha: width multiplier, > 0.
        classes: width of the classifier; None for a network without the layers after pooling.
    """
    stem = stem_width(spec, alpha)
    parts = [Part("stem_conv", "stem", 0, (3, 3, 3, stem), True, False)]
    channels = stem
    for number, block in enumerate(scale_blocks(spec, alpha), start=1):
        def add(role: Role, kernel: Shape, batchnorm: bool = True, name: str = block.name, number: int = number) -> None:
            parts.append(Part(f"{name}_{role}", role, number, kernel, batchnorm, not batchnorm))

        if block.has_expand:
            add("expand", (1, 1, block.input, block.expansion))
        add("depthwise", (block.kernel, block.kernel, block.expansion, 1))
        if block.squeeze:
            add("se_reduce", (1, 1, block.expansion, block.squeeze), batchnorm=False)
            add("se_expand", (1, 1, block.squeeze, block.expansion), batchnorm=False)
        add("project", (1, 1, block.expansion, block.out))
        channels = block.out
    before, after = head_widths(spec, alpha)
    parts.append(Part("head_conv", "head_conv", 0, (1, 1, channels, before), True, False))
    if classes is not None:
        parts.append(Part("head_expand", "head_expand", 0, (1, 1, before, after), False, spec.dialect.head_bias))
        parts.append(Part("classifier", "classifier", 0, (1, 1, after, classes), False, True))
    return tuple(parts)


def expected_shapes(spec: NetworkSpec, alpha: float, classes: int | None) -> dict[str, Shape]:
    """``layer/variable`` -> shape of every variable that :func:`mnv3_tf.MobileNetV3` makes, in the network's order.

    Args: as for :func:`network_parts`.
    """
    return {name: shape for part in network_parts(spec, alpha, classes) for name, shape in part.variables().items()}
