"""Which answers changed between the float model and the file, and whether that is more than chance."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from mnv3_tf.data.sample_list import PicturePath
from mnv3_tf.metrics import softmax

_BINS = 10


@dataclass(frozen=True)
class Flip:
    """A picture that the file answers differently from the float model.

    Attributes:
        path: the picture.
        label, before, after: class names: the right one (None where that is not known), the float model's, the file's.
        before_score, after_score: probabilities of those answers.
    """

    path: PicturePath
    label: str | None
    before: str
    after: str
    before_score: float
    after_score: float

    @property
    def effect(self) -> str:
        """ "lost" (was right), "gained" (is right now), "other" (wrong both times) or "changed" (not known which is right)."""
        if self.label is None:
            return "changed"
        if self.before == self.label:
            return "lost"
        return "gained" if self.after == self.label else "other"


@dataclass(frozen=True)
class McNemar:
    """The exact McNemar test of two classifiers on the same pictures (McNemar, 1947).

    Attributes:
        lost: pictures that only the float model answers rightly.
        gained: pictures that only the file answers rightly.
        p_value: two-sided, of so uneven a split if both were equally good.
    """

    lost: int
    gained: int
    p_value: float

    def sentence(self) -> str:
        """What it says, in words."""
        if not self.lost + self.gained:
            return "No picture is right in one and wrong in the other."
        split = f"{self.lost} right answers were lost and {self.gained} gained"
        if self.p_value < 0.05:
            better = "the float model" if self.lost > self.gained else "the file"
            return f"{split}: {better} is really better (exact McNemar test, p = {self.p_value:.2g})."
        return f"{split}: no more than chance would explain (exact McNemar test, p = {self.p_value:.2g})."


def flips(paths: Iterable[PicturePath], labels: np.ndarray | None, before: np.ndarray, after: np.ndarray,
          class_names: tuple[str, ...]) -> list[Flip]:
    """The pictures whose best class changed: lost ones first, the surest float answers first among them.

    Labels are None where the pictures have none.
    """
    old, new = softmax(np.asarray(before, np.float64)), softmax(np.asarray(after, np.float64))
    found = []
    names = itertools.repeat(None) if labels is None else (class_names[label] for label in labels)
    for path, name, was, now in zip(paths, names, old, new, strict=False):
        i, j = int(was.argmax()), int(now.argmax())
        if i != j:
            found.append(Flip(path, name, class_names[i], class_names[j], float(was[i]), float(now[j])))
    order = {"lost": 0, "gained": 1, "other": 2, "changed": 3}
    return sorted(found, key=lambda flip: (order[flip.effect], -flip.before_score))


def mcnemar(labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> McNemar:
    """Compares the right answers of two sets of logits."""
    was, now = before.argmax(axis=1) == labels, after.argmax(axis=1) == labels
    lost, gained = int((was & ~now).sum()), int((~was & now).sum())
    p_value = float(binomtest(lost, lost + gained, 0.5).pvalue) if lost + gained else 1.0
    return McNemar(lost, gained, p_value)


@dataclass(frozen=True)
class Reliability:
    """How often answers of a given probability are right.

    Attributes:
        bins: (mean probability, share right, pictures) of each bin that holds any.
        error: expected calibration error (Naeini et al., 2015), in 0..1.
    """

    bins: tuple[tuple[float, float, int], ...]
    error: float


def reliability(labels: np.ndarray, logits: np.ndarray) -> Reliability:
    """The calibration curve of a classifier, in ten bins of the answer's probability."""
    probabilities = softmax(np.asarray(logits, np.float64))
    score = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    number = np.minimum((score * _BINS).astype(int), _BINS - 1)
    bins, error = [], 0.0
    for i in range(_BINS):
        held = number == i
        if held.any():
            bins.append((float(score[held].mean()), float(right[held].mean()), int(held.sum())))
            error += held.mean() * abs(score[held].mean() - right[held].mean())
    return Reliability(tuple(bins), float(error))
