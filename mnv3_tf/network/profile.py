"""Parameters and multiply-accumulate operations of a Keras model, layer by layer."""

import math
from dataclasses import dataclass

from mnv3_tf.backend import keras
from mnv3_tf.network.layer_names import display_name


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        name: as reports print it, such as ``block_07/depthwise``.
        kind: the layer's class.
        output: shape without the batch.
        parameters: weights, BatchNorm's statistics included.
        macs: multiply-accumulates per picture in convolutions and dense layers; other layers count 0.
    """

    name: str
    kind: str
    output: tuple[int | None, ...]
    parameters: int
    macs: int


def profile(model: keras.Model) -> tuple[LayerRow, ...]:
    """Every layer of a functional model, in order. The input's size must be fixed for MACs to count."""
    return tuple(LayerRow(display_name(layer.name), type(layer).__name__, tuple(layer.output.shape[1:]),
                          layer.count_params(), _macs(layer)) for layer in model.layers)


def count_macs(model: keras.Model) -> int:
    """Multiply-accumulates per picture in all convolutions and dense layers."""
    return sum(row.macs for row in profile(model))


def _macs(layer: keras.Layer) -> int:
    if not isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D | keras.layers.Dense):
        return 0
    return math.prod(side or 0 for side in layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
