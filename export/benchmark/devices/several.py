"""Several devices side by side: each in a thread of its own, and one that fails does not stop the others."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import TypeVar

from mnv3_tf.errors import KitError
from mnv3_tf.export.benchmark.devices.adb import Adb, AdbDevice
from mnv3_tf.export.benchmark.devices.remote import RemoteDevice
from mnv3_tf.export.benchmark.devices.session import allow_sessions, close_all, interrupts

T = TypeVar("T")


def usable_phones() -> tuple[list[RemoteDevice], list[str]]:
    """Every phone that can be used, and a line for each that cannot.

    Raises:
        NoDeviceError: there is no adb.
    """
    adb = Adb()
    entries = adb.devices()
    phones: list[RemoteDevice] = [AdbDevice(adb, entry.serial) for entry in entries if entry.usable]
    return phones, [entry.problem() for entry in entries if not entry.usable]


def on_each(devices: Sequence[RemoteDevice], work: Callable[[RemoteDevice], T]) -> list[T | KitError]:
    """Does the same on every device at once.

    Args:
        devices: where.
        work: what; it opens sessions, which are closed here when the user stops the program.

    Returns:
        In the order of the devices: what `work` gave, or the error that it ended with.
    """
    allow_sessions()
    with interrupts(), concurrent.futures.ThreadPoolExecutor(max(1, len(devices))) as pool:
        futures = [pool.submit(work, device) for device in devices]
        try:
            concurrent.futures.wait(futures)
        except BaseException:
            close_all()
            raise
    results: list[T | KitError] = []
    for future in futures:
        try:
            results.append(future.result())
        except KitError as error:
            results.append(error)
    return results
