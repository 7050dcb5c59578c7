"""Weights of one network into another by the names of its layers, with a new head where the classes differ."""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.weights.starting import StartingWeights

# The layers after pooling, which may be new, and those that a feature extractor may lack.
HEAD = ("head_expand", "classifier")
LACKED = ("head_conv", "head_conv_bn")
# Names listed in a message; more are counted.
_SHOWN = 6


@dataclass(frozen=True)
class Transfer:
    """What a network took over.

    Attributes:
        taken: names of the layers that start from the weights.
        new: names of the layers that start from random numbers.
        notes: a sentence for each thing worth knowing.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]
    notes: tuple[str, ...]


def transfer(model: keras.Model, start: StartingWeights, class_names: tuple[str, ...]) -> Transfer:
    """Assigns the weights to the layers of the same names.

    The classifier is new where the classes differ in number or name, and in the weights' order of names where only that
    differs; `head_expand` is new where its shape differs.

    Args:
        model: built, with `classifier` and `head_expand`.
        start: the weights.
        class_names: in the order of the model's outputs.

    Raises:
        InputError: a layer before pooling is missing on either side, or has another shape; the message names it.
    """
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    allowed = (*HEAD, *(LACKED if lacks_head_conv(start) else ()))
    _check_names(layers, start, allowed)
    taken: list[str] = []
    new: list[str] = []
    notes: list[str] = []
    order = _class_order(start, class_names, notes)
    for name, layer in layers.items():
        tensors = dict(start.tensors.get(name, {}))
        if name == "classifier" and tensors:
            tensors = {key: value[..., order] for key, value in tensors.items()} if order is not None else {}
        shapes = {variable.name: tuple(variable.shape) for variable in layer.weights}
        if {key: value.shape for key, value in tensors.items()} != shapes:
            if name not in allowed:
                found = {key: value.shape for key, value in tensors.items()}
                raise InputError(f"{start.file}: its layer {name} has {_shapes(found)}, where the network of the configuration "
                                 f"has {_shapes(shapes)}. Leave the keys of the section model out: they follow the weights.")
            if tensors:
                notes.append(f"{name} starts from new values: it has {_shapes(shapes)}, in the weights "
                             f"{_shapes({key: value.shape for key, value in tensors.items()})}")
            new.append(name)
            continue
        for variable in layer.weights:
            variable.assign(tensors[variable.name])
        taken.append(name)
    random = f"; new: {', '.join(new)}" if new else "; nothing is new"
    notes.insert(0, f"weights of {len(taken)} layers from {start.source}{random}")
    return Transfer(tuple(taken), tuple(new), tuple(notes))


def _check_names(layers: Mapping[str, keras.Layer], start: StartingWeights, allowed: tuple[str, ...]) -> None:
    """Refuses weights that lack layers before pooling, or have more than the network."""
    missing = [name for name in layers if name not in start.tensors and name not in allowed]
    left = [name for name in start.tensors if name not in layers and name not in allowed]
    if missing:
        hint = "They are of another network" if len(missing) < len(layers) - len(HEAD) \
            else "Nothing there has the names of this kit's layers; `mnv3 import-weights` gives them these names"
        raise InputError(f"{start.file}: lacks the weights of {_names(missing)}"
                         f"{' and has ' + _names(left) + ' instead' if left else ''}. {hint}.")
    if left:
        raise InputError(f"{start.file}: holds layers that the network of the configuration lacks: {_names(left)}. Leave the "
                         "keys of the section model out: they follow the weights.")


def _class_order(start: StartingWeights, class_names: tuple[str, ...], notes: list[str]) -> list[int] | None:
    """Columns of the weights' classifier in the order of `class_names`; None where it has to be new."""
    kernel = start.tensors.get("classifier", {}).get("kernel")
    if kernel is None:
        return None
    if start.labels is None:
        if kernel.shape[-1] != len(class_names):
            return None
        notes.append(f"the classifier is kept: the weights have {len(class_names)} classes too, and do not name them")
        return list(range(len(class_names)))
    if set(start.labels) != set(class_names) or len(start.labels) != kernel.shape[-1]:
        return None
    if start.labels != class_names:
        notes.append("the classifier's outputs are put into the order of the data's classes")
    return [start.labels.index(name) for name in class_names]


def lacks_head_conv(start: StartingWeights) -> bool:
    """Whether the weights end with the last block, as a feature extractor's may."""
    return not any(name in start.tensors for name in LACKED)


def is_folded(start: StartingWeights) -> bool:
    """Whether BatchNorm was folded into the convolutions: mean 0 and variance 1 everywhere, so that it normalizes nothing."""
    statistics = [tensors for tensors in start.tensors.values() if "moving_variance" in tensors]
    return bool(statistics) and all(not np.any(tensors["moving_mean"]) and np.all(tensors["moving_variance"] == 1)
                                    for tensors in statistics)


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in shapes.items()) or "nothing"


def _names(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more layers" if len(names) > _SHOWN else "")
