"""Scores any model of the kit on labelled pictures, and answers for single pictures."""

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv3_tf.artefacts.card_check import check_cards
from mnv3_tf.data import PictureDataset, PictureError, Samples, clamp_top_k, evaluation_split, open_dataset
from mnv3_tf.data.batches import EVALUATION_BATCH, collect, contract_batches, default_workers, ordered_parallel
from mnv3_tf.data.check import check_pictures
from mnv3_tf.data.datasets import every_picture
from mnv3_tf.data.sample_list import PicturePath
from mnv3_tf.errors import InputError
from mnv3_tf.export.evaluate.classifier import Answer, Classifier
from mnv3_tf.files import check_writable, json_text, write_text
from mnv3_tf.metrics import Agreement, Scores, compare_answers, score, score_batches
from mnv3_tf.progress import Advance, Progress


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        scores: of one split.
        split: its name.
        skipped: a line for each picture that could not be read.
        agreement: with another model, where asked for.
        warnings: where the model is no longer what its card says.
    """

    scores: Scores
    split: str
    skipped: tuple[str, ...]
    agreement: Agreement | None = None
    warnings: tuple[str, ...] = ()


def evaluate(classifier: Classifier, data: str | Path, *, split: str | None = None, strict: bool = False,
             against: Classifier | None = None, progress: Progress) -> Evaluation:
    """Scores a model.

    Args:
        classifier: the model.
        data: a picture folder, in any layout that training takes; its classes are matched to the model's by name.
        split: "train", "val", "test" or "all"; None: test where there is one, else val. A folder of class folders alone,
            without splits, is scored as a whole unless a split is named.
        strict: a broken picture is an error.
        against: another model to compare the answers with; each is given the pictures by its own contract.
        progress: told of everything.

    Raises:
        InputError: unusable data, an unknown class, no such split, nothing to score, or `against` has other classes.
    """
    if against and against.labels != classifier.labels:
        raise InputError(f"{against.path}: has other classes than {classifier.path} ({', '.join(against.labels[:5])} ... and "
                         f"{', '.join(classifier.labels[:5])} ...); only models of the same classes can be compared.")
    dataset = open_dataset(data, class_names=classifier.labels, progress=progress)
    if split is None and dataset.layout == "class folders":
        split = "all"
        progress.say(f"{data}: has no splits, so all its pictures are scored. Where the model was trained on this folder "
                     "with the default split, --split val scores only what it was not trained on.")
    name = split or evaluation_split(dataset)
    chosen = PictureDataset(dataset.root, dataset.class_names, {name: dataset.split(name)}, dataset.layout)
    cleaned, report = check_pictures(chosen, strict=strict, progress=progress)
    samples, skipped = cleaned.split(name), tuple(str(remark) for remark in report.broken)
    if not samples:
        raise InputError(f"{data}: the split {name!r} holds no picture to score.")
    if against:
        logits = _logits(classifier, samples, progress)
        agreement = compare_answers(logits, _logits(against, samples, progress))
        scores = score(logits, samples.labels, classifier.labels)
    else:
        agreement, scores = None, _score(classifier, samples, progress)
    warnings = tuple(str(remark) for remark in check_cards(classifier.path) if remark.severity == "broken")
    return Evaluation(scores, name, skipped, agreement, warnings)


def _logits(classifier: Classifier, samples: Samples, progress: Progress) -> np.ndarray:
    return collect(progress, f"Scoring {classifier.path.name}", len(samples), lambda batch: classifier.logits(batch[0]),
                   contract_batches(samples, classifier.contract))


def _score(classifier: Classifier, samples: Samples, progress: Progress) -> Scores:
    """Batch after batch: the answers of all pictures would take memory for as many times as there are classes."""
    def answers(advance: Advance) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        done = 0
        for pixels, labels in contract_batches(samples, classifier.contract):
            yield classifier.logits(pixels), labels
            done += len(pixels)
            advance(done, "")

    with progress.task(f"Scoring {classifier.path.name}", len(samples)) as advance:
        return score_batches(answers(advance), classifier.labels)


def predict(classifier: Classifier, pictures: Sequence[str | Path], top_k: int, *, progress: Progress
            ) -> tuple[list[Answer], list[str], str | None]:
    """Answers for pictures; a folder stands for all pictures in it, at any depth, or
    in its shards.

    Returns:
        The answers in order, a line for every picture that cannot be read, and a note where `top_k` was reduced to the
        number of classes.

    Raises:
        InputError: a folder holds no picture.
    """
    top_k, note = clamp_top_k(len(classifier.labels), top_k)
    files: list[PicturePath] = []
    for picture in map(Path, pictures):
        found = every_picture(picture, progress) if picture.is_dir() else [picture]
        if not found:
            raise InputError(f"{picture}: no pictures in this folder.")
        files += found
    answers: list[Answer] = []
    broken: list[str] = []

    def load(file: PicturePath) -> np.ndarray | str:
        try:
            return classifier.contract.load(file)
        except PictureError as error:
            return str(error)

    workers = default_workers()
    loaded = zip(files, ordered_parallel(load, files, workers, ahead=2 * workers), strict=True)
    with progress.task("Classifying", len(files)) as advance:
        while batch := list(itertools.islice(loaded, EVALUATION_BATCH)):
            broken += [pixels for _, pixels in batch if isinstance(pixels, str)]
            usable = [(file, pixels) for file, pixels in batch if not isinstance(pixels, str)]
            logits = classifier.logits(np.stack([pixels for _, pixels in usable])) if usable else ()
            answers += [classifier.answer(str(file), row, top_k) for (file, _), row in zip(usable, logits, strict=True)]
            advance(len(answers) + len(broken), "")
    return answers, broken, note


def check_answers_file(path: str | Path) -> None:
    """Raises InputError where answers are not written to files of such a name, or KitError where they cannot be."""
    if Path(path).suffix not in (".csv", ".jsonl"):
        raise InputError(f"{path}: answers are written as .csv or .jsonl. Give the file one of these endings.")
    check_writable(path)


def write_answers(path: str | Path, answers: Sequence[Answer]) -> None:
    """Writes a row for each picture: as `.csv` (file, label_1, score_1, label_2, ...), or as `.jsonl`, what ``--json`` has of it.

    Raises:
        InputError: the file has another ending.
    """
    check_answers_file(path)
    text = io.StringIO()
    if Path(path).suffix == ".jsonl":
        text.writelines(f"{json_text(answer.to_dict(), None)}\n" for answer in answers)
    else:
        ranks = range(1, 1 + max((len(answer.predictions) for answer in answers), default=1))
        rows = csv.writer(text)
        rows.writerow(["file", *(f"{what}_{rank}" for rank in ranks for what in ("label", "score"))])
        rows.writerows([answer.file, *(value for label, _, probability in answer.predictions
                                       for value in (label, f"{probability:.6f}"))] for answer in answers)
    write_text(path, text.getvalue())
