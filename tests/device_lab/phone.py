"""A simulated phone for the real adb client, on which everything can go wrong that goes wrong on real ones.

Faults, in ROOT/data/sim/faults.json, are read again at every step:

==================  =========================================  ==============================================================
read_only           true                                       pushes fail: Read-only file system
read_only_disk      true                                       the same, and commands cannot write to /data/local/tmp either
no_exec             true                                       nothing in /data/local/tmp can be executed: Permission denied
wrong_bits          true                                       the same, with Android's answer to a 64-bit program on 32 bits
disk_full           bytes                                      a push ends there: No space left on device
drop_after_bytes    bytes                                      the connection breaks there in a push; a part of the file is left
drop_after_opens    number                                     the connection breaks at the command or copy after so many
drop_during         [pattern, text]                            the connection breaks as soon as a command has printed the text
kill                [pattern, program]                         a command's process is killed as soon as it is that program's
answers             [[pattern, file, exit code], ...]          a recorded log is printed instead of running the command
hold                pattern                                    a command whose text, or a push whose path has it stays unfinished
                                                               until :meth:`SimulatedPhone.release`
delay               seconds                                    before each command; noted in ROOT/data/sim/waits.log
bytes_per_second    number                                     of pushes and pulls; noted there too
unauthorized, mute  true                                       at the next connection: not allowed; no answer at all
==================  =========================================  ==============================================================
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from device_lab.keeper import end_all, keep, processes_with
from device_lab.shell import can_remount
from device_lab.state import apply_state, put
from device_lab.tree import CLUSTERS, write_tree
from device_lab.waiting import PATIENCE, wait

FEATURES = "cmd,stat_v2,ls_v2,fixed_push_mkdir"
_NEEDS_REMOUNT = ("read_only_disk", "no_exec", "wrong_bits")
_NOTE = 'echo "{0} $*" >> "$SYSROOT/data/sim/calls.log"'
_COMMANDS = {
    "setprop": 'echo "$1=$2" >> "$SYSROOT/data/sim/props"',
    "nproc": 'ls -d "$SYSROOT"/sys/devices/system/cpu/cpu[0-9]* | wc -l',
    "settings": _NOTE.format("settings") + '\nf="$SYSROOT/data/sim/settings/$2.$3"; mkdir -p "${f%/*}"\n'
                'case "$1" in get) cat "$f" 2>/dev/null || echo null;; put) echo "$4" > "$f";; delete) rm -f "$f";; esac',
    **{name: _NOTE.format(name) for name in ("svc", "input", "am", "pm", "stop", "start")}}
_LOAD = "Load: 1.52 / 1.31 / 1.2\nCPU usage from 10000ms to 0ms ago:\n  2% 1234/system_server: 1% user + 1% kernel\n"


class SimulatedPhone:
    """A phone that listens on this machine, as a process of its own; a context manager.

    Args:
        root: its folder, which must exist.
        properties: of Android, changed.
        clusters: of cores: first CPU, number, highest clock in kHz, capacity.
        governor: of the CPU's clocks.
        shell_v2: whether its adbd tells exit codes.
        faults: see the table above.

    Attributes:
        serial: what adb calls it.
        root: its folder.

    Raises:
        NotImplementedError: a fault needs mount namespaces, which this machine does not allow.
    """

    def __init__(self, root: Path, *, properties: dict[str, str] | None = None,
                 clusters: tuple[tuple[int, int, int, int], ...] = CLUSTERS, governor: str = "schedutil", shell_v2: bool = True,
                 **faults: Any):
        keep()
        self.root = root = root.resolve()
        write_tree(root, properties, clusters)
        for folder in ("vendor/lib64", "data/sim/settings"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name, body in _COMMANDS.items():
            program = root / "system/bin" / name
            program.write_text(f"#!/bin/sh\n{body}\n")
            program.chmod(0o755)
        (root / "data/sim/dumpsys/cpuinfo").write_text(_LOAD)
        apply_state(root, {"governor": governor})
        self.set_faults(**faults)
        self._process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("server.py")), str(root),
                                          FEATURES + (",shell_v2" if shell_v2 else "")], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        if len(words) != 2:
            self.close()
            raise OSError("the simulated phone does not start")
        self.serial = f"127.0.0.1:{words[1]}"

    def __enter__(self) -> "SimulatedPhone":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def set_faults(self, **faults: Any) -> None:
        """Sets what goes wrong from now on; nothing where none is given."""
        if any(faults.get(name) for name in _NEEDS_REMOUNT) and not can_remount():
            raise NotImplementedError(f"{', '.join(_NEEDS_REMOUNT)}: need mount namespaces, which this machine does not allow")
        put(self.root / "data/sim/faults.json", json.dumps(faults))

    def set_state(self, **state: Any) -> None:
        """Sets the state, see :func:`apply_state`; what is not given keeps its value."""
        apply_state(self.root, state)

    def set_state_later(self, steps: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Has the state change by itself: pairs of a number of commands from now, and values for :meth:`set_state` after them."""
        put(self.root / "data/sim/steps.json", json.dumps(steps))

    def pull_cable(self) -> None:
        """Breaks every connection, once."""
        self._process.send_signal(signal.SIGUSR1)
        assert self._process.stdout is not None and self._process.stdout.readline() == "PULLED\n"

    def holds(self) -> bool:
        """Whether something stays unfinished, as the fault `hold` has it."""
        return (self.root / "data/sim/held").exists()

    def release(self) -> None:
        """Lets it go on."""
        (self.root / "data/sim/go").touch()

    def files(self) -> list[str]:
        """Everything below /data/local/tmp."""
        base = self.root / "data/local/tmp"
        return sorted(str(path.relative_to(base)) for path in base.rglob("*"))

    def processes(self) -> list[int]:
        """Processes that the phone's commands started and that still run."""
        return processes_with(f"SYSROOT={self.root}")

    def left(self) -> list[str]:
        """What lies in /data/local/tmp."""
        return sorted(path.name for path in (self.root / "data/local/tmp").iterdir())

    def calls(self) -> str:
        """What the phone's commands noted."""
        log = self.root / "data/sim/calls.log"
        return log.read_text() if log.exists() else ""

    def waits(self) -> list[float]:
        """The seconds that its faults had it wait, in order."""
        log = self.root / "data/sim/waits.log"
        return [float(line) for line in log.read_text().splitlines()] if log.exists() else []

    def running(self) -> list[str]:
        """Command lines of the processes that run from the phone's folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                except OSError:
                    continue
                if f"{self.root}/data/local/tmp/" in line:
                    found.append(line)
        return found

    def settled(self, seconds: float = PATIENCE) -> bool:
        """Waits until nothing is left and nothing runs."""
        return wait(lambda: not self.left() and not self.running(), seconds)

    def close(self) -> None:
        """Switches it off, and ends what its commands left running."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        end_all(f"SYSROOT={self.root}")
