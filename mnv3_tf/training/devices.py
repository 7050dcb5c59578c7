"""The devices that a run is trained on: those of this process, and of all processes.

Each process prepares its own rows of a batch; Keras computes a step on all rows at once, so that loss, gradients and BatchNorm's
statistics are those of the whole batch, and weights are the same everywhere.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mnv3_tf.backend import has_accelerator, keras
from mnv3_tf.data import Preprocessing
from mnv3_tf.data.batches import EVALUATION_BATCH, ContractPictures
from mnv3_tf.data.sample_list import Samples
from mnv3_tf.errors import InputError
from mnv3_tf.machine import usable_cores
from mnv3_tf.network.keras_io import batch_logits
from mnv3_tf.training import processes


class Devices:
    """What `train.devices` asks for of what there is.

    Args:
        wanted: devices of each process; None: all of them on JAX. TensorFlow uses one.

    Attributes:
        used: devices of this process that are used.
        processes, process: how many processes there are, and the number of this one.
        notes: a sentence about what is used.

    Raises:
        InputError: there are fewer devices, or other processes use other numbers of them.
    """

    def __init__(self, wanted: int | None):
        self.processes, self.process = processes.count(), processes.index()
        on_jax = keras.backend.backend() == "jax"
        there = _local() if on_jax else keras.distribution.list_devices()
        self.used = wanted or (len(there) if on_jax else 1)
        if self.used > len(there):
            raise InputError(f"train.devices is {wanted}: there are {len(there)} ({', '.join(there)}).")
        if self.used > 1 and not on_jax:
            raise InputError(f"train.devices is {wanted}: TensorFlow trains on one. Set KERAS_BACKEND=jax for more.")
        processes.agree({"the number of devices": self.used})
        self.notes: list[str] = []
        self._distribution = None
        if self.total > 1:
            names = [name for process in range(self.processes) for name in _local(process)[:self.used]]
            self._distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
            where = f"{self.processes} processes with {self.used} each" if self.processes > 1 else f"of {len(there)}"
            self.notes.append(f"{self.total} devices ({where}) compute a part of every batch each")
        elif len(there) > 1:
            how = "as train.devices says" if on_jax else "since TensorFlow trains on one; KERAS_BACKEND=jax trains on all of them"
            self.notes.append(f"1 of {len(there)} devices is used ({there[0]}), {how}")

    @property
    def total(self) -> int:
        """Devices of all processes."""
        return self.used * self.processes

    def workers(self, wanted: int | None) -> int | None:
        """`data.workers`; where that is open and there is an accelerator, one for each core, or a fair share of the cores of a
        host with several processes. A CPU trains more slowly than the few threads that are the default prepare pictures."""
        if wanted or not has_accelerator():
            return wanted
        cores = usable_cores()  # of this process, or, where they are all of the host's, of all its processes
        return max(1, cores // processes.on_this_host()) if self.processes > 1 and cores == os.cpu_count() else cores

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """A block whose networks are computed on all devices."""
        with self._distribution.scope() if self._distribution else contextlib.nullcontext():
            yield

    def check_batch(self, size: int, pictures: int) -> None:
        """Refuses a batch that cannot be spread.

        Raises:
            InputError: names the nearest sizes.
        """
        if size % self.total:
            below, above = size // self.total * self.total, (size // self.total + 1) * self.total
            fits = [str(number) for number in (below, above) if 0 < number <= pictures]
            raise InputError(f"A batch of {size} pictures cannot be spread evenly over {self.total} devices: give "
                             f"-o train.batch_size={' or '.join(fits)}, or fewer devices with -o train.devices=N."
                             if fits else f"{pictures} training pictures are fewer than the {self.total} devices: use fewer.")

    def pictures(self, samples: Samples, contract: Preprocessing, say: Callable[[str], None]) -> ContractPictures:
        """This process's part of a split: of every round, one batch. `say` is told of pictures that cannot be read."""
        rounds = np.arange(len(samples)) // EVALUATION_BATCH
        return ContractPictures(samples.take(np.flatnonzero(rounds % self.processes == self.process)), contract, say=say)

    def answers(self, model: keras.Model, pictures: ContractPictures, labels: np.ndarray
                ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Logits float32 (n, classes) and labels (n,) of a split in its order, in batches, without pictures that cannot be read.

        Args:
            model: built in :meth:`scope`.
            pictures: the part of this process.
            labels: of the whole split.
        """
        own, done = iter(pictures), 0
        nothing = np.empty((0, pictures.contract.height, pictures.contract.width, 3), np.uint8)
        for start in range(0, len(labels), EVALUATION_BATCH * self.processes):
            found = batch_logits(model, next(own, nothing))
            rows = np.zeros((EVALUATION_BATCH, 1 + found.shape[1]), np.float32)
            rows[:len(found), 0], rows[:len(found), 1:] = pictures.sound(done, done + len(found)), found
            done += len(found)
            rows = rows_of_all(rows)[:len(labels) - start]
            sound = rows[:, 0] > 0
            yield rows[sound, 1:], labels[start:start + len(rows)][sound]


def rows_of_all(rows: np.ndarray) -> np.ndarray:
    """Rows of all processes, in their order; each gives as many."""
    if processes.count() == 1:
        return rows
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(rows, tiled=True)


def _local(process: int | None = None) -> list[str]:
    """Names, as Keras has them, of the devices of a process; of this one by default."""
    import jax

    return [f"{device.platform}:{device.id}" for device in sorted(jax.local_devices(process_index=process), key=lambda d: d.id)]


def copy_weights(model: keras.Model, values: Sequence[Any]) -> None:
    """Gives a model the values of as many variables, on the devices: none is fetched."""
    for variable, value in zip(model.weights, values, strict=True):
        variable.assign(keras.ops.copy(value))
