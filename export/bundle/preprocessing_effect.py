"""What it changes when a client prepares pictures in its own way: measured, not guessed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mnv3_tf.data import Preprocessing, Sample, Samples
from mnv3_tf.data.batches import collect, contract_batches
from mnv3_tf.export.evaluate.classifier import Classifier
from mnv3_tf.progress import Progress


@dataclass(frozen=True)
class Effect:
    """The model's answers by its contract and by MediaPipe's sampling, on the same pictures.

    Attributes:
        pictures: how many.
        changed: pictures with another best class.
        top1, mediapipe_top1: accuracy by either.
        same: the contract is MediaPipe's.
    """

    pictures: int
    changed: int
    top1: float
    mediapipe_top1: float
    same: bool

    def sentence(self) -> str:
        """In words."""
        return (f"MediaPipe's ImageClassifier samples pictures without antialiasing: {self.changed} of {self.pictures} pictures "
                f"({self.changed / self.pictures:.1%}) get another answer, and top-1 is {self.mediapipe_top1:.4f} instead of "
                f"{self.top1:.4f}.")


def measure_effect(file: Path, samples: Sequence[Sample], progress: Progress) -> Effect:
    """Runs pictures through a file by its own contract and by MediaPipe's sampling."""
    own = Classifier(file)
    theirs = replace(own.contract, resize="stretch", crop_fraction=1.0, interpolation="mediapipe")
    same = own.contract == theirs

    def answers_of(contract: Preprocessing, what: str) -> np.ndarray:
        return collect(progress, what, len(samples), lambda batch: own.logits(batch[0]).argmax(axis=1),
                       contract_batches(samples, contract))

    answers = answers_of(own.contract, "By the contract")
    other = answers if same else answers_of(theirs, "By MediaPipe's sampling")
    labels = Samples.of(samples).labels
    return Effect(len(samples), int((answers != other).sum()), float((answers == labels).mean()),
                  float((other == labels).mean()), same)
