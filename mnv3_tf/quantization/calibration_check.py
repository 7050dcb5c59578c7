"""The look at the pictures that calibrate: are they photos, do they cover the classes, are they held out, are they enough?"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.data import PictureDataset, Sample
from mnv3_tf.data.scan import Contents
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain_fields
from mnv3_tf.text import counted, few

# Neighbours at a sixteenth of the picture's side are alike in a photo (0.5 to 0.9) and not at all in noise.
_LEAST_LIKENESS = 0.15
_CONSTANT_DEVIATION = 1.0
_LEAST_SHARE = 0.5
# Ranges of half of the pictures should reach this share of the ranges of all.
_CONVERGED = 0.85


@dataclass(frozen=True)
class Content:
    """What the calibration pictures look like.

    Attributes:
        pictures: how many were measured.
        constant: of these, how many are one colour all over.
        likeness: median correlation of pixels a sixteenth of the side apart, in -1..1; near 0 for random numbers.
    """

    pictures: int
    constant: int
    likeness: float

    def problem(self) -> str | None:
        """Why nothing should be calibrated on this, or None."""
        if self.pictures and self.constant / self.pictures > _LEAST_SHARE:
            return f"{self.constant} of {self.pictures} pictures are one colour all over"
        if self.likeness < _LEAST_LIKENESS:
            return (f"the pictures look like random numbers (neighbouring regions correlate by {self.likeness:.2f}; photos do by "
                    "0.5 and more)")
        return None


@dataclass(frozen=True)
class RangeGrowth:
    """How far the ranges are after some of the pictures.

    Attributes:
        pictures: seen so far.
        worst, median: over all tensors, the span seen so far as a share of the span that all pictures have, in 0..1.
    """

    pictures: int
    worst: float
    median: float


@dataclass(frozen=True)
class CalibrationCheck:
    """What calibrated a quantized run.

    Attributes:
        source: the folder of the data set.
        content: what the pictures look like.
        classes: class name -> calibration pictures of it; empty where they have no labels.
        duplicates: groups of pictures with the same content.
        overlaps: calibration pictures that the validation or test split has too, as "file (split)".
        convergence: the ranges over the number of pictures.
        smoke: the user asked for calibration on anything.
    """

    source: str
    content: Content
    classes: dict[str, int]
    duplicates: tuple[tuple[str, ...], ...]
    overlaps: tuple[str, ...]
    convergence: tuple[RangeGrowth, ...]
    smoke: bool

    def remarks(self) -> list[str]:
        """What a person should know, a line each; empty where all is well."""
        lines = []
        problem = self.content.problem()
        if problem:
            lines.append(f"calibrated for a smoke test only: {problem}")
        missing = [name for name, count in self.classes.items() if not count]
        if missing:
            lines.append(f"no calibration picture of {few(missing)}: raise quantize.calibration_pictures, or "
                         "add pictures")
        if self.duplicates:
            lines.append(f"{counted(len(self.duplicates), 'calibration picture')} twice or more: "
                         f"{few([' = '.join(group) for group in self.duplicates])}")
        if self.overlaps:
            lines.append(f"{counted(len(self.overlaps), 'calibration picture')} in a held-out split too: "
                         f"{few(self.overlaps)}")
        half = [step for step in self.convergence if step.pictures <= self.content.pictures / 2]
        if half and half[-1].median < _CONVERGED:
            lines.append(f"the ranges still grow: half of the pictures reach {half[-1].median:.0%} of the median range; raise "
                         "quantize.calibration_pictures")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the remarks included."""
        return {**plain_fields(self), "remarks": self.remarks()}


def measure_content(batches: Iterable[np.ndarray]) -> Content:
    """Looks at pixels uint8 (n, height, width, 3)."""
    likeness: list[float] = []
    constant = 0
    for pixels in batches:
        grey = pixels.mean(axis=3, dtype=np.float32)
        constant += int((pixels.reshape(len(pixels), -1, 3).std(axis=1).max(axis=1) < _CONSTANT_DEVIATION).sum())
        lag = max(2, min(grey.shape[1:]) // 16)
        across = _correlation(grey[:, :, :-lag], grey[:, :, lag:])
        down = _correlation(grey[:, :-lag], grey[:, lag:])
        likeness += ((across + down) / 2).tolist()
    return Content(len(likeness), constant, float(np.median(likeness)) if likeness else 0.0)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each picture's values with the other's; 1 where one is constant."""
    a, b = (values.reshape(len(values), -1) for values in (one, other))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.where(size > 1e-6, (a * b).sum(axis=1) / np.maximum(size, 1e-6), 1.0)


def refuse_nonsense(content: Content, source: Path, smoke: bool) -> None:
    """Refuses random or constant data.

    Raises:
        InputError: `content` cannot calibrate a network, and `smoke` was not asked for.
    """
    problem = content.problem()
    if problem and not smoke:
        raise InputError(f"{source}: {problem}. Ranges from such data make a wrong int8 network. Calibrate on the pictures that "
                         "the network is for, or give --smoke where only the tools are to be tried.")


def check_calibration(dataset: PictureDataset, samples: Sequence[Sample], contents: Contents, content: Content,
                      convergence: tuple[RangeGrowth, ...], smoke: bool) -> CalibrationCheck:
    """What can be said of the pictures that calibrate.

    Args:
        dataset: its other splits are looked through for the same pictures.
        samples: the pictures that calibrate.
        contents: of every picture, from its scan (`ScanReport.contents`).
        content: measured by :func:`measure_content`.
        convergence: from calibration.
        smoke: as asked for.
    """
    counts = Counter(map(dataset.class_of, samples))
    same: dict[tuple[int, int], list[Sample]] = defaultdict(list)
    for sample, digest in zip(samples, contents.of(samples).tolist(), strict=True):
        same[tuple(digest)].append(sample)
    held_out: dict[tuple[int, int], tuple[Sample, str]] = {}
    for split in sorted(dataset.splits.keys() - {"train"}):
        digests = contents.of(others := dataset.split(split))
        for place in np.flatnonzero(digests.any(axis=1)):
            if (digest := tuple(digests[place].tolist())) in same:
                held_out[digest] = others[int(place)], split
    overlaps = [f"{group[0].path} ({held_out[digest][1]}: {held_out[digest][0].path.name})"
                for digest, group in same.items() if digest in held_out]
    return CalibrationCheck(
        str(dataset.root), content, {name: counts.get(name, 0) for name in dataset.class_names},
        tuple(tuple(str(sample.path) for sample in group) for group in same.values() if len(group) > 1), tuple(overlaps),
        convergence, smoke)
