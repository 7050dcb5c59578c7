"""Ctrl-C and SIGTERM as a wish that long work grants at its next safe point."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from mnv3_tf.errors import KitError


class Interrupted(KitError):
    """The user stopped the work; what was finished is saved (exit code 130, as a shell gives for Ctrl-C)."""

    exit_code = 130


@contextlib.contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """A list that is empty until SIGINT or SIGTERM arrives; a second SIGINT stops at once, as usual."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread: whoever runs this there handles signals
        previous = {}
    try:
        yield received
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)
