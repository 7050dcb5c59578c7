"""Which network a feature extractor is the lower part of, where there is no card."""

import keras

from mnv3_tf.config import ModelConfig, load_config
from mnv3_tf.errors import InputError
from mnv3_tf.network.spec import DIALECTS, SPECS, find_spec, scale_blocks, stem_width
from mnv3_tf.weights.matching import same_details, same_normalization

# The published width multipliers first; then every one that anybody is likely to have.
_ALPHAS = (1.0, 0.75, 0.5, 0.35, 0.25, 1.25, 1.5, *(round(0.05 * step, 2) for step in range(2, 41)))


def identify_body(model: keras.Model) -> ModelConfig:
    """The settings of the network whose layers from `stem_conv` to its last block a model has.

    Of dialects that make equal layers, one with the model's normalization, else the first in the order of
    :data:`mnv3_tf.network.spec.DIALECTS`: a normalization of no dialect is one that was given on import.

    Args:
        model: with this kit's layer names and no `head_conv`.

    Raises:
        InputError: no network of the built-in tables has these blocks.
    """
    kernels = {layer.name: tuple(layer.kernel.shape) for layer in model.layers
               if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)}
    layers = {layer.name: layer for layer in model.layers}
    found = {name: shape for name, shape in kernels.items() if name == "stem_conv" or name.startswith("block_")}
    fitting = sorted((dialect for dialect in DIALECTS if same_details(layers, dialect)),
                     key=lambda dialect: not same_normalization(layers, dialect))
    for alpha in _ALPHAS:
        for dialect in fitting if found else ():
            for name in SPECS:
                if _kernels(name, dialect, alpha) == found:
                    found_keys = {"name": name, "alpha": alpha, "dialect": dialect}
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

