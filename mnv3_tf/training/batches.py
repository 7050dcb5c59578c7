"""Batches of training pictures, prepared by threads or processes ahead of the step that needs them.

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
from mnv3_tf.data.batches import MOST_THREADS, BrokenPictures, ordered_parallel
from mnv3_tf.machine import usable_cores
from mnv3_tf.training.augment import augment
from mnv3_tf.training.picture_processes import PictureProcesses, Prepared

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
Mixed = tuple[np.ndarray, np.ndarray]

# A training picture is kept at least this much larger than the model's input, so that a random crop still has detail to show;
# and as it was decoded, unless it is this much larger again: a second resizing takes longer than decoding.
_SOURCE_MARGIN, _LARGER = 1.25, 1.5
# Batches that processes prepare before they are asked for.
_AHEAD = 6


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
        if shrink < 1 / _LARGER:
            picture = picture.resize((max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))),
                                     Image.Resampling.BILINEAR)
        picture.load()
        size_bytes = picture.width * picture.height * 4
        with self._lock:
            if size_bytes <= self._bytes_left and index not in self._kept:
                self._bytes_left -= size_bytes
                self._kept[index] = picture.copy()  # without what its file held beside pixels
        return picture


class TrainingPictures:
    """Training pictures as the network is given them: changed at random, or as the contract makes them.

    Args:
        samples: pictures.
        contract: the model's input.
        augmentation: what to vary, or None for the contract's own pictures.
        seed: of order and augmentation.
        cache_mb: memory for decoded pictures.
    """

    def __init__(self, samples: Sequence[Sample], contract: Preprocessing, augmentation: AugmentConfig | None, seed: int,
                 cache_mb: int):
        self._samples, self._contract, self._augmentation, self._seed = samples, contract, augmentation, seed
        self._sources = SourceCache(samples, contract, cache_mb)
        self._order: tuple[int, np.ndarray] = -1, np.empty(0, np.int64)
        self._broken = dict[int, PictureError]()

    def order(self, epoch: int) -> np.ndarray:
        """Indices of all pictures in the order of an epoch, int64 (n,)."""
        known, order = self._order
        if known != epoch:
            self._order = epoch, (order := np.random.default_rng([self._seed, epoch]).permutation(len(self._samples)))
        return order

    def __call__(self, epoch: int, place: int) -> tuple[int, np.ndarray, dict[int, PictureError]]:
        """Index and pixels of the picture at a place of the epoch's order, or of the first after it that can be read; and the
        broken ones between."""
        order, errors = self.order(epoch), dict[int, PictureError]()
        for after in range(len(order)):
            index = int(order[(place + after) % len(order)])
            try:
                if index not in self._broken:
                    return index, self._pixels(epoch, index), errors
            except PictureError as error:
                self._broken[index] = error
            errors[index] = self._broken[index]
        raise next(iter(errors.values()))

    def _pixels(self, epoch: int, index: int) -> np.ndarray:
        if self._augmentation is None:
            return self._contract.prepare(read_picture(self._samples[index].path))
        rng = np.random.default_rng([self._seed, epoch, index, 1])
        return augment(self._sources[index], self._contract, self._augmentation, rng)


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
        workers: up to :data:`MOST_THREADS` are threads, more are processes, since Python runs in one thread at a time; None: a
            thread for each core, as far as these go.
        part: which part of every batch is wanted, counted from 0, and of how many equal ones; order and pictures are the same.
        say: told of pictures that cannot be read; the next one of the epoch's order takes the place of each.
    """

    def __init__(self, samples: Sequence[Sample], contract: Preprocessing, classes: int, *, batch_size: int,
                 augmentation: AugmentConfig | None, class_weights: np.ndarray | None = None, seed: int = 0,
                 cache_mb: int = 1024, workers: int | None = None, part: tuple[int, int] = (0, 1),
                 say: Callable[[str], None] = lambda text: None):
        self.batch_size = min(batch_size, len(samples))
        self.steps_per_epoch = len(samples) // self.batch_size
        self.broken = BrokenPictures(len(samples), say)
        self._labels = Samples.of(samples).labels
        self._size = (contract.height, contract.width)
        self._classes, self._class_weights, self._seed = classes, class_weights, seed
        self._workers = workers or min(MOST_THREADS, usable_cores())
        self._made_of = (samples, contract, augmentation, seed)
        self._cache_mb = cache_mb
        self._pictures = TrainingPictures(*self._made_of, cache_mb)
        self._processes: PictureProcesses | None = None
        alphas = ((mix_up, augmentation.mixup), (cut_mix, augmentation.cutmix)) if augmentation else ()
        self._ways_to_mix: list[Callable[..., Mixed]] = [partial(way, alpha=alpha) for way, alpha in alphas if alpha]
        rows = self.batch_size // part[1]
        self._rows = slice(part[0] * rows, (part[0] + 1) * rows)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, from `first_step` on.

        Yields:
            Pixels uint8 (batch, height, width, 3), labels float32 (batch, classes) one-hot or mixed (zeros where a picture has
            none), weights float32 (batch,).
        """
        steps = range(first_step, self.steps_per_epoch)
        self._pictures.order(epoch)  # once, before all threads ask for it
        if self._workers <= MOST_THREADS:
            yield from ordered_parallel(lambda step: self._batch(epoch, step, self._prepared(epoch, self._places(step))), steps,
                                        self._workers, ahead=2 * self._workers)
            return
        if self._processes is None:
            self._processes = PictureProcesses(
                self._workers, TrainingPictures, (*self._made_of, self._cache_mb // self._workers),
                (len(self._places(0)), *self._size), ahead=_AHEAD,
                owner=lambda epoch, place: self._pictures.order(epoch)[place % len(self._labels)])
        prepared = self._processes.batches((epoch, self._places(step)) for step in steps)
        yield from ordered_parallel(lambda item: self._batch(epoch, *item), zip(steps, prepared, strict=True), 2, ahead=2)

    def close(self) -> None:
        """Ends the processes, if there are any."""
        if self._processes:
            self._processes.close()
            self._processes = None

    def _places(self, step: int) -> list[int]:
        """Of the wanted part of a batch in the epoch's order; then those of the pictures that it may be mixed with, which are the
        whole batch's in reverse order, where they are others."""
        first = step * self.batch_size
        whole = range(first, first + self.batch_size)
        wanted = whole[self._rows]
        return [*wanted, *(whole[::-1][self._rows] if self._ways_to_mix and len(wanted) < len(whole) else ())]

    def _prepared(self, epoch: int, places: Sequence[int]) -> Prepared:
        """Indices, pixels and broken pictures of places in the epoch's order."""
        indices, errors = np.empty(len(places), np.int64), dict[int, PictureError]()
        pixels = np.empty((len(places), *self._size, 3), np.uint8)
        for row, place in enumerate(places):
            indices[row], pixels[row], found = self._pictures(epoch, place)
            errors |= found
        return indices, pixels, errors

    def _batch(self, epoch: int, step: int, prepared: Prepared) -> Batch:
        indices, pixels, errors = prepared
        for index, error in errors.items():
            self.broken.add(index, error)
        labels = np.zeros((len(indices), self._classes), np.float32)  # zeros where a picture has no label
        known = np.flatnonzero(self._labels[indices] >= 0)
        labels[known, self._labels[indices][known]] = 1
        rows = self._rows.stop - self._rows.start
        weights = np.ones(rows, np.float32)
        if self._class_weights is not None:
            own = self._labels[indices[:rows]]
            weights = np.where(own >= 0, self._class_weights[own], 1).astype(np.float32)
        if ways := self._ways_to_mix:
            rng = np.random.default_rng([self._seed, epoch, step, 2])
            mix = ways[rng.integers(len(ways)) if len(ways) > 1 else 0]
            others = slice(rows, None) if len(indices) > rows else slice(None, None, -1)
            return *mix((pixels[:rows], labels[:rows]), (pixels[others], labels[others]), rng), weights
        return pixels[:rows], labels[:rows], weights


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
