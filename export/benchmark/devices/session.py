"""A folder of our own on a device, and everything that runs in it: at the end, however it comes, nothing is left there."""

import atexit
import contextlib
import secrets
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mnv3_tf.errors import KitError
from mnv3_tf.export.benchmark.devices.remote import Answer, RemoteDevice, last_line

_PREFIX, _BYTES = "mnv3-", 4
_NAMES = _PREFIX + "[0-9a-f]" * 2 * _BYTES  # of these folders and no other program's
# A folder that an earlier run had to leave behind (a pulled cable) is removed when it is so old.
_STALE_MINUTES = 60
_TRIES = 3
_CLEANING_SECONDS = 8.0
_ENDING = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__)

_open: set["DeviceSession"] = set()
_stopping = threading.Event()


class Stopped(KitError):
    """The user stopped the program; another thread found its session closed."""

    exit_code = 130


def close_all() -> None:
    """Closes every session that is open; none is opened any more until :func:`allow_sessions`."""
    _stopping.set()
    for session in list(_open):
        session.close()


def allow_sessions() -> None:
    """Sessions may be opened."""
    _stopping.clear()


class DeviceSession:
    """A folder on a device.

    Args:
        device: where.
        say: told what a person should know.

    Attributes:
        folder: its path there.
        left_behind: why the folder could not be removed, or "".
    """

    def __init__(self, device: RemoteDevice, say: Callable[[str], None] = lambda line: None):
        self.device, self.say = device, say
        self.token = secrets.token_hex(_BYTES)
        self.folder = f"{device.base}/{_PREFIX}{self.token}"
        self.left_behind = ""
        self._undo: list[str] = []
        self._opened = self._closed = False

    def open(self) -> "DeviceSession":
        """Makes the folder, and removes old ones of ours.

        Raises:
            KitError: nothing can be written there, or the program is being stopped.
        """
        self._refuse_closed()
        atexit.register(self.close)
        self._opened = True
        _open.add(self)
        where = shlex.quote(self.device.base)
        self.device.shell(f"find {where} -maxdepth 1 -name '{_NAMES}' -mmin +{_STALE_MINUTES} -exec rm -rf {{}} +")
        self._make_folder()
        if self._closed:  # closed by another thread before the folder was there
            self._clean()
        self._refuse_closed()
        return self

    def _make_folder(self) -> None:
        """Makes the folder in the first place that lets programs run, where there are several."""
        device, answer = self.device, Answer("", "", 1)
        for base in (shlex.quote(device.base), *device.other_bases):
            script = f"b={base}; d=$b/{_PREFIX}{self.token}; mkdir \"$d\""
            if device.other_bases:
                script += (' && { case $d in *[!a-zA-Z0-9_./-]*) echo "its name has blanks" >&2; false;; '
                           '*) echo exit 0 > "$d/try" && chmod 755 "$d/try" && "$d/try" && rm "$d/try";; esac '
                           '|| { rm -rf "$d"; false; }; }')
            found = device.shell(f"{script} && echo \"$d\"")
            if found.code == 0:
                self.folder = found.output.strip() or self.folder
                if base in device.other_bases:
                    self.say(f"{device.name}: {device.base} is not used ({last_line(answer.errors or answer.output)}); "
                             f"{self.folder} is")
                return
            answer = answer if answer.errors or answer.output else found
        raise KitError(f"{device.name}: {', '.join((device.base, *device.other_bases))} cannot be written to ("
                       f"{last_line(answer.errors or answer.output)}). {'One' if device.other_bases else 'It'} must have free "
                       "space, let programs run, and be writable for the user that commands run as; restarting the device helps "
                       "where it became read-only.")

    def _refuse_closed(self) -> None:
        if self._closed or _stopping.is_set():
            raise Stopped(f"{self.device.name}: stopped.")

    def path(self, name: str) -> str:
        """The path of a file in the folder."""
        return f"{self.folder}/{name}"

    def push(self, local: Path, name: str, *, executable: bool = False) -> str:
        """Copies a file into the folder, and gives its path there."""
        self._refuse_closed()
        remote = self.path(name)
        self.device.push(local, remote, executable=executable)
        return remote

    def run(self, words: Sequence[str], *, seconds: float) -> Answer:
        """Runs a program in the folder and waits; at :meth:`close` it is ended if it still runs.

        Args:
            words: program and arguments.
            seconds: to wait at most.
        """
        self._refuse_closed()
        start = f"sh -c 'echo $$ > {self.token}.pid; exec \"$@\"' sh {shlex.join(words)}"
        folder = shlex.quote(self.folder)
        return self.device.shell(f"touch {folder}; cd {folder} && {start}", seconds=seconds)

    def undo_at_end(self, command: str) -> None:
        """Has a command run at the end, before the folder is removed."""
        self._undo.append(command)

    def close(self) -> None:
        """Ends what runs, undoes what was set, and removes the folder; a second call does nothing."""
        self._closed = True
        if not self._opened:
            return
        with _handlers(dict.fromkeys(_ENDING, signal.SIG_IGN)):
            self.left_behind = self._clean()
            self._opened = False
            _open.discard(self)
            atexit.unregister(self.close)
        if self.left_behind:
            self.say(f"{self.device.name}: {self.folder} could not be removed ({self.left_behind}). A later run removes it.")

    def _clean(self) -> str:
        # The token is never written next to the prefix here, so that pkill does not find this script itself.
        script = "\n".join([
            *self._undo, f"b={shlex.quote(self.folder.removesuffix(self.token))}", f't={self.token}',
            'for p in "$b$t"/*.pid; do [ -f "$p" ] && kill -9 $(cat "$p"); done 2>/dev/null',
            f"pkill -9 -f '{_PREFIX[:-1]}[-]{self.token}' 2>/dev/null",
            'rm -rf "$b$t"; [ ! -e "$b$t" ]'])
        reason = ""
        for _ in range(_TRIES):
            try:
                answer = self.device.shell(script, seconds=_CLEANING_SECONDS)
            except KitError as error:
                reason = str(error)
                continue
            if answer.code == 0:
                return ""
            reason = (answer.errors or answer.output).strip() or "rm failed"
        return reason


@contextlib.contextmanager
def opened(device: RemoteDevice, say: Callable[[str], None] = lambda line: None) -> Iterator[DeviceSession]:
    """A session that is closed in any case, after Ctrl-C, SIGTERM and SIGHUP too.

    Raises:
        KitError: nothing can be written on the device, or the program is being stopped.
    """
    session = DeviceSession(device, say)
    with interrupts():
        try:
            try:
                yield session.open()
            finally:
                session.close()
        finally:  # an interrupt may come at the very moment that the first close begins
            session.close()


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end the work as Ctrl-C does; after the first of the three the others are ignored, for cleaning up."""
    def stop(number: int, frame: FrameType | None) -> None:
        for other in _ENDING:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _handlers(dict.fromkeys(_ENDING, stop)):
        yield


@contextlib.contextmanager
def _handlers(wanted: dict[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # whoever runs this there handles signals
        yield
        return
    previous = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
