"""Functions in a process of their own: what opens a damaged file may end its process, or not come to an end.

The child is ``python -m mnv3_tf.child``. It reads the pickled function and its arguments from its standard input, and writes what
comes of them to its standard output; both are temporary files, so neither side waits for the other.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mnv3_tf.errors import KitError

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1


class ChildFailed(Exception):
    """A child ended without an answer.

    Attributes:
        code: its exit code, or the signal's number below zero.
        how: the same in words: "exit code 3", or "signal 11, SIGSEGV".
        said: the last line of its standard error; may be empty.
    """

    def __init__(self, code: int, said: str) -> None:
        self.code, self.said = code, said
        self.how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        if -code in set(signal.Signals):
            self.how += f", {signal.Signals(-code).name}"
        super().__init__(f"{self.how}: {said or 'no message'}")


class Child(Generic[T]):
    """A function in a process of its own, begun at once and ended with the block.

    Args:
        function: a module's; the child imports that module. What it takes and gives can be pickled.
        args: its arguments.

    Raises:
        KitError: there is no room for the arguments.
    """

    def __init__(self, function: Callable[..., T], *args: Any) -> None:
        with contextlib.ExitStack() as opened:
            try:
                given, self._answer, self._said = (opened.enter_context(tempfile.TemporaryFile()) for _ in range(3))
                pickle.dump((os.getpid(), function, args), given)
                given.seek(0)
            except OSError as error:
                raise KitError(f"A temporary file cannot be written ({error.strerror or error}). Free some space, or name "
                               "another folder with TMPDIR.") from error
            self._process = subprocess.Popen([sys.executable, "-m", __name__], stdin=given, stdout=self._answer,
                                             stderr=self._said)
            self._opened = opened.pop_all()

    def __enter__(self) -> "Child[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._opened.close()

    @property
    def running(self) -> bool:
        """Whether its process has not ended."""
        return self._process.poll() is None

    def answer(self, seconds: float | None = None) -> T:
        """Waits for what the function returns.

        Raises:
            KitError: the function raised it.
            ChildFailed: it ended its process, or raised something else.
            subprocess.TimeoutExpired: it did not end in that time.
        """
        code = self._process.wait(seconds)
        for file in (self._answer, self._said):
            file.seek(0)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # what a crash may leave
            if code == 0:
                error, value = pickle.load(self._answer)
                if error is None:
                    return value
                raise error
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        raise ChildFailed(code, lines[-1] if lines else "")


def in_child(function: Callable[..., T], *args: Any) -> T:
    """What a function returns that a process of its own computes.

    Raises:
        KitError: the function raised it, or the process ended without an answer.
    """
    with Child(function, *args) as child:
        try:
            return child.answer()
        except ChildFailed as error:
            raise KitError(f"A process that the work is spread over ended: {error}. Memory may be short; give the command "
                           "again.") from error


def ends_with(parent: int) -> bool:
    """Sees to it that this process ends as soon as its parent does, where the system can; False if that is gone already."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.name != "posix" or os.getppid() == parent  # on Windows a launcher may stand between


def main() -> None:
    """The child. What a library prints goes to its standard error, and where the parent is gone nobody waits for an answer."""
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        parent, function, args = pickle.load(sys.stdin.buffer)
        if not ends_with(parent):
            return
        try:
            found: tuple[KitError | None, Any] = None, function(*args)
        except KitError as error:
            found = error, None
        pickle.dump(found, answer)


if __name__ == "__main__":
    main()
