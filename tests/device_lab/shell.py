"""The command service of a simulated phone: shell and exec, with exit codes or without, with a terminal or without."""

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_lab.keeper import default_hangup, mark
from device_lab.waiting import PATIENCE

if TYPE_CHECKING:
    from device_lab.protocol import Connection, Stream

MAPPED = re.compile(r"(?<![\w./-])/(data|sdcard|sys|system|vendor|proc/cpuinfo)(?![\w.-])")
# Of a phone with processes of its own.
MAPPED_WITH_PROCESSES = re.compile(r"(?<![\w./-])/(data|sdcard|sys|system|vendor|proc)(?![\w.-])")
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
# How this machine's shell complains, and how Android's does.
_REFUSED = re.compile(rb"^[^\s:]*: \d+: (?:exec: )?(.*): Permission denied(?=\r?$)", re.MULTILINE)
_MISSING = re.compile(rb"^[^\s:]*: \d+: (?:exec: )?(.*): not found(?=\r?$)", re.MULTILINE)
_LINGERING = 1.0  # how long a real adbd keeps a stream that the host has closed


def can_remount() -> bool:
    """Whether folders can be made read-only for one command here, as read_only_disk, no_exec and wrong_bits need."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_namespace(), "true"], capture_output=True, timeout=PATIENCE).returncode == 0


def _namespace() -> list[str]:
    return ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]


def confined(words: list[str], folder: Path, faults: dict[str, Any]) -> list[str]:
    """A command under which a folder is read-only, or nothing in it can be executed, as the faults say."""
    options = ["ro"] if faults.get("read_only_disk") else []
    options += ["noexec"] if faults.get("no_exec") or faults.get("wrong_bits") else []
    if not options:
        return words
    script = 'f=$1; o=$2; shift 2; mount --bind "$f" "$f" && mount -o "remount,bind,$o" "$f" && exec "$@"'
    return [*_namespace(), "/bin/sh", "-c", script, "sh", str(folder), ",".join(options), *words]


class Command:
    """One command that the host asked for.

    When the host goes away, adbd sends SIGHUP to the shell alone where the output is framed: a program that the shell waits for
    lives on until it writes. With a terminal everything in it is hung up; without frames and terminal too, but a second later.

    Args:
        connection: over which it was asked; its faults count: delay, answers, kill, drop_during, read_only_disk, no_exec,
            wrong_bits.
        text: for the shell; "" for a shell to type into.
        framed: whether output, errors and the exit code are told apart.
        terminal: whether it gets one.
    """

    def __init__(self, connection: "Connection", text: str, *, framed: bool, terminal: bool):
        self.connection, self.text, self.framed, self.terminal = connection, text, framed, terminal
        self.root = os.fsencode(connection.root)
        self.faults = connection.faults()

    def serve(self, stream: "Stream") -> None:
        """Runs it to its end, and tells the host."""
        self.connection.count_command()
        if "delay" in self.faults:
            self.connection.wait(float(self.faults["delay"]))
        child, sources, write = self._start()

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGHUP)

        def host_left() -> None:
            with contextlib.suppress(OSError):
                if child.stdin:
                    child.stdin.close()
                if self.terminal:
                    hang_up()
                elif not self.framed:
                    threading.Timer(_LINGERING, hang_up).start()
                elif child.poll() is None:
                    os.kill(child.pid, signal.SIGHUP)

        stream.on_close = host_left
        ended, ending = os.pipe()
        pumps = [threading.Thread(target=self._pump, args=(stream, *source, ended), daemon=True) for source in sources]
        for thread in (*pumps, threading.Thread(target=self._feed, args=(stream, child, write), daemon=True)):
            thread.start()
        if "kill" in self.faults and re.search(self.faults["kill"][0], self.text):
            threading.Thread(target=self._kill, args=(child,), daemon=True).start()
        code = child.wait()
        os.close(ending)  # what it printed is still sent; something in the background may hold its output open
        for thread in pumps:
            thread.join()
        os.close(ended)
        self.connection.hold(self.text)
        if self.framed:
            stream.write(struct.pack("<BI", EXIT, 1) + bytes([code if code >= 0 else 128 - code]))

    def _start(self) -> tuple["subprocess.Popen[bytes]", list[tuple[int, int]], Callable[[bytes], Any]]:
        words = default_hangup() + confined(["/bin/sh", "-c", self._script()] if self.text else ["/bin/sh", "-i"],
                                            self.connection.root / "data/local/tmp", self.faults)
        root = str(self.connection.root)
        environment = {"PATH": f"{root}/system/bin:/usr/bin:/bin:/usr/sbin:/sbin", "SYSROOT": root, "ANDROID_DATA": "/data",
                       "ANDROID_ROOT": "/system", "HOME": "/", "PS1": "sim:/ $ ", **mark()}
        if self.terminal:
            ours, theirs = pty.openpty()
            child = subprocess.Popen(["setsid", "--ctty", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
                                     cwd=root)
            os.close(theirs)
            terminal = open(os.dup(ours), "wb", buffering=0)  # noqa: SIM115 - as long as the host types
            return child, [(ours, STDOUT)], terminal.write
        child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0,
                                 stderr=subprocess.PIPE if self.framed else subprocess.STDOUT, env=environment, cwd=root)
        assert child.stdin and child.stdout
        # Duplicates, so that each thread closes what it owns and no number is closed twice.
        sources = [(os.dup(child.stdout.fileno()), STDOUT)]
        child.stdout.close()
        if child.stderr:
            sources.append((os.dup(child.stderr.fileno()), STDERR))
            child.stderr.close()
        return child, sources, child.stdin.write

    def _script(self) -> str:
        for pattern, file, code in self.faults.get("answers", []):
            if re.search(pattern, self.text):
                script = f"cat '{file}'; sh -c 'exit {code}'"
                # A host that lets the shell itself print the exit code must see it too.
                after = re.search(r"\n(echo \S*\$\?)\s*$", self.text)
                return f"{script}\n{after.group(1)}" if after else f"{script}\nexit $?"
        mapped = MAPPED_WITH_PROCESSES if (self.connection.root / "proc/uptime").exists() else MAPPED
        return mapped.sub(lambda match: str(self.connection.root) + match.group(0), self.text)

    def _pump(self, stream: "Stream", source: int, ident: int, ended: int) -> None:
        kept = b""
        pattern, last = self.faults.get("drop_during", ("", ""))
        while True:
            try:
                # A terminal is closed with its session, and may hand on what was printed only after that.
                ready_now, _, _ = select.select([source] if self.terminal else [source, ended], [], [])
                data = os.read(source, 65536) if source in ready_now else b""
            except OSError:  # a terminal whose other end is closed
                data = b""
            kept += data
            hold = _unfinished(kept, self.root, errors=ident == STDERR) if data else 0
            ready, kept = (kept[:-hold], kept[-hold:]) if hold else (kept, b"")
            try:
                if ready:
                    text = self._as_the_phone(ready)
                    stream.write(struct.pack("<BI", ident, len(text)) + text if self.framed else text)
                    if last and last.encode() in text and re.search(pattern, self.text):
                        stream.credit.acquire()  # the host has taken it
                        self.connection.drop()
            except OSError:
                data = b""
            if not data:
                with contextlib.suppress(OSError):
                    os.close(source)
                return

    def _as_the_phone(self, data: bytes) -> bytes:
        text = data.replace(self.root, b"")
        why = b"not executable: 64-bit ELF file" if self.faults.get("wrong_bits") else b"can't execute: Permission denied"
        text = _REFUSED.sub(rb"/system/bin/sh: \1: " + why, text)
        return _MISSING.sub(rb"/system/bin/sh: \1: inaccessible or not found", text)

    def _feed(self, stream: "Stream", child: "subprocess.Popen[bytes]", write: Callable[[bytes], Any]) -> None:
        with contextlib.suppress(EOFError, OSError, ValueError):
            while True:
                if not self.framed:
                    write(stream.read(1))
                    continue
                ident, length = struct.unpack("<BI", stream.read(5))
                data = stream.read(length)
                if ident == STDIN:
                    write(data)
                elif ident == CLOSE_STDIN and child.stdin:
                    child.stdin.close()

    def _kill(self, child: "subprocess.Popen[bytes]") -> None:
        while child.poll() is None:
            for pid in innermost(child.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text().strip() == self.faults["kill"][1]:
                        os.kill(pid, signal.SIGKILL)
                        return
            time.sleep(0.01)


def innermost(session: int) -> list[int]:
    """The processes of a session that have no child: what the system kills when memory runs out, and not the shell around it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(words[3]) == session and words[0] != "Z":
                    parents[int(entry.name)] = int(words[1])
    return [pid for pid in parents if pid not in parents.values()]


def _unfinished(data: bytes, root: bytes, *, errors: bool) -> int:
    """How many bytes at the end wait for more: a line of errors, the shell's complaint, or what may become the folder's name."""
    line = data[data.rfind(b"\n") + 1:]
    if errors or re.match(rb"\S*(?:sh|taskset):", line):
        return len(line)
    return next((count for count in range(min(len(root) - 1, len(data)), 0, -1) if data.endswith(root[:count])), 0)
