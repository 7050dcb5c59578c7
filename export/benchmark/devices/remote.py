"""A machine that commands are run on through a client program: an Android device by adb, a Linux board by ssh.

A client's exit code says little: the machine may vanish in the middle of a command, and some clients exit with 0 then. So every
command is quoted word by word, ends with a line that carries its exit code, and counts as failed without that line.
"""

import contextlib
import hashlib
import re
import shlex
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv3_tf.errors import KitError
from mnv3_tf.files import sha256

_BEGIN, _SENTINEL = "MNV3-BEGIN", "MNV3-EXIT:"
SECONDS = 30.0
_PUSH_ERRORS = (
    ("no space left", "the device is full. Free some space there, and run again."),
    ("read-only file system", "the file system there is read-only. Restart the device."),
    ("permission denied", "the device does not allow it. That folder must be writable for the user that commands run as."),
)


class DeviceLost(KitError):
    """The device stopped answering in the middle of something."""


@dataclass(frozen=True)
class Answer:
    """What a command on the device gave. On old Android devices errors are part of the output."""

    output: str
    errors: str
    code: int


class RemoteDevice(ABC):
    """A machine to run commands on.

    Attributes:
        kind: "adb" for an Android device, "ssh" for a board, "host" for this machine.
        name: what messages call it.
        base: a folder there that may be written to.
        other_bases: folders to take where that one does not let programs run; `$HOME` is the device's.
    """

    kind = ""
    base = "/tmp"
    other_bases: tuple[str, ...] = ()

    def __init__(self, name: str):
        self.name = name

    @abstractmethod
    def execute(self, script: str, seconds: float) -> tuple[str, str]:
        """Output and errors of a script for the device's shell."""

    @abstractmethod
    def push(self, local: Path, remote: str, *, executable: bool = False, seconds: float = 300.0) -> None:
        """Copies a file to the device, and compares the bytes that arrived.

        Raises:
            KitError: the device is full or read-only, or other bytes arrived.
            DeviceLost: the device went away.
        """

    @abstractmethod
    def pull(self, remote: str, local: Path, *, seconds: float = 300.0) -> None:
        """Copies a file from the device.

        Raises:
            KitError: there is no such file, or it cannot be read.
        """

    @abstractmethod
    def raise_if_lost(self, text: str, doing: str) -> None:
        """Raises what the client's own messages mean, if they mean that the device cannot be used any more."""

    def shell(self, command: str | Sequence[str], *, seconds: float = SECONDS) -> Answer:
        """Runs a command and waits.

        Args:
            command: words, each of which arrives as it is; or a script for the device's shell.
            seconds: to wait at most.

        Raises:
            DeviceLost: the device went away, or did not answer in time.
            KitError: the client refused.
        """
        script = command if isinstance(command, str) else shlex.join(command)
        framed = f"echo {_BEGIN}\n{script}\necho {_SENTINEL}$?"
        output, errors = (text.replace("\r", "") for text in self.execute(framed, seconds))
        # What a login shell greets with stands before the first mark, and what it says at the end behind the last.
        output = output.partition(f"{_BEGIN}\n")[2] or output
        match = next(reversed(list(re.finditer(rf"\n?{_SENTINEL}(\d+)$", output, re.MULTILINE))), None)
        if match is None:
            doing = repr(script.splitlines()[0][:60])
            self.raise_if_lost(errors + output, doing)
            reason = last_line(errors) or "the command never ended"
            raise DeviceLost(f"{self.name}: the connection broke during {doing}: {reason}")
        return Answer(output[:match.start()], errors, int(match.group(1)))

    def check(self, command: str | Sequence[str], *, seconds: float = SECONDS) -> str:
        """The output of a command that must succeed.

        Raises:
            KitError: it failed; the message has its last line.
        """
        answer = self.shell(command, seconds=seconds)
        if answer.code:
            what = command if isinstance(command, str) else shlex.join(command)
            raise KitError(f"{self.name}: {what.splitlines()[0][:80]!r} failed with exit code {answer.code}: "
                           f"{last_line(answer.errors) or last_line(answer.output)}")
        return answer.output

    def compare_digest(self, local: Path, remote: str, printed: str) -> None:
        """Compares what :func:`digest_script` printed, after any greeting, with a file here.

        Raises:
            KitError: they differ.
        """
        found = (re.findall(r"^\\?([0-9a-f]{64}|[0-9a-f]{32}|\d+)(?:\s|$)", printed, re.MULTILINE) or [""])[-1]
        if len(found) == 64:
            wanted = sha256(local)
        elif len(found) == 32:
            wanted = hashlib.md5(local.read_bytes(), usedforsecurity=False).hexdigest()
        else:  # a device without either: its size is all that can be asked
            wanted = str(local.stat().st_size)
        if wanted != found:
            raise KitError(f"{self.name}: {remote} did not arrive whole (expected {wanted[:12]}, found {found[:12]}). Try "
                           "another cable, and run again.")

    def push_error(self, local: Path, remote: str, text: str) -> KitError:
        """What a client's message about a failed copy means."""
        for words, reason in _PUSH_ERRORS:
            if words in text.lower():
                return KitError(f"{self.name}: {local.name} cannot be copied to {remote}: {reason}")
        try:
            self.raise_if_lost(text, f"push {local.name}")
        except KitError as error:
            return error
        return KitError(f"{self.name}: {local.name} cannot be copied to {remote}: {last_line(text)}")


def digest_script(remote: str) -> str:
    """Prints a file's SHA-256, MD5 or size, the first that the device can tell."""
    name = shlex.quote(remote)
    return f"sha256sum {name} 2>/dev/null || md5sum {name} 2>/dev/null || wc -c < {name}"


def run_client(words: Sequence[str], what: str, seconds: float, *,
               given: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Runs a client program. It is no part of the terminal's process group, so Ctrl-C reaches only this program.

    Args:
        words: program and arguments.
        what: what errors call it.
        seconds: to wait at most.
        given: a file for its standard input; None: nothing.

    Raises:
        DeviceLost: it took longer than `seconds`.
    """
    with open(given, "rb") if given else contextlib.nullcontext(subprocess.DEVNULL) as source, subprocess.Popen(
            words, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)) as child:
        try:
            output, errors = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            raise DeviceLost(f"{what}: no answer within {seconds:.0f} s. Is the device awake and connected?") from None
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(child.args, child.returncode, output.decode("utf-8", "replace"),
                                       errors.decode("utf-8", "replace"))


def last_line(text: str) -> str:
    """The last line that is not empty, without a full stop."""
    lines = [line.strip() for line in text.replace("\r", "").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""
