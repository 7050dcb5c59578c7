"""Puts a foreign network's convolutions into a Keras model that this kit builds."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.weights.graphs.match import Candidate
from mnv3_tf.weights.graphs.recovered import Channels, ForeignConvolution, ForeignNetwork


@dataclass(frozen=True, eq=False)
class Assigned:
    """A Keras model with a foreign network's weights.

    Attributes:
        model: takes RGB pixels 0..255; gives logits, or without a head the last feature map.
        layers: names of the layers that took weights, in order.
        notes: what a user should know, a sentence each.
        border_pixel: the pixel value that the zeros around the picture stand for, by channel: (in the file, in the model).
            Where they differ, so do the features at the border.
    """

    model: Any
    layers: tuple[str, ...]
    notes: tuple[str, ...]
    border_pixel: tuple[Channels, Channels]


def to_keras(network: ForeignNetwork, candidate: Candidate, *, input_size: tuple[int, int] | None = None,
             dropout: float = 0.2) -> Assigned:
    """Builds the candidate and assigns the convolutions by order.

    Every BatchNorm becomes the addition of a bias, exactly: gamma is sqrt(1 + epsilon), the moving mean 0 and variance 1. The
    network without a head ends with its last block; with the convolution before pooling, there.

    The model's Rescaling is the dialect's; where the file's stem sees pixels otherwise, its kernel and bias take on the
    difference. That is exact but where a convolution pads the picture: see :attr:`Assigned.border_pixel`.

    Args:
        network: from :func:`mnv3_tf.weights.graphs.read_convolutions`.
        candidate: from :func:`mnv3_tf.weights.graphs.match.match_spec`.
        input_size: (height, width) of the model; the file's own if None.
        dropout: before the classifier, in training.

    Raises:
        InputError: it is not known what the file's input holds or how large it is, or a bias has no place in the dialect.
    """
    import keras

    from mnv3_tf.models import MobileNetV3

    size = input_size or (network.height, network.width)
    if not size[0] or not size[1]:
        raise InputError(f"{network.path}: leaves the size of its input open; give the size, such as 224.")
    if network.pixel_scale is None or network.pixel_offset is None:
        raise InputError(f"{network.path}: does not say what its float input holds, and nothing is assumed. Give mean and std of "
                         "its pixels.")
    scale, offset = np.asarray(network.pixel_scale), np.asarray(network.pixel_offset)
    model = MobileNetV3(candidate.spec, input_shape=(*size, 3), alpha=candidate.alpha, classes=candidate.classes or 1,
                        include_top=candidate.head == "classifier", dropout=dropout)
    count = {"none": 0, "features": 1, "classifier": 3}[candidate.head]
    kept = [conv for conv in network.convolutions if conv not in network.head] + list(network.head[:count])
    if candidate.head == "none":
        last = f"block_{network.block_count:02d}_"
        end = next(name for name in (f"{last}add", f"{last}project_bn") if name in {layer.name for layer in model.layers})
        model = keras.Model(model.input, model.get_layer(end).output, name=model.name)
    model_scale, model_offset = (np.asarray(values, np.float64) for values in candidate.spec.dialect.rescaling())
    gain, rest = scale / model_scale, offset - scale / model_scale * model_offset
    for number, conv in enumerate(kept):
        kernel, bias = conv.kernel, conv.bias
        if number == 0:
            bias = (bias + np.einsum("hwio,i->o", kernel.astype(np.float64), rest)).astype(np.float32)
            kernel = (kernel * gain[:, None]).astype(np.float32)
        _assign(model, network, conv, kernel, bias)
    borders = (_channels(-offset / scale), _channels(-model_offset / model_scale))
    return Assigned(model, tuple(conv.layer for conv in kept), _notes(network, candidate, borders), borders)


def _assign(model: Any, network: ForeignNetwork, conv: ForeignConvolution, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Kernel and bias of one layer and its BatchNorm."""
    layer = model.get_layer(conv.layer)
    names = {each.name for each in model.layers}
    if tuple(layer.kernel.shape) != kernel.shape:
        raise InputError(f"{network.path}: {conv.place} has a kernel of {kernel.shape}; {conv.layer} takes "
                         f"{tuple(layer.kernel.shape)}.")
    layer.kernel.assign(kernel)
    if f"{conv.layer}_bn" in names:
        norm = model.get_layer(f"{conv.layer}_bn")
        ones = np.ones_like(bias)
        norm.set_weights([ones * np.sqrt(np.float32(1 + norm.epsilon)), bias, np.zeros_like(bias), ones])
    elif layer.bias is not None:
        layer.bias.assign(bias)
    elif np.any(bias != 0):
        raise InputError(f"{network.path}: {conv.place} has a bias, and {conv.layer} has none in this dialect.")


def _notes(network: ForeignNetwork, candidate: Candidate, borders: tuple[Channels, Channels]) -> tuple[str, ...]:
    notes = []
    if candidate.head != "classifier":
        notes.append("The file's network has no classifier" + (f": {network.stopped}." if network.stopped else "."))
    if network.ignored:
        notes.append(f"Left out as no part of the network: {network.ignored[0]}"
                     + (f" and {len(network.ignored) - 1} more operators." if len(network.ignored) > 1 else "."))
    if not np.allclose(*borders, atol=0.75):
        notes.append("The zeros that convolutions pad the picture with stand for pixel "
                     f"{borders[0][0]:.4g} in the file and {borders[1][0]:.4g} here (red), so features at the border differ.")
    return tuple(notes)


def _channels(values: np.ndarray) -> Channels:
    red, green, blue = (float(value) + 0.0 for value in values)
    return red, green, blue
