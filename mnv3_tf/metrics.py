"""Scores of a classifier, from logits and labels."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mnv3_tf.files import plain, plain_fields

# With more classes than this, JSON has no confusion matrix, whose size grows with their square, but the commonest mistakes.
DENSE_CLASSES = 100
_LISTED_MISTAKES = 100
# Logits that are scored at once.
_CHUNK = 1 << 22


class ClassScore(NamedTuple):
    """How one class is answered.

    Attributes:
        name: of the class.
        samples: pictures of it.
        recall: share of these that are answered so, in 0..1; None where there are none.
        precision: share of such answers that are right; None where there are none.
        f1: the harmonic mean of both; None where the class has neither pictures nor answers.
    """

    name: str
    samples: int
    recall: float | None
    precision: float | None
    f1: float | None


def _of_class(found: ClassScore) -> dict[str, Any]:
    return {"label" if key == "name" else key: value for key, value in found._asdict().items()}


@dataclass(frozen=True)
class Scores:
    """What `evaluate` reports.

    Attributes:
        samples: number of pictures.
        top1: share whose best class is the label, in 0..1.
        top1_low, top1_high: its 95% Wilson interval.
        topk: share whose label is among the `k` best.
        k: 5, or the number of classes where there are fewer.
        loss: mean cross-entropy in nats.
        balanced_accuracy: mean recall of the classes that have pictures: every class counts the same, however few it has.
        precision, f1: means over the classes that have pictures or answers; a class that is never answered has the precision 0.
        per_class: in label order.
        mistakes: (label, answer, pictures) as class indices, the commonest first.
    """

    samples: int
    top1: float
    top1_low: float
    top1_high: float
    topk: float
    k: int
    loss: float
    balanced_accuracy: float
    precision: float
    f1: float
    per_class: tuple[ClassScore, ...]
    mistakes: tuple[tuple[int, int, int], ...]

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Rows are labels, columns answers, in pictures. Its size is the square of the number of classes."""
        rows = [[0] * len(self.per_class) for _ in self.per_class]
        for label, answer, count in self.mistakes:
            rows[label][answer] = count
        for row, found, place in zip(rows, self.per_class, range(len(rows)), strict=True):
            row[place] = found.samples - sum(row)
        return tuple(map(tuple, rows))

    def summary(self) -> dict[str, float]:
        """The few figures that a card has."""
        return {key: getattr(self, key) for key in ("top1", "samples", "loss", "balanced_accuracy", "precision", "f1")}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, of a size that grows with the number of classes, and not with its square."""
        names = [found.name for found in self.per_class]
        return {**plain_fields(self), "per_class": [_of_class(found) for found in self.per_class],
                "mistakes": [{"label": names[label], "answer": names[answer], "count": count}
                             for label, answer, count in self.mistakes[:_LISTED_MISTAKES]],
                "confusion": plain(self.confusion) if len(names) <= DENSE_CLASSES else None}


@dataclass(frozen=True)
class Agreement:
    """How far two models give the same answers to the same pictures.

    Attributes:
        top1: share of pictures with the same best class, in 0..1.
        top1_low, top1_high: its 95% Wilson interval.
        mean_difference, largest_difference: of a logit, absolute.
    """

    top1: float
    top1_low: float
    top1_high: float
    mean_difference: float
    largest_difference: float

    def in_words(self) -> str:
        """The share with its interval: "92.2% of the pictures (95% interval 88.9% to 94.6%)"."""
        return f"{self.top1:.1%} of the pictures (95% interval {self.top1_low:.1%} to {self.top1_high:.1%})"


def compare_answers(logits: np.ndarray, others: np.ndarray) -> Agreement:
    """Compares the logits (n, classes) of two models."""
    same, difference = logits.argmax(axis=1) == others.argmax(axis=1), np.abs(logits - others)
    return Agreement(float(same.mean()), *wilson_interval(int(same.sum()), len(same)), float(difference.mean()),
                     float(difference.max()))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def wilson_interval(successes: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% Wilson score interval of a share (Wilson, 1927)."""
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    centre = share + z * z / (2 * total)
    margin = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def score(logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Scores:
    """Scores logits against labels.

    Args:
        logits: float (n, classes).
        labels: int (n,), class indices.
        class_names: (classes,).

    Raises:
        ValueError: a picture has no label.
    """
    step = max(1, _CHUNK // max(logits.shape[1], 1))
    return score_batches(((logits[start:start + step], labels[start:start + step]) for start in range(0, len(logits), step)),
                         class_names)


def score_batches(batches: Iterable[tuple[np.ndarray, np.ndarray]], class_names: Sequence[str]) -> Scores:
    """As :func:`score`, of logits and labels that come in batches, so that those of all pictures need not be held at once."""
    classes = len(class_names)
    k = min(5, classes)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    hits = 0
    for batch, own_labels in batches:
        if np.any(own_labels < 0):
            raise ValueError("pictures without labels cannot be scored")
        logits = np.asarray(batch, np.float64)
        wanted, every = own_labels[:, None], np.arange(classes)
        own = np.take_along_axis(logits, wanted, axis=1)
        # Ties count for the lower index, as argmax decides them.
        before = ((logits > own) | ((logits == own) & (every < wanted))).sum(axis=1)
        hits += int(((before < k) & ~np.isnan(own[:, 0])).sum())
        likely = np.take_along_axis(softmax(logits), wanted, axis=1)[:, 0]
        parts.append((own_labels, logits.argmax(axis=1), -np.log(np.maximum(likely, 1e-12))))
    labels, answers, losses = map(np.concatenate, zip(*parts, strict=True))
    total = len(labels)
    samples, given = (np.bincount(indices, minlength=classes) for indices in (labels, answers))
    right = np.bincount(labels[answers == labels], minlength=classes)
    wrong = np.unique((labels * classes + answers)[answers != labels], return_counts=True)
    per_class = tuple(_class_score(*values) for values in zip(class_names, samples.tolist(), given.tolist(), right.tolist(),
                                                              strict=True))
    low, high = wilson_interval(int(right.sum()), total)
    return Scores(
        samples=total, top1=int(right.sum()) / total, top1_low=low, top1_high=high, topk=hits / total, k=k,
        loss=float(losses.mean()), balanced_accuracy=_mean(found.recall for found in per_class if found.samples),
        precision=_mean(found.precision or 0.0 for found in per_class if found.f1 is not None),
        f1=_mean(found.f1 for found in per_class), per_class=per_class,
        mistakes=tuple(sorted(((pair // classes, pair % classes, count) for pair, count in zip(*map(np.ndarray.tolist, wrong),
                                                                                               strict=True)),
                              key=lambda mistake: -mistake[2])))


def _class_score(name: str, samples: int, given: int, right: int) -> ClassScore:
    return ClassScore(name, samples, right / samples if samples else None, right / given if given else None,
                      2 * right / (samples + given) if samples + given else None)


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / max(len(known), 1)
