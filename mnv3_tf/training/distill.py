"""A bigger network as teacher: its answers on the same augmented pictures, learned beside the labels.

The loss of a picture is ``(1 - w) * CE(smoothed label, p) + w * T^2 * CE(q_T, p_T)`` with the student's probabilities p, the
teacher's q, both at temperature T in the second term, and the weight w (Hinton et al., "Distilling the Knowledge in a Neural
Network", 2015). Of a picture without a label, all zeros, only the second term is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv3_tf.artefacts.open import open_artefact
from mnv3_tf.backend import keras
from mnv3_tf.data.batches import EVALUATION_BATCH
from mnv3_tf.errors import InputError
from mnv3_tf.files import sha256
from mnv3_tf.machine import usable_cores

# Probabilities are not taken to be smaller than this when their logarithm is asked for.
_LEAST = 1e-7
# An 8-bit softmax has steps of 1/256, so that its sum over the classes is not exactly 1.
_SUM_TOLERANCE = 0.05


@dataclass(frozen=True)
class Teacher:
    """A network that answers for pictures.

    Attributes:
        path: what the user named.
        file: its weights.
        forward: pixels uint8 (n, height, width, 3) -> logits or probabilities float (n, classes), n at most
            :data:`mnv3_tf.data.batches.EVALUATION_BATCH`.
        height, width: of its input, pixels.
        labels: class names in the order of its outputs; None where they are not known.
        assumed: its preprocessing is not known, and is taken to be RGB pixels 0..255.
    """

    path: Path
    file: Path
    forward: Callable[[np.ndarray], np.ndarray]
    height: int
    width: int
    labels: tuple[str, ...] | None
    assumed: bool = False


class TeacherAnswers:
    """The teacher's logits in the order of the data's classes.

    Attributes:
        notes: a sentence for each thing that was found or assumed.
        facts: for the run's card.
    """

    def __init__(self, teacher: Teacher, class_names: tuple[str, ...], size: tuple[int, int]):
        self._teacher = teacher
        self._order = _order(teacher, class_names)
        self._classes = len(class_names)
        self._probabilities = False
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {"path": str(teacher.path), "file": teacher.file.name, "sha256": sha256(teacher.file)}
        if teacher.labels is None:
            self.notes.append(f"the teacher {teacher.path} does not name its classes: they are taken to be in the data's order")
        if teacher.assumed:
            self.notes.append(f"the teacher {teacher.path} has no preprocessing contract: it is given RGB pixels 0..255")
        if (teacher.height, teacher.width) != size:
            self.notes.append(f"the teacher sees every augmented picture resized from {size[0]}x{size[1]} to "
                              f"{teacher.height}x{teacher.width}")

    def examine(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        """Looks at the teacher's answers on training pictures: logits or probabilities, and whether it knows the classes.

        Args:
            pixels: uint8 (n, height, width, 3).
            labels: int (n,).

        Raises:
            InputError: the answers have another number of classes, or are no better than the commonest class.
        """
        scores = self._scores(pixels)
        self._probabilities = bool((scores >= 0).all() and (scores <= 1.001).all()
                                   and np.abs(scores.sum(axis=1) - 1).max() < _SUM_TOLERANCE)
        right = float((scores.argmax(axis=1) == labels).mean())
        commonest = float(np.bincount(labels, minlength=self._classes).max() / len(labels))
        if right <= commonest and self._classes > 1:
            raise InputError(f"train.teacher is {self._teacher.path}: it is right on {right:.3f} of {len(labels)} training "
                             f"pictures, where the commonest class alone is {commonest:.3f}. Its classes are in another order, "
                             "or it expects another input than RGB pixels 0..255. Give a teacher trained on these classes.")
        kind = "probabilities" if self._probabilities else "logits"
        self.notes.append(f"teacher {self._teacher.path}: right on {right:.3f} of {len(labels)} training pictures, gives {kind}")
        self.facts |= {"gives": kind, "top1_on_training_pictures": right}

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (n, classes): logits, or logarithms of probabilities, which are logits too."""
        scores = self._scores(pixels)
        return np.log(np.maximum(scores, _LEAST)) if self._probabilities else scores

    def _scores(self, pixels: np.ndarray) -> np.ndarray:
        teacher = self._teacher
        pixels = resized(pixels, teacher.height, teacher.width)
        scores = np.concatenate([np.asarray(teacher.forward(pixels[start:start + EVALUATION_BATCH]), np.float32)
                                 for start in range(0, len(pixels), EVALUATION_BATCH)])
        if scores.shape != (len(pixels), self._classes):
            raise InputError(f"train.teacher is {teacher.path}: it gives {'x'.join(map(str, scores.shape[1:]))} values for a "
                             f"picture, but the data has {self._classes} classes. Give a teacher trained on these classes.")
        return scores[:, self._order]


