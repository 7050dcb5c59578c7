"""How long work tells what it is doing. The command line shows it with rich; a library user may pass an object of their own."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

Advance = Callable[[int, str], None]


class Progress(Protocol):
    """What the kit calls while it works."""

    def say(self, text: str) -> None:
        """One line worth keeping."""

    def task(self, description: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """A piece of work of `total` steps; the block receives ``advance(done_so_far, note)``."""


class Silent:
    """Shows nothing, keeps what was said in :attr:`lines`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        yield lambda done, note: None
