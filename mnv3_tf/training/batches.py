"""Batches of training and evaluation pictures, prepared by threads ahead of the step that needs them.

Pillow releases Python's lock while it decodes and resizes, so threads share the cores with the training step. Everything
random depends on (seed, epoch, picture) alone, never on the order in which threads finish.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from PIL import Image

from mnv3_tf.config import AugmentConfig
from mnv3_tf.data import Preprocessing, Sample, read_picture
from mnv3_tf.machine import usable_cores
from mnv3_tf.training.augment import augment

EVALUATION_BATCH = 64

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
_T = TypeVar("_T")

# A training picture is kept this much larger than the model's input, so that a random crop still has detail to show.
_SOURCE_MARGIN = 1.3


def default_workers() -> int:
    """Threads for preparing pictures: one per core, at most 16."""
    return min(16, usable_cores())


def ordered_parallel(work: Callable[[_T], object], items: Iterable[_T], workers: int, ahead: int) -> Iterator[object]:
    """``work(item)`` for each item, in order, with at most `ahead` results computed before they are asked for."""
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


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
        workers: threads; None chooses.
    """

    def __init__(self, samples: Sequence[Sample], contract: Preprocessing, classes: int, *, batch_size: int,
                 augmentation: AugmentConfig | None, class_weights: np.ndarray | None = None, seed: int = 0,
                 cache_mb: int = 1024, workers: int | None = None):
        self.batch_size = min(batch_size, len(samples))
        self.steps_per_epoch = len(samples) // self.batch_size
        self._labels = np.array([sample.label for sample in samples])
        self._samples, self._contract, self._augmentation = samples, contract, augmentation
        self._classes, self._class_weights, self._seed = classes, class_weights, seed
        self._sources = SourceCache(samples, contract, cache_mb)
        self._workers = workers or default_workers()

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, from `first_step` on.

        Yields:
            Pixels uint8 (batch, height, width, 3), labels float32 (batch, classes) one-hot or mixed, weights float32 (batch,).
        """
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._samples))

        def batch(step: int) -> Batch:
            indices = order[step * self.batch_size:(step + 1) * self.batch_size]
            return self._batch(indices, epoch, step)

        steps = range(first_step, self.steps_per_epoch)
        yield from ordered_parallel(batch, steps, self._workers, ahead=2 * self._workers)  # type: ignore[misc]

    def _batch(self, indices: np.ndarray, epoch: int, step: int) -> Batch:
        pixels = np.empty((len(indices), self._contract.height, self._contract.width, 3), np.uint8)
        for row, index in enumerate(indices):
            rng = np.random.default_rng([self._seed, epoch, int(index), 1])
            if self._augmentation is None:
                pixels[row] = self._contract.prepare(read_picture(self._samples[index].path))
            else:
                pixels[row] = augment(self._sources[int(index)], self._contract, self._augmentation, rng)
        labels = np.eye(self._classes, dtype=np.float32)[self._labels[indices]]
        weights = np.ones(len(indices), np.float32)
        if self._class_weights is not None:
            weights = self._class_weights[self._labels[indices]].astype(np.float32)
        if self._augmentation is not None and self._augmentation.mixup > 0:
            rng = np.random.default_rng([self._seed, epoch, step, 2])
            pixels, labels = _mix(pixels, labels, self._augmentation.mixup, rng)
        return pixels, labels, weights


def _mix(pixels: np.ndarray, labels: np.ndarray, alpha: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mixes every picture and its label with the batch in reverse order (Zhang et al., "mixup", 2018)."""
    share = np.float32(max(first := rng.beta(alpha, alpha), 1 - first))
    mixed = np.rint(share * pixels + (1 - share) * pixels[::-1]).astype(np.uint8)
    return mixed, share * labels + (1 - share) * labels[::-1]


def contract_batches(samples: Sequence[Sample], contract: Preprocessing, batch_size: int = 64,
                     workers: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures exactly as the contract makes them, in order.

    Yields:
        Pixels uint8 (batch, height, width, 3) and labels int64 (batch,); the last batch may be smaller.
    """
    workers = workers or default_workers()

    def batch(start: int) -> tuple[np.ndarray, np.ndarray]:
        chunk = samples[start:start + batch_size]
        return np.stack([contract.load(s.path) for s in chunk]), np.array([s.label for s in chunk], np.int64)

    yield from ordered_parallel(batch, range(0, len(samples), batch_size), workers, ahead=2 * workers)  # type: ignore[misc]


class ContractPictures:
    """A split as the contract makes it: kept in memory where it is small, prepared again each time where it is not.

    Iterating yields pixels uint8 (batch, height, width, 3).

    Attributes:
        labels: int64 (n,).
    """

    _LIMIT_BYTES = 512 * 1024 * 1024

    def __init__(self, samples: Sequence[Sample], contract: Preprocessing, batch_size: int = EVALUATION_BATCH):
        self.samples, self.contract, self.batch_size = samples, contract, batch_size
        self.labels = np.array([sample.label for sample in samples], np.int64)
        self._keep = len(samples) * contract.height * contract.width * 3 <= self._LIMIT_BYTES
        self._kept: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._kept is not None:
            yield from self._kept
            return
        kept = []
        for pixels, _ in contract_batches(self.samples, self.contract, self.batch_size):
            if self._keep:
                kept.append(pixels)
            yield pixels
        self._kept = kept if self._keep else None
