"""Pictures exactly as the contract makes them, batch by batch, prepared by threads ahead of what needs them.

Pillow releases Python's lock while it decodes and resizes, so threads share the cores with the network.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from mnv3_tf.data.contract import Preprocessing
from mnv3_tf.data.decode import PictureError
from mnv3_tf.data.sample_list import Sample, Samples
from mnv3_tf.errors import InputError
from mnv3_tf.machine import usable_cores
from mnv3_tf.progress import Progress

EVALUATION_BATCH = 64
# More threads that decode pictures than these only wait for each other (measured on 16 cores: docs/training.md).
MOST_THREADS = 4

_T = TypeVar("_T")
_R = TypeVar("_R")


def default_workers() -> int:
    """Threads for preparing pictures: one per core, at most 16."""
    return min(16, usable_cores())


def ordered_parallel(work: Callable[[_T], _R], items: Iterable[_T], workers: int, ahead: int) -> Iterator[_R]:
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


def contract_batches(samples: Sequence[Sample], contract: Preprocessing, batch_size: int = 64, workers: int | None = None,
                     broken: "BrokenPictures | None" = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures exactly as the contract makes them, in order.

    Yields:
        Pixels uint8 (batch, height, width, 3) and labels int64 (batch,); the last batch may be smaller.

    Raises:
        PictureError: a picture cannot be read, and there is no `broken` to note it; with that, it is black.
    """
    workers = workers or default_workers()

    def batch(start: int) -> tuple[np.ndarray, np.ndarray]:
        chunk = samples[start:start + batch_size]
        pixels = np.zeros((len(chunk), contract.height, contract.width, 3), np.uint8)
        for row, sample in enumerate(chunk):
            try:
                if broken is None or start + row not in broken:
                    pixels[row] = contract.load(sample.path)
            except PictureError as error:
                if broken is None:
                    raise
                broken.add(start + row, error)
        return pixels, Samples.of(chunk).labels.astype(np.int64)

    yield from ordered_parallel(batch, range(0, len(samples), batch_size), workers, ahead=2 * workers)


def collect(progress: Progress, what: str, total: int, work: Callable[[_T], np.ndarray], batches: Iterable[_T]) -> np.ndarray:
    """What `work` makes of every batch, joined; `progress` is told of the rows that are done, of `total`."""
    parts: list[np.ndarray] = []
    with progress.task(what, total) as advance:
        for batch in batches:
            parts.append(work(batch))
            advance(sum(map(len, parts)), "")
    return np.concatenate(parts)


class BrokenPictures:
    """Pictures that training meets and cannot read: each is named once, and more than one in a hundred end the run.

    Args:
        total: pictures of the split.
        say: told of each.
        use, outcome: what the pictures are for, and what becomes of a broken one, in words.
    """

    def __init__(self, total: int, say: Callable[[str], None], use: str = "to train on",
                 outcome: str = "the next picture takes its place"):
        self._total, self._say, self._known, self._lock = total, say, set[int](), threading.Lock()
        self._use, self._outcome = use, outcome

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, index: int) -> bool:
        return index in self._known

    def add(self, index: int, error: PictureError) -> None:
        """Notes a picture; threads may do so at the same time.

        Raises:
            InputError: there are too many.
        """
        with self._lock:
            if index in self._known:
                return
            self._known.add(index)
            if 100 * len(self) > self._total:
                raise InputError(f"{error} It is one of {len(self)} broken pictures of {self._total} {self._use}, which is more "
                                 "than 1%. Replace or take out what is broken; data.check=full names all of it.") from error
            self._say(f"broken, {self._outcome}: {error}")


class ContractPictures:
    """A split as the contract makes it: kept in memory where it is small, prepared again each time where it is not.

    Iterating yields pixels uint8 (batch, height, width, 3).

    Args:
        samples, contract, batch_size: what, how, and how many at a time.
        say: told of pictures that cannot be read, which are black then; without it they are an error.

    Attributes:
        labels: int64 (n,).
        broken: which ones could not be read, as far as is known.
    """

    _LIMIT_BYTES = 512 * 1024 * 1024

    def __init__(self, samples: Sequence[Sample], contract: Preprocessing, batch_size: int = EVALUATION_BATCH,
                 say: Callable[[str], None] | None = None):
        self.samples, self.contract, self.batch_size = samples, contract, batch_size
        self.labels = Samples.of(samples).labels.astype(np.int64)
        self.broken = BrokenPictures(len(samples), say, "to measure on", "left out") if say else None
        self._keep = len(samples) * contract.height * contract.width * 3 <= self._LIMIT_BYTES
        self._kept: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def sound(self, start: int, stop: int) -> np.ndarray:
        """Which of some pictures could be read, bool (stop - start,); to be asked once they have been."""
        return np.array([not self.broken or index not in self.broken for index in range(start, stop)], bool)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._kept is not None:
            yield from self._kept
            return
        kept = []
        for pixels, _ in contract_batches(self.samples, self.contract, self.batch_size, broken=self.broken):
            if self._keep:
                kept.append(pixels)
            yield pixels
        self._kept = kept if self._keep else None
