"""Training pictures prepared by processes, where threads would wait for each other: Python runs in one of them at a time.

Each process prepares the pictures whose index it is responsible for, so that what it keeps decoded is asked for again. They write
into memory that all share; requests and answers go through a connection for each.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import numpy as np

from mnv3_tf.child import Child, ChildFailed
from mnv3_tf.data import PictureError
from mnv3_tf.errors import KitError

# (epoch, place in its order) -> index, pixels uint8 (height, width, 3), and broken pictures that were met on the way.
Prepare = Callable[[int, int], tuple[int, np.ndarray, dict[int, PictureError]]]
# Of a batch: indices (n,), pixels uint8 (n, height, width, 3), and the broken pictures that were met.
Prepared = tuple[np.ndarray, np.ndarray, dict[int, PictureError]]
_SHARED_MEMORY = Path("/dev/shm")
# How much of the free memory there the batches may take.
_SHARE = 0.5


class PictureProcesses:
    """Processes that prepare pictures.

    Args:
        count: of them.
        make: a module's function; in each process it makes what prepares pictures.
        arguments: for it; can be pickled.
        shape: (pictures, height, width) of the largest batch.
        owner: (epoch, place in its order) -> index of the picture there.
        ahead: batches that are prepared before they are asked for.

    Raises:
        KitError: there is no room for the batches.
    """

    def __init__(self, count: int, make: Callable[..., Prepare], arguments: Sequence[object], shape: tuple[int, int, int], *,
                 owner: Callable[[int, int], int], ahead: int):
        self._owner, self._ahead, self._shape = owner, ahead, (ahead, *shape, 3)
        with contextlib.ExitStack() as opened:
            try:
                place = _place(int(np.prod(self._shape)))
                folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="mnv3-", dir=place))
                file = Path(folder) / "pixels"
                self._pixels = np.memmap(file, np.uint8, "w+", shape=self._shape)
            except OSError as error:
                raise KitError("Neither memory nor the temporary folder has room for training batches "
                               f"({error.strerror or error}). Free some space, name another folder with TMPDIR, or set "
                               "data.workers to 4 or fewer.") from error
            key = secrets.token_bytes(32)
            name = f"\0mnv3-{secrets.token_hex(8)}" if sys.platform == "linux" else None  # no file, whose path may be too long
            listener = opened.enter_context(Listener(name, authkey=key))
            given = listener.address, key, str(file), self._shape, make, tuple(arguments)
            self._children = [opened.enter_context(Child(_serve, number, *given)) for number in range(count)]
            self._connections = [opened.enter_context(connection) for connection in self._met(listener, key)]
            with contextlib.suppress(OSError):  # all have opened it: whatever ends this process frees the memory (not on Windows)
                file.unlink()
            self._closing = opened.pop_all()

    def _met(self, listener: Listener, key: bytes) -> list[Connection]:
        """The processes' connections, in their order."""
        found: dict[int, Connection] = {}
        with ThreadPoolExecutor(1) as pool:
            while len(found) < len(self._children):
                coming = pool.submit(listener.accept)
                while not wait([coming], 1).done:
                    for number, child in enumerate(self._children):
                        if not (child.running or number in found or coming.done()):
                            Client(listener.address, authkey=key).close()  # so that nobody is waited for
                            self._ended(number)
                connection = coming.result()
                found[connection.recv()] = connection
        return [found[number] for number in range(len(found))]

    def close(self) -> None:
        """Ends the processes."""
        self._closing.close()

    def batches(self, requests: Iterable[tuple[int, Sequence[int]]]) -> Iterator[Prepared]:
        """Pictures of batches, in order.

        Args:
            requests: (epoch, places in its order) of each batch.

        Raises:
            KitError: a process ended.
        """
        waiting: deque[tuple[int, int]] = deque()  # slots of the shared memory, and how many pictures
        try:
            for number, (epoch, places) in enumerate(requests):
                if len(waiting) == self._ahead:
                    yield self._collect(*waiting.popleft())
                slot = number % self._ahead
                rows: list[list[tuple[int, int]]] = [[] for _ in self._connections]
                for row, place in enumerate(places):
                    rows[self._owner(epoch, place) % len(rows)].append((row, place))
                for worker, wanted in enumerate(rows):
                    self._send(worker, (slot, epoch, wanted))
                waiting.append((slot, len(places)))
            while waiting:
                yield self._collect(*waiting.popleft())
        finally:
            while waiting:  # answers that nobody wants any more
                self._collect(*waiting.popleft())

    def _send(self, worker: int, request: object) -> None:
        try:
            self._connections[worker].send(request)
        except OSError:
            self._ended(worker)

    def _collect(self, slot: int, count: int) -> Prepared:
        indices, broken = np.empty(count, np.int64), dict[int, PictureError]()
        for worker, connection in enumerate(self._connections):
            try:
                rows, found, errors = connection.recv()
            except (EOFError, OSError):
                self._ended(worker)
            indices[rows] = found
            broken |= errors
        return indices, np.array(self._pixels[slot, :count]), broken

    def _ended(self, worker: int) -> None:
        try:
            self._children[worker].answer(10)
            said = "no message"
        except (ChildFailed, subprocess.TimeoutExpired) as error:
            said = str(error)
        raise KitError(f"A process that prepares training pictures ended ({said}). Where memory ran out, set data.cache_mb or "
                       "data.workers lower.")


def _place(size: int) -> str | None:
    """A folder in memory with room for so many bytes; None for the temporary folder."""
    if _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK) and shutil.disk_usage(_SHARED_MEMORY).free * _SHARE > size:
        return str(_SHARED_MEMORY)
    return None


def _serve(number: int, address: str, key: bytes, file: str, shape: tuple[int, ...], make: Callable[..., Prepare],
           arguments: tuple[object, ...]) -> None:
    """One process: prepares what it is asked for, until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks
    pixels, prepare = np.memmap(file, np.uint8, "r+", shape=shape), make(*arguments)
    with Client(address, authkey=key) as connection, contextlib.suppress(EOFError, ConnectionError):
        connection.send(number)
        while True:
            slot, epoch, rows = connection.recv()
            indices, broken = [], dict[int, PictureError]()
            for row, place in rows:
                index, pixels[slot, row], errors = prepare(epoch, place)
                indices.append(index)
                broken |= errors
            connection.send(([row for row, _ in rows], indices, broken))
