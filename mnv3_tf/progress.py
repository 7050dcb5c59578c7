"""How long work tells what it is doing: on the terminal, not at all, or to an object of one's own."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

Advance = Callable[[int, str], None]
_BAR = 30  # characters of a notebook's bar


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


class Terminal:
    """Progress on standard error: a bar with time left on a terminal (by rich) and in a notebook, plain lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        if self.console.is_jupyter:
            print(text, file=sys.stderr)
        else:
            self.console.print(text, markup=False)

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        if self.console.is_jupyter:  # rich would need ipywidgets there
            yield lambda done, note: self._redraw(description, done, total, note)
            print(file=sys.stderr)
            return
        if not self.console.is_terminal:
            yield self._plain(description, total)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                      TextColumn("{task.fields[note]}"), console=self.console, transient=True) as bar:
            task = bar.add_task(description, total=total, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)

    @staticmethod
    def _redraw(description: str, done: int, total: int, note: str) -> None:
        """The same line again."""
        bar = "━" * round(_BAR * done / max(total, 1))
        print(f"\r{description} {bar:<{_BAR}} {done}/{total} {note:<30}", end="", file=sys.stderr, flush=True)

    def _plain(self, description: str, total: int) -> Advance:
        """One line at every tenth of the work that took more than a few seconds."""
        began, printed, first = time.monotonic(), 0.0, -1

        def advance(done: int, note: str) -> None:
            nonlocal printed, first
            elapsed = time.monotonic() - began
            first = max(0, done - 1) if first < 0 else first
            share = done / max(total, 1)
            if elapsed > 5 and share - printed >= 0.1:
                printed = share
                left = elapsed / max(done - first, 1) * (total - done)
                self.say(f"{description}: {done}/{total}, about {left:.0f} s left{', ' + note if note else ''}")

        return advance


def shown(progress: Progress | bool | None) -> Progress:
    """True as :class:`Terminal`, None and False as :class:`Silent`; anything else as it is."""
    if progress is None or progress is False:
        return Silent()
    return Terminal() if progress is True else progress