def open_teacher(path: str | Path) -> Teacher:
    """A run folder (float or quantized), a `.keras` or a `.tflite` file as teacher.

    Raises:
        InputError: it is missing, or no picture classifier of fixed input size.
    """
    if not Path(path).exists():
        raise InputError(f"train.teacher is {path}: there is no such run folder, .keras or .tflite file.")
    artefact = open_artefact(path)
    forward, shape = artefact.answers(threads=min(4, usable_cores()))
    if len(shape) != 4 or shape[3] != 3 or None in shape[1:3]:
        raise InputError(f"train.teacher is {path}: its input is {shape}; one picture (height, width, 3) of fixed size and "
                         "one output are needed.")
    return Teacher(artefact.path, artefact.weights, forward, shape[1], shape[2], artefact.classes,
                   assumed=artefact.contract is None and not artefact.card)


def _order(teacher: Teacher, class_names: tuple[str, ...]) -> list[int]:
    """Columns of the teacher's answers in the order of the data's classes."""
    labels = teacher.labels
    if labels is None:
        return list(range(len(class_names)))
    if set(labels) != set(class_names) or len(labels) != len(class_names):
        only = [sorted(set(labels) - set(class_names)), sorted(set(class_names) - set(labels))]
        raise InputError(f"train.teacher is {teacher.path}: it knows the {len(labels)} classes {_some(labels)}, the data has the "
                         f"{len(class_names)} classes {_some(class_names)} (only there: {_some(only[0])}; only in the data: "
                         f"{_some(only[1])}). Give a teacher that was trained on these classes.")
    places = {name: place for place, name in enumerate(labels)}
    return [places[name] for name in class_names]


def _some(names: Sequence[str]) -> str:
    return (", ".join(names[:6]) or "none") + (", ..." if len(names) > 6 else "")


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pictures uint8 (n, h, w, 3) at another size, by Pillow's bilinear filter with antialiasing."""
    if pixels.shape[1:3] == (height, width):
        return pixels
    pictures = (Image.fromarray(picture) for picture in pixels)
    return np.stack([np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)) for picture in pictures])


def with_answers(labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Labels and the teacher's logits side by side, (n, 2 * classes), as :class:`DistillationLoss` takes them."""
    return np.concatenate([labels, answers], axis=1).astype(np.float32)


class DistillationLoss(keras.losses.Loss):
    """Labels and a teacher's answers; see the module's text for the formula.

    Args:
        classes: number of classes.
        teacher_weight: w.
        temperature: T.
        label_smoothing: of the labels, as in `keras.losses.CategoricalCrossentropy`.
    """

    def __init__(self, classes: int, teacher_weight: float, temperature: float, label_smoothing: float):
        super().__init__(name="distillation")
        self.classes, self.teacher_weight, self.temperature = classes, teacher_weight, temperature
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """(n,) from labels and teacher's logits (n, 2 * classes) and the student's logits (n, classes)."""
        ops = keras.ops
        labels, answers = y_true[:, :self.classes], y_true[:, self.classes:]
        known = ops.sum(labels, axis=-1, keepdims=True)  # 0 without a label
        labels = labels * (1 - self.label_smoothing) + known * (self.label_smoothing / self.classes)
        soft = ops.softmax(answers / self.temperature)
        from_labels = -ops.sum(labels * ops.log_softmax(y_pred), axis=-1)
        from_teacher = -ops.sum(soft * ops.log_softmax(y_pred / self.temperature), axis=-1) * self.temperature ** 2
        return self.teacher_weight * from_teacher + (1 - self.teacher_weight) * from_labels


class LabelAccuracy(keras.metrics.Mean):
    """Accuracy on pictures that have a label, where the teacher's answers stand behind the labels."""

    def __init__(self, classes: int):
        super().__init__(name="accuracy")
        self._classes = classes

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Takes labels and teacher's logits (n, 2 * classes), and the student's logits (n, classes)."""
        labels = y_true[:, :self._classes]
        known = keras.ops.sum(labels, axis=-1)
        weights = known if sample_weight is None else known * keras.ops.reshape(sample_weight, (-1,))
        super().update_state(keras.metrics.categorical_accuracy(labels, y_pred), weights)

