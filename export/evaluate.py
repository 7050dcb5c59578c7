"""Scores any model of the kit on labelled pictures, and answers for single pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.data import PictureDataset, PictureError, clamp_top_k, evaluation_split, open_dataset
from mnv3_tf.errors import InputError
from mnv3_tf.export.classifier import Classifier
from mnv3_tf.metrics import Scores, score, softmax
from mnv3_tf.progress import Progress
from mnv3_tf.training.batches import contract_batches
from mnv3_tf.training.checking import check_pictures


@dataclass(frozen=True)
class Evaluation:
    """Scores of one split, and the pictures that could not be read."""

    scores: Scores
    split: str
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """The best classes of one picture: (label, index, probability), best first."""

    file: str
    predictions: tuple[tuple[str, int, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """As `mnv3 predict --json` prints it."""
        return {"file": self.file, "predictions": [{"label": label, "index": index, "score": probability}
                                                   for label, index, probability in self.predictions]}


def evaluate(classifier: Classifier, data: str | Path, *, split: str | None = None, strict: bool = False,
             progress: Progress) -> Evaluation:
    """Scores a model.

    Args:
        classifier: the model.
        data: a picture folder, in any layout that training takes; its classes are matched to the model's by name.
        split: "train", "val", "test" or "all"; None: test where there is one, else val. A folder of class folders alone,
            without splits, is scored as a whole unless a split is named.
        strict: a broken picture is an error.
        progress: told of everything.

    Raises:
        InputError: unusable data, an unknown class, no such split, or nothing to score.
    """
    dataset = _open(classifier, data, split)
    name = split or evaluation_split(dataset)
    samples = tuple(s for part in dataset.splits.values() for s in part) if name == "all" else dataset.split(name)
    chosen = PictureDataset(dataset.root, dataset.class_names, {name: samples}, dataset.layout)
    cleaned, report = check_pictures(chosen, strict=strict, progress=progress)
    samples, skipped = cleaned.split(name), tuple(str(remark) for remark in report.broken)
    if not samples:
        raise InputError(f"{data}: the split {name!r} holds no picture to score.")
    logits, labels = [], []
    with progress.task("Scoring", len(samples)) as advance:
        for pixels, batch_labels in contract_batches(samples, classifier.contract):
            logits.append(classifier.logits(pixels))
            labels.append(batch_labels)
            advance(sum(map(len, labels)), "")
    return Evaluation(score(np.concatenate(logits), np.concatenate(labels), classifier.labels), name, skipped)


def _open(classifier: Classifier, data: str | Path, split: str | None) -> PictureDataset:
    dataset = open_dataset(data, class_names=classifier.labels)
    if split is None and dataset.layout == "class folders":
        return open_dataset(data, class_names=classifier.labels, validation_fraction=1)
    return dataset


def predict(classifier: Classifier, pictures: Sequence[str | Path], top_k: int) -> tuple[list[Answer], list[str], str | None]:
    """Answers for pictures.

    Returns:
        The answers in order, a line for every picture that cannot be read, and a note where `top_k` was reduced to the
        number of classes.
    """
    top_k, note = clamp_top_k(len(classifier.labels), top_k)
    answers, broken = [], []
    for picture in pictures:
        try:
            pixels = classifier.contract.load(picture)
        except PictureError as error:
            broken.append(str(error))
            continue
        probabilities = softmax(classifier.logits(pixels[None]).astype(np.float64))[0]
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        answers.append(Answer(str(picture), tuple((classifier.labels[i], int(i), float(probabilities[i])) for i in best)))
    return answers, broken, note
