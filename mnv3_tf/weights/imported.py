"""What an import of somebody else's network gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_tf.config import ModelConfig
from mnv3_tf.data import Preprocessing
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain

if TYPE_CHECKING:
    from mnv3_tf.backend import keras


@dataclass(frozen=True)
class ImportedTensor:
    """One tensor and where it went."""

    source: str
    source_shape: tuple[int, ...]
    target: str
    shape: tuple[int, ...]
    transform: str


@dataclass(frozen=True)
class Imported:
    """A Keras model with another package's weights.

    Attributes:
        model: float32; RGB pixels 0..255 in; logits out, or without a head the last feature map.
        source: the file.
        origin: the package that saved it, or "tflite", "tfjs".
        settings: of the network, as a configuration has them.
        include_top: whether the source has a classifier, and so the model.
        classes: its width; None without.
        labels: class names; None where nobody gave any.
        mean, std: of the input's channels, as shares of 255.
        preprocessing: how its pictures were prepared, where that is known.
        tensors: tensor by tensor, in the network's order.
        left_out: tensors of the file that the model does not need.
        notes: what was chosen for the user, a sentence each.
        facts: what else is known: model name, licence, accuracy.
    """

    model: "keras.Model"
    source: Path
    origin: str
    settings: ModelConfig
    include_top: bool
    classes: int | None
    labels: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing: Preprocessing | None
    tensors: tuple[ImportedTensor, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> dict[str, Any]:
        """Everything but the model, as JSON types."""
        return plain({"source": self.source, "origin": self.origin, "model": self.settings, "include_top": self.include_top,
                      "classes": self.classes, "input": self.model.input_shape[1:], "mean": self.mean, "std": self.std,
                      "preprocessing": self.preprocessing, "notes": self.notes, **self.facts, "tensors": self.tensors,
                      "left_out": self.left_out})


def check_labels(path: Path, found: int | None, classes: int | None, labels: Sequence[str] | None) -> tuple[str, ...] | None:
    """The class names, checked against the number of classes that a network was found to have, and that it must have."""
    if classes is not None and classes != found:
        has = f"has {found} classes" if found is not None else "has no classifier"
        raise InputError(f"{path}: {has}, not {classes}. Import it as it is; training puts another head on it.")
    if labels is None or found is None:
        return None
    if len(labels) != found:
        raise InputError(f"{path}: has {found} classes, but {len(labels)} class names are given. Give the names that it was "
                         "trained with, in the order of its outputs.")
    return tuple(labels)
