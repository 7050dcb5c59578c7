"""Nothing that tests start outlives them, not even where pytest itself is killed.

The keeper is a process that waits for the end of the one that started it, however that ends. Then it kills every process with the
other's mark in its environment: children, what they started, and daemons that have left their parents.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "MNV3_TEST_SESSION"
_keeper: "subprocess.Popen[bytes] | None" = None


def keep() -> None:
    """Starts the keeper of this process, at the first call; what is started afterwards carries the mark."""
    global _keeper
    if _keeper is None:
        mark = secrets.token_hex(8)
        # The pipe's other end closes when this process ends, by whatever signal.
        _keeper = subprocess.Popen([sys.executable, "-IS", __file__, f"{MARK}={mark}"], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env={})
        os.environ[MARK] = mark


def mark() -> dict[str, str]:
    """The mark, for processes that are given an environment of their own."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def default_hangup() -> list[str]:
    """What a command starts with so that the end of its terminal ends it: below `nohup`, SIGHUP is ignored by all children."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return ["/usr/bin/env", "--default-signal=HUP"] if ignored else []


def processes_with(entry: str) -> list[int]:
    """The processes that were started with an entry NAME=VALUE in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return sorted(found)


def end_all(entry: str) -> None:
    """Kills them, and what they start meanwhile, until there is none."""
    while found := processes_with(entry):
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_all(sys.argv[1])
