"""What a dataset is: named classes, and pictures with labels in named splits."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mnv3_tf.data.sample_list import NO_LABEL, Sample, Samples
from mnv3_tf.errors import InputError
from mnv3_tf.text import counted, listed, nearest, suggestions


class LabelError(InputError):
    """Pictures that have no labels which fit.

    Args:
        root: the folder, or the place in a file.
        what: is wrong with them.
        remedy: a sentence.
    """

    def __init__(self, root: Path | str, what: str, remedy: str):
        super().__init__(f"{root}: {what}. {remedy}")
        self.what, self.remedy = what, remedy


@dataclass(frozen=True)
class PictureDataset:
    """Pictures, listed but not opened.

    Attributes:
        root: the folder that was opened.
        class_names: in the order of the labels; empty where the pictures have no labels.
        splits: "train", "val" and "test", those that there are, each in a fixed order. Any sequences may be given; they
            become :class:`Samples`.
        layout: what was found: "label files", "shards", "split folders", "class folders" or "pictures".
        notes: what was skipped, assumed or unusual, in words for a person.
    """

    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, Samples]
    layout: str
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", {name: Samples.of(samples) for name, samples in self.splits.items()})

    @property
    def labelled(self) -> bool:
        """Whether the pictures have labels."""
        return bool(self.class_names)

    def class_of(self, sample: Sample) -> str:
        """The name of a picture's class, empty where the pictures have no labels."""
        return self.class_names[sample.label] if self.labelled else ""

    def split(self, name: str) -> Samples:
        """The samples of one split, or of all of them for "all".

        Raises:
            InputError: there is no such split; the message lists those that there are.
        """
        if name == "all":
            return Samples.joined(self.splits.values())
        if name not in self.splits:
            raise InputError(f"{self.root}: no split {name!r}{nearest(name, self.splits) or '.'} "
                             f"There are: {', '.join(self.splits) or 'none'}.")
        return self.splits[name]

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures of every class in every split, zeros included: split -> class name -> count."""
        if not self.labelled:
            return {split: {"": len(samples)} if samples else {} for split, samples in self.splits.items()}
        return {split: dict(zip(self.class_names, np.bincount(samples.labels, minlength=len(self.class_names)).tolist(),
                                strict=True)) for split, samples in self.splits.items()}

    def with_class_names(self, class_names: Sequence[str]) -> "PictureDataset":
        """The same pictures with labels that index `class_names`, matched by name.

        Raises:
            InputError: the dataset has a class that is not among them; a LabelError where that is so of all its classes.
        """
        index = {_composed(name): position for position, name in enumerate(class_names)}
        unknown = [name for name in self.class_names if _composed(name) not in index]
        if unknown:
            what = (f"{counted(len(unknown), 'class', 'classes')} that the model does not have: "
                    f"{suggestions(unknown, class_names)}")
            remedy = (f"The model's classes: {listed(class_names, ', ')}. Rename or take out the class, or train a model that "
                      "has it.")
            if len(unknown) < len(self.class_names):  # a mistyped name, more likely than pictures without labels
                raise InputError(f"{self.root}: {what}. {remedy}")
            raise LabelError(self.root, what, remedy)
        moved = np.array([index[_composed(name)] for name in self.class_names])
        splits = {name: samples.with_labels(moved[samples.labels]) for name, samples in self.splits.items()}
        return replace(self, class_names=tuple(class_names), splits=splits)


def labels_of(samples: Sequence[Sample]) -> np.ndarray | None:
    """The labels, int64 (n,); None where the pictures have none."""
    labels = Samples.of(samples).labels.astype(np.int64)
    return labels if np.all(labels != NO_LABEL) else None


def evaluation_split(dataset: PictureDataset) -> str:
    """The split that a final score is measured on: "test" where there is one, else "val".

    Raises:
        InputError: the dataset has neither.
    """
    for name in ("test", "val"):
        if name in dataset.splits:
            return name
    raise InputError(f"{dataset.root}: no test and no validation pictures to evaluate on. There are: "
                     f"{', '.join(dataset.splits)}. Add a test/ folder or test_list.txt, or set a validation fraction.")


def clamp_top_k(class_count: int, k: int = 5) -> tuple[int, str | None]:
    """(k, None), or with fewer classes than k: (class_count, a note that says so)."""
    if k <= class_count:
        return k, None
    return class_count, f"top-{k} needs {k} classes and there are {class_count}: top-{class_count} is reported"


def _composed(name: str) -> str:
    """One Unicode form: macOS writes file names in another than everyone else."""
    return unicodedata.normalize("NFC", name)
