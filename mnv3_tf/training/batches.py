"""Batches of training pictures, prepared by threads ahead of the step that needs them.

Everything random depends on (seed, epoch, picture) alone, never on the order in which threads finish.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image

from mnv3_tf.config import AugmentConfig
from mnv3_tf.data import PictureError, Preprocessing, Sample, Samples, read_picture
from mnv3_tf.data.batches import BrokenPictures, default_workers, ordered_parallel
from mnv3_tf.training.augment import augment

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
Mixed = tuple[np.ndarray, np.ndarray]

# A training picture is kept this much larger than the model's input, so that a random crop still has detail to show.
_SOURCE_MARGIN = 1.3


class SourceCache:
    """Decoded training pictures, a little larger than the model's input, kept in memory up to a budget."""

    def __init__(self, samples: Sequence[Sample], contract: Preprocessing, budget_mb: int):
        self._samples = samples
        self._size = (round(contract.height * _SOURCE_MARGIN), round(contract.width * _SOURCE_MARGIN))
        self._kept: dict[int, Image.Image] = {}
        self._bytes_left = budget_mb * 1024 * 1024
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> Image.Image:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        picture = read_picture(self._samples[index].path, draft=self._size)
        shrink = max(self._size[0] / picture.height, self._size[1] / picture.width)
        if shrink < 1:
            picture = picture.resize((max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))),
                                     Image.Resampling.BILINEAR)
        picture.load()
        size_bytes = picture.width * picture.height * 4
        with self._lock:
            if size_bytes <= self._bytes_left and index not in self._kept:
                self._bytes_left -= size_bytes
                self._kept[index] = picture
        return picture


