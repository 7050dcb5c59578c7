"""A simulated phone on which everything can go wrong that goes wrong on real ones.

Run as a program: ``python faulty.py ROOT FEATURES``; prints "READY PORT". Faults, in ROOT/data/sim/faults.json, are read again at
every step. Those of :mod:`device_lab.protocol` mean the same here:

==================  =========================================  ==============================================================
read_only           true                                       pushes fail: Read-only file system
read_only_disk      true                                       the same, and commands cannot write to /data/local/tmp either
no_exec             true                                       nothing in /data/local/tmp can be executed: Permission denied
wrong_bits          true                                       the same, with Android's answer to a 64-bit program on 32 bits
disk_full           bytes                                      a push ends there: No space left on device
drop_after_bytes    bytes                                      the connection breaks there in a push; a part of the file is left
drop_after_opens    number                                     the connection breaks at the command or copy after so many
drop_during         [pattern, seconds]                         the connection breaks while a command runs
kill                [pattern, seconds]                         the innermost process of a command is killed (memory ran out)
answers             [[pattern, file, exit code], ...]          a recorded log is printed instead of running the command
delay               seconds                                    before each command
bytes_per_second    number                                     of pushes and pulls
unauthorized, mute  true                                       at the next connection: not allowed; no answer at all
==================  =========================================  ==============================================================
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a program
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from device_lab.phone import SimulatedPhone
from device_lab.protocol import Connection, Stream
from device_lab.shell import Command, can_remount
from device_lab.sync import FileService
from device_lab.tree import CLUSTERS, set_state, write_tree

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


class FaultyConnection(Connection):
    """A host that is connected."""

    def open(self, remote: int, data: bytes, faults: dict[str, Any]) -> None:
        self.opens += 1
        if "drop_after_opens" in faults and self.opens > int(faults["drop_after_opens"]):
            self.drop()
            return
        kind, _, command = data.rstrip(b"\0").decode("utf-8", "surrogateescape").partition(":")
        work: Callable[[Stream], None]
        name, *options = kind.split(",")
        if name == "sync":
            work = FileService(self).serve
        elif name in ("shell", "exec"):
            # Before there was shell_v2, every command had a terminal: no exit code, errors among the output, \r\n.
            old = "shell_v2" not in self.features
            terminal = name == "shell" and (old or not command or "pty" in options)
            work = Command(self, command, framed="v2" in options and not old, terminal=terminal).serve
        else:
            self.send("CLSE", 0, remote)
            return
        stream = Stream(self, self.next_id, remote)
        self.next_id += 1
        self.streams[stream.local] = stream
        self.send("OKAY", stream.local, stream.remote)
        threading.Thread(target=self.run, args=(stream, work), daemon=True).start()


class FaultyPhone(SimulatedPhone):
    """A simulated phone; a context manager.

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
        self._process = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), str(root),
                                          FEATURES + (",shell_v2" if shell_v2 else "")], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        if len(words) != 2:
            self.close()
            raise OSError("the simulated phone does not start")
        self.serial = f"127.0.0.1:{words[1]}"

    def __enter__(self) -> "FaultyPhone":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def set_faults(self, **faults: Any) -> None:
        if any(faults.get(name) for name in _NEEDS_REMOUNT) and not can_remount():
            raise NotImplementedError(f"{', '.join(_NEEDS_REMOUNT)}: need mount namespaces, which this machine does not allow")
        _put(self.root / "data/sim/faults.json", json.dumps(faults))

    def set_state(self, **state: Any) -> None:
        """Sets the state, see :func:`apply_state`; what is not given keeps its value."""
        apply_state(self.root, state)

    def set_state_later(self, steps: Sequence[tuple[float, dict[str, Any]]]) -> None:
        """Has the state change by itself: pairs of seconds from now and values for :meth:`set_state`."""
        now = time.time()
        _put(self.root / "data/sim/steps.json", json.dumps([[now + seconds, state] for seconds, state in steps]))

    def pull_cable(self) -> None:
        """Breaks every connection, once."""
        (self.root / "data/sim/pull").touch()
        until = time.monotonic() + 5
        while (self.root / "data/sim/pull").exists() and time.monotonic() < until:
            time.sleep(0.01)

    def files(self) -> list[str]:
        """Everything below /data/local/tmp."""
        base = self.root / "data/local/tmp"
        return sorted(str(path.relative_to(base)) for path in base.rglob("*"))

    def processes(self) -> list[int]:
        """Processes that the phone's commands started and that still run."""
        found, mark = [], f"SYSROOT={self.root}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return sorted(found)

    def close(self) -> None:
        """Switches it off, and ends what its commands left running."""
        super().close()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def apply_state(root: Path, state: dict[str, Any]) -> None:
    """Changes battery, heat and clocks of a phone.

    Args:
        root: its folder.
        state: level (battery, percent), battery_c, charging, cpu (degrees), skin (degrees), status (thermal, 0 to 6), governor,
            highest_khz (CPU number -> clock that is allowed).
    """
    known = root / "data/sim/state.json"
    values = {**(json.loads(known.read_text()) if known.exists() else {}), **state}
    _put(known, json.dumps(values))
    # Made in a folder of its own, so that no command ever reads a half.
    new = root / "data/sim/new"
    (new / "data/sim/dumpsys").mkdir(parents=True, exist_ok=True)
    set_state(new, **{name: values[name] for name in ("level", "cpu", "status") if name in values})
    battery, thermal = new / "data/sim/dumpsys/battery", new / "data/sim/dumpsys/thermalservice"
    if "battery_c" in values:
        _edit(battery, r"(temperature: )\d+", rf"\g<1>{round(10 * values['battery_c'])}")
    if "charging" in values:
        _edit(battery, r"(  status: )\d+", rf"\g<1>{2 if values['charging'] else 3}")
        _edit(battery, r"(USB powered: )\w+", rf"\g<1>{str(bool(values['charging'])).lower()}")
    if "skin" in values:
        _edit(thermal, r"mValue=[\d.]+(, mType=3)", rf"mValue={values['skin']}\g<1>")
    for path in [path for path in new.rglob("*") if path.is_file()]:
        path.replace(root / path.relative_to(new))
    for number, folder in ((int(path.parent.name[3:]), path) for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq")):
        if "governor" in values:
            _put(folder / "scaling_governor", f"{values['governor']}\n")
        allowed = {int(cpu): khz for cpu, khz in values.get("highest_khz", {}).items()}
        if number in allowed:
            _put(folder / "scaling_max_freq", f"{allowed[number]}\n")


def _put(path: Path, text: str) -> None:
    """Replaces a file at once: others read it meanwhile."""
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    new.write_text(text)
    new.replace(path)


def _edit(path: Path, pattern: str, replacement: str) -> None:
    path.write_text(re.sub(pattern, replacement, path.read_text()))


def _clockwork(root: Path, connections: list[FaultyConnection]) -> None:
    """Does what is to happen at a time: steps of the state, and the pulled cable."""
    steps, pull = root / "data/sim/steps.json", root / "data/sim/pull"
    while True:
        time.sleep(0.02)
        if pull.exists():
            for connection in connections:
                connection.drop()
            pull.unlink()
        with contextlib.suppress(OSError, ValueError):
            waiting = json.loads(steps.read_text())
            due = [step for step in waiting if step[0] <= time.time()]
            for _, state in due:
                apply_state(root, state)
            if due:
                _put(steps, json.dumps(waiting[len(due):]))


def main(root: str, features: str = f"{FEATURES},shell_v2") -> None:
    """Serves until it is ended."""
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[FaultyConnection] = []
    threading.Thread(target=_clockwork, args=(Path(root), connections), daemon=True).start()
    print(f"READY {server.getsockname()[1]}", flush=True)
    while True:
        peer, _ = server.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[:] = [connection for connection in connections if connection.peer.fileno() >= 0]
        connections.append(FaultyConnection(peer, Path(root), features))
        threading.Thread(target=connections[-1].serve, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
