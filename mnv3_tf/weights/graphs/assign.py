"""Puts a foreign network's convolutions into a Keras model that this kit builds."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.network.plan import Part, network_parts
from mnv3_tf.weights.graphs.match import Candidate
from mnv3_tf.weights.graphs.recovered import Channels, ForeignNetwork, rgb
from mnv3_tf.weights.importing import build


@dataclass(frozen=True, eq=False)
class Assigned:
    """A Keras model with a foreign network's weights.

    Attributes:
        model: takes RGB pixels 0..255; gives logits, or without a head the last feature map.
        parts: of the network, that took the file's convolutions one by one.
        notes: what a user should know, a sentence each.
        border_pixel: the pixel value that the zeros around the picture stand for, by channel: (in the file, in the model).
            Where they differ, so do the features at the border.
    """

    model: Any
    parts: tuple[Part, ...]
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
        InputError: it is not known what the file's input holds or how large it is.
    """
    from mnv3_tf.backend import keras
    from mnv3_tf.network.keras_io import assign_tensors

    size = input_size or (network.height, network.width)
    if not size[0] or not size[1]:
        raise InputError(f"{network.path}: leaves the size of its input open; give the size, such as 224.")
    if network.pixel_scale is None or network.pixel_offset is None:
        raise InputError(f"{network.path}: does not say what its float input holds, and nothing is assumed. Give mean and std of "
                         "its pixels.")
    scale, offset = np.asarray(network.pixel_scale), np.asarray(network.pixel_offset)
    model_scale, model_offset = (np.asarray(values, np.float64) for values in candidate.spec.dialect.rescaling())
    gain, rest = scale / model_scale, offset - scale / model_scale * model_offset
    model = build(candidate.spec, candidate.alpha, candidate.classes, size, dropout)  # type: ignore[arg-type]
    parts = network_parts(candidate.spec, candidate.alpha, candidate.classes)
    if candidate.head == "none":
        parts = parts[:-1]
        last = parts[-1].layer
        end = last.replace("project", "add") if parts[-1].residual else f"{last}_bn"
        model = keras.Model(model.input, model.get_layer(end).output, name=model.name)
    tensors: dict[str, dict[str, np.ndarray]] = {}
    for part, conv in zip(parts, network.convolutions, strict=False):
        kernel, bias = conv.kernel, conv.bias
        if part.role == "stem":
            bias = (bias + np.einsum("hwio,i->o", kernel.astype(np.float64), rest)).astype(np.float32)
            kernel = (kernel * gain[:, None]).astype(np.float32)
        tensors[part.layer] = {"kernel": kernel, "bias": bias}
        if part.batchnorm:
            ones, zeros = np.ones_like(bias), np.zeros_like(bias)
            gamma = ones * np.sqrt(np.float32(1 + candidate.spec.dialect.batchnorm_epsilon))
            tensors[f"{part.layer}_bn"] = {"gamma": gamma, "beta": bias, "moving_mean": zeros, "moving_variance": ones}
    assign_tensors(model, tensors)
    borders = (rgb(-offset / scale), rgb(-model_offset / model_scale))
    return Assigned(model, parts, _notes(network, candidate, borders), borders)


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