class TrainingBatches:
    """The training split, shuffled and changed at random, epoch by epoch.

    Args:
        samples: pictures with class indices.
        contract: the model's input.
        classes: number of classes.
        batch_size: pictures per batch; a split smaller than that makes one smaller batch. The last, incomplete batch of an
            epoch is left out, so that BatchNorm never sees a handful of pictures.
        augmentation: what to vary, or None for the contract's own pictures.
        class_weights: (classes,) weights of the loss, or None.
        seed: of order and augmentation.
        cache_mb: memory for decoded pictures.
        workers: threads; None: one for each core, at most four, since more of them only wait for Python's lock.
        say: told of pictures that cannot be read; the next one of the epoch's order takes the place of each.
        part: which part of every batch is wanted, counted from 0, and of how many equal ones; order and pictures are the same.
    """

    def __init__(self, samples: Sequence[Sample], contract: Preprocessing, classes: int, *, batch_size: int,
                 augmentation: AugmentConfig | None, class_weights: np.ndarray | None = None, seed: int = 0,
                 cache_mb: int = 1024, workers: int | None = None, part: tuple[int, int] = (0, 1),
                 say: Callable[[str], None] = lambda text: None):
        self.batch_size = min(batch_size, len(samples))
        self.steps_per_epoch = len(samples) // self.batch_size
        self._labels = Samples.of(samples).labels
        self._samples, self._contract, self._augmentation = samples, contract, augmentation
        self._classes, self._class_weights, self._seed = classes, class_weights, seed
        self.broken = BrokenPictures(len(samples), say)
        self._sources = SourceCache(samples, contract, cache_mb)
        self._workers = workers or min(4, default_workers())
        rows = self.batch_size // part[1]
        self._rows = slice(part[0] * rows, (part[0] + 1) * rows)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, from `first_step` on.

        Yields:
            Pixels uint8 (batch, height, width, 3), labels float32 (batch, classes) one-hot or mixed (zeros where a picture has
            none), weights float32 (batch,).
        """
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._samples))
        steps = range(first_step, self.steps_per_epoch)
        yield from ordered_parallel(partial(self._batch, epoch, order), steps, self._workers, ahead=2 * self._workers)

    def _batch(self, epoch: int, order: np.ndarray, step: int) -> Batch:
        first = step * self.batch_size
        places = range(first, first + self.batch_size)[self._rows]
        indices, pixels, labels = self._pictures(epoch, order, places)
        weights = np.ones(len(indices), np.float32)
        if self._class_weights is not None:
            weights = self._class_weights[self._labels[indices]].astype(np.float32)
        mix = self._mixing(rng := np.random.default_rng([self._seed, epoch, step, 2]))
        if mix:
            opposite = range(first, first + self.batch_size)[::-1][self._rows]
            others = pixels[::-1], labels[::-1]
            if len(places) < self.batch_size:
                others = self._pictures(epoch, order, opposite)[1:]
            pixels, labels = mix((pixels, labels), others, rng)
        return pixels, labels, weights

    def _mixing(self, rng: np.random.Generator) -> Callable[..., Mixed] | None:
        """How a batch is mixed, if it is."""
        config = self._augmentation or AugmentConfig(mixup=0, cutmix=0)
        ways = [partial(way, alpha=alpha) for way, alpha in ((mix_up, config.mixup), (cut_mix, config.cutmix)) if alpha]
        return ways[rng.integers(len(ways)) if len(ways) > 1 else 0] if ways else None

    def _pictures(self, epoch: int, order: np.ndarray, places: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices, pixels and labels of the pictures at places of the epoch's order."""
        indices = np.empty(len(places), np.int64)
        pixels = np.empty((len(places), self._contract.height, self._contract.width, 3), np.uint8)
        for row, place in enumerate(places):
            indices[row], pixels[row] = self._picture(epoch, order, place)
        labels = np.zeros((len(indices), self._classes), np.float32)  # zeros where a picture has no label
        known = np.flatnonzero(self._labels[indices] >= 0)
        labels[known, self._labels[indices][known]] = 1
        return indices, pixels, labels

    def _picture(self, epoch: int, order: np.ndarray, place: int) -> tuple[int, np.ndarray]:
        """(index, pixels) of the picture at a place of the epoch's order, or of the first after it that can be read."""
        while True:
            index = int(order[place % len(order)])
            place += 1
            if index in self.broken:
                continue
            try:
                if self._augmentation is None:
                    return index, self._contract.prepare(read_picture(self._samples[index].path))
                rng = np.random.default_rng([self._seed, epoch, index, 1])
                return index, augment(self._sources[index], self._contract, self._augmentation, rng)
            except PictureError as error:
                self.broken.add(index, error)


def mix_up(batch: Mixed, others: Mixed, rng: np.random.Generator, *, alpha: float) -> Mixed:
    """Mixes pictures uint8 (n, height, width, 3) and labels float32 (n, classes) with others (Zhang et al., "mixup", 2018)."""
    share = np.float32(max(first := rng.beta(alpha, alpha), 1 - first))
    (pixels, labels), (other_pixels, other_labels) = batch, others
    mixed = np.rint(share * pixels + (1 - share) * other_pixels).astype(np.uint8)
    return mixed, share * labels + (1 - share) * other_labels


def cut_mix(batch: Mixed, others: Mixed, rng: np.random.Generator, *, alpha: float) -> Mixed:
    """Puts a rectangle of others into pictures; labels are mixed by its area (Yun et al., "CutMix", 2019). As :func:`mix_up`."""
    (pixels, labels), (other_pixels, other_labels) = batch, others
    height, width = pixels.shape[1:3]
    side = math.sqrt(1 - rng.beta(alpha, alpha))
    middle_y, middle_x = rng.integers(height), rng.integers(width)
    top, bottom = np.clip([middle_y - round(side * height / 2), middle_y + round(side * height / 2)], 0, height)
    left, right = np.clip([middle_x - round(side * width / 2), middle_x + round(side * width / 2)], 0, width)
    mixed = pixels.copy()
    mixed[:, top:bottom, left:right] = other_pixels[:, top:bottom, left:right]
    share = np.float32(1 - (bottom - top) * (right - left) / (height * width))
    return mixed, share * labels + (1 - share) * other_labels
