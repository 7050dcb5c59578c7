"""Scores of a classifier, from logits and labels."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv3_tf.files import plain_fields


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
        per_class: (name, pictures, recall) in label order; recall is None for a class without pictures.
        confusion: rows are labels, columns answers, in counts.
    """

    samples: int
    top1: float
    top1_low: float
    top1_high: float
    topk: float
    k: int
    loss: float
    per_class: tuple[tuple[str, int, float | None], ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**plain_fields(self), "per_class": [{"label": name, "samples": count, "recall": recall}
                                                    for name, count, recall in self.per_class]}


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


def score(logits: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> Scores:
    """Scores logits against labels.

    Args:
        logits: float (n, classes).
        labels: int (n,), class indices.
        class_names: (classes,).

    Raises:
        ValueError: a picture has no label.
    """
    if np.any(labels < 0):
        raise ValueError("pictures without labels cannot be scored")
    logits = np.asarray(logits, np.float64)
    total, classes = logits.shape
    answers = logits.argmax(axis=1)
    k = min(5, classes)
    # Ties count for the lower index, as argmax decides them.
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    hits = int((answers == labels).sum())
    low, high = wilson_interval(hits, total)
    probabilities = softmax(logits)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, answers), 1)
    counts = confusion.sum(axis=1)
    per_class = tuple(
        (name, int(count), float(confusion[i, i] / count) if count else None)
        for i, (name, count) in enumerate(zip(class_names, counts, strict=True)))
    return Scores(
        samples=total, top1=hits / total, top1_low=low, top1_high=high,
        topk=float((order == labels[:, None]).any(axis=1).mean()), k=k,
        loss=float(-np.log(np.maximum(probabilities[np.arange(total), labels], 1e-12)).mean()),
        per_class=per_class, confusion=tuple(tuple(int(v) for v in row) for row in confusion))
