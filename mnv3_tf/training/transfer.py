"""What a run takes over from another network: weights by the names of the layers, with a new head where the classes differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mnv3_tf.backend import keras
from mnv3_tf.errors import InputError
from mnv3_tf.network.keras_io import assign_tensors, refuse_infinite
from mnv3_tf.progress import Progress
from mnv3_tf.text import few
from mnv3_tf.training.batches import TrainingBatches
from mnv3_tf.training.batchnorm import adapt_statistics, measure, normalizations, set_statistics
from mnv3_tf.training.defaults import Choices
from mnv3_tf.training.freezing import TOP, FreezingPlan
from mnv3_tf.weights.starting import StartingWeights

# The layers after pooling, which may be new, and those that a feature extractor may lack.
HEAD = ("head_expand", "classifier")
LACKED = ("head_conv", "head_conv_bn")
# Names listed in a message; more are counted.
_SHOWN = 6
# Training pictures that BatchNorm's statistics are measured on, at most.
_MEASURED = 2048


def facts_of(start: StartingWeights) -> dict[str, Any]:
    """What the card of a run says about the weights it started from."""
    return {"source": start.source, "file": start.file.name, "sha256": start.sha256,
            "folded": is_folded(start), "lacks_head_conv": lacks_head_conv(start),
            "model": {key: value for key, value in vars(start.spec).items() if key != "weights"},
            "normalization": start.normalization and [list(values) for values in start.normalization], **start.facts}


def take_over(model: keras.Model, start: StartingWeights, class_names: tuple[str, ...], plan: FreezingPlan, choices: Choices,
              batches: TrainingBatches, unused_epoch: int, progress: Progress) -> dict[str, Any]:
    """Gives a network, in float32, the weights that a run starts from.

    Args:
        model: just built.
        start: the weights.
        class_names: in the order of the model's outputs.
        plan: of freezing; what it never trains keeps its statistics.
        choices: whether statistics are measured first.
        batches: the training split.
        unused_epoch: number of an epoch that is not trained on; its augmented pictures are measured.
        progress: told of everything.

    Returns:
        Facts for the card.
    """
    taken = transfer(model, start, class_names)
    notes = list(taken.notes)
    units = {layer.name: plan.unit_of(layer.name) for layer in normalizations(model)}
    kept, new = plan.units[:plan.frozen], {name for name, unit in units.items() if unit == TOP}
    if choices.batchnorm == "reestimate" and any(unit not in kept for unit in units.values()):
        wanted = min(max(1, _MEASURED // batches.batch_size), batches.steps_per_epoch)
        pixels = (pixels for pixels, _, _ in islice(batches.epoch(unused_epoch), wanted))
        frozen = {name for name, unit in units.items() if unit in kept}
        if is_folded(start):
            set_statistics(model, measure(model, pixels), skip=frozen, normalize=new)
            effect = "the network computes what it did"
        else:
            adapt_statistics(model, pixels, skip=frozen)
            effect = "the network is adapted to them"
        notes.append(f"BatchNorm's statistics measured on {wanted * batches.batch_size} augmented training pictures; {effect}")
    for note in notes:
        progress.say(note)
    return {**facts_of(start), "taken": list(taken.taken), "new": list(taken.new), "notes": notes}


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
        InputError: a layer before pooling is missing on either side, has another shape, or values that are not finite; the
            message names it.
    """
    refuse_infinite(start.file, {f"{name}/{key}": value for name, tensors in start.tensors.items()
                                 for key, value in tensors.items()})
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    allowed = (*HEAD, *(LACKED if lacks_head_conv(start) else ()))
    _check_names(layers, start, allowed)
    taken: dict[str, Mapping[str, np.ndarray]] = {}
    new: list[str] = []
    notes: list[str] = []
    order = _class_order(start, class_names, notes)
    for name, layer in layers.items():
        tensors = start.tensors.get(name, {})
        if name == "classifier":
            tensors = {} if order is None else {key: value[..., order] for key, value in tensors.items()}
        found = {key: value.shape for key, value in tensors.items()}
        wanted = {variable.name: tuple(variable.shape) for variable in layer.weights}
        if found == wanted:
            taken[name] = tensors
            continue
        if name not in allowed:
            raise InputError(f"{start.file}: its layer {name} has {_shapes(found)}, where the network of the configuration "
                             f"has {_shapes(wanted)}. Leave the keys of the section model out: they follow the weights.")
        if tensors:
            notes.append(f"{name} starts from new values: it has {_shapes(wanted)}, in the weights {_shapes(found)}")
        new.append(name)
    assign_tensors(model, taken)
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
        raise InputError(f"{start.file}: lacks the weights of {few(missing, _SHOWN)}"
                         f"{' and has ' + few(left, _SHOWN) + ' instead' if left else ''}. {hint}.")
    if left:
        raise InputError(f"{start.file}: holds layers that the network of the configuration lacks: {few(left, _SHOWN)}. "
                         "Leave the keys of the section model out: they follow the weights.")


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
    places = {name: place for place, name in enumerate(start.labels)}
    return [places[name] for name in class_names]


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
