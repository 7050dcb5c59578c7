"""Which network a feature extractor is the lower part of, for want of a card."""

from typing import Any

import keras
import numpy as np

from mnv3_tf.config import ModelConfig, load_config
from mnv3_tf.errors import InputError
from mnv3_tf.spec import DIALECTS, SPECS, Dialect, find_spec, scale_blocks, stem_width

# The published width multipliers first; then every one that anybody is likely to have.
_ALPHAS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.25, 1.5, *(round(0.05 * step, 2) for step in range(2, 41)))


def identify_body(model: keras.Model) -> ModelConfig:
    """The settings of the network whose layers from `stem_conv` to its last block a model has.

    Of dialects that make equal layers, the first one in the order of :data:`mnv3_tf.spec.DIALECTS`.

    Args:
        model: with this kit's layer names and no `head_conv`.

    Raises:
        InputError: no network of the built-in tables has these blocks.
    """
    kernels = {layer.name: tuple(layer.kernel.shape) for layer in model.layers
               if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)}
    layers = {layer.name: layer for layer in model.layers}
    found = {name: shape for name, shape in kernels.items() if name == "stem_conv" or name.startswith("block_")}
    for alpha in _ALPHAS:
        for dialect in DIALECTS.values():
            for name in SPECS if found and _same_details(layers, dialect) else ():
                if _kernels(name, dialect.name, alpha) == found:
                    found_keys = {"name": name, "alpha": alpha, "dialect": dialect.name}
                    return load_config(None, [f"model.{key}={value}" for key, value in found_keys.items()]).model
    raise InputError(f"{model.name}: its layers are not the blocks of {', '.join(SPECS)} at any alpha from 0.1 to 2 in any "
                     f"dialect ({', '.join(DIALECTS)}). Give the card that was written beside the model.")


def _kernels(name: str, dialect: str, alpha: float) -> dict[str, tuple[int, ...]]:
    """Layer -> shape of its kernel, without the head."""
    spec = find_spec(name, dialect)
    kernels: dict[str, tuple[int, ...]] = {"stem_conv": (3, 3, 3, stem_width(spec, alpha))}
    for block in scale_blocks(spec, alpha):
        if block.has_expand:
            kernels[f"{block.name}_expand"] = (1, 1, block.input, block.expansion)
        kernels[f"{block.name}_depthwise"] = (block.kernel, block.kernel, block.expansion, 1)
        if block.squeeze:
            kernels[f"{block.name}_se_reduce"] = (1, 1, block.expansion, block.squeeze)
            kernels[f"{block.name}_se_expand"] = (1, 1, block.squeeze, block.expansion)
        kernels[f"{block.name}_project"] = (1, 1, block.expansion, block.out)
    return kernels


def _same_details(layers: dict[str, Any], dialect: Dialect) -> bool:
    """Whether padding, BatchNorm's epsilon and normalization are the dialect's."""
    batchnorm, rescale = layers.get("stem_conv_bn"), layers.get("rescale")
    return (batchnorm is not None and bool(np.isclose(batchnorm.epsilon, dialect.batchnorm_epsilon, rtol=1e-3))
            and ("stem_conv_pad" in layers) == dialect.symmetric_padding
            and (rescale is None or all(np.allclose(given, own, rtol=1e-4) for given, own in
                                        zip((rescale.scale, rescale.offset), dialect.rescaling(), strict=True))))
