"""The device side of the adb protocol over TCP, as far as a benchmark needs it; the standard library only."""

import contextlib
import json
import os
import queue
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_lab.shell import Command
from device_lab.state import apply_state, put
from device_lab.sync import FileService
from device_lab.waiting import wait

CODES = {name: struct.unpack("<I", name.encode())[0] for name in ("CNXN", "AUTH", "OPEN", "OKAY", "CLSE", "WRTE")}
NAMES = {code: name for name, code in CODES.items()}
_counting = threading.Lock()
VERSION, MOST_BYTES = 0x01000001, 256 * 1024


class Stream:
    """One stream of a connection. Writing waits until the host has taken the packet before."""

    def __init__(self, connection: "Connection", local: int, remote: int):
        self.connection, self.local, self.remote = connection, local, remote
        self.incoming: queue.Queue[bytes | None] = queue.Queue()
        self.buffer, self.closed = b"", False
        self.credit, self.lock = threading.Semaphore(1), threading.Lock()
        self.on_close: Callable[[], None] | None = None

    def write(self, data: bytes) -> None:
        with self.lock:
            for start in range(0, len(data), self.connection.most):
                self.credit.acquire()
                if self.closed:
                    raise BrokenPipeError
                self.connection.send("WRTE", self.local, self.remote, data[start:start + self.connection.most])

    def _more(self) -> bool:
        data = self.incoming.get()
        if data is None:
            self.incoming.put(None)
            return False
        self.buffer += data
        self.connection.send("OKAY", self.local, self.remote)
        return True

    def read(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not self._more():
                raise EOFError
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def peer_closed(self) -> None:
        self.closed = True
        self.incoming.put(None)
        self.credit.release()
        if self.on_close:
            self.on_close()


class Connection:
    """One host that is connected."""

    def __init__(self, peer: socket.socket, root: Path, features: str):
        self.peer, self.root, self.features = peer, root, features
        self.lock = threading.Lock()
        self.streams: dict[int, Stream] = {}
        self.next_id, self.most, self.opens = 1, 4096, 0

    def faults(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.root / "data/sim/faults.json").read_text()))
        except (OSError, ValueError):
            return {}

    def wait(self, seconds: float) -> None:
        """Waits, and notes it."""
        with open(self.root / "data/sim/waits.log", "a") as log:
            log.write(f"{seconds}\n")
        time.sleep(seconds)

    def hold(self, what: str) -> None:
        """Waits until it is released, where a fault says so."""
        pattern = self.faults().get("hold")
        if pattern and re.search(pattern, what):
            (self.root / "data/sim/held").touch()
            wait((self.root / "data/sim/go").exists)

    def count_command(self) -> None:
        """Changes the phone's state where that is due after a number of commands."""
        steps = self.root / "data/sim/steps.json"
        with _counting:
            waiting = json.loads(steps.read_text()) if steps.exists() else []
            for _, state in [step for step in waiting if step[0] == 0]:
                apply_state(self.root, state)
            if waiting:
                put(steps, json.dumps([[number - 1, state] for number, state in waiting if number]))

    def send(self, name: str, first: int, second: int, data: bytes = b"") -> None:
        with self.lock, contextlib.suppress(OSError):
            self.peer.sendall(struct.pack("<6I", CODES[name], first, second, len(data), 0, CODES[name] ^ 0xFFFFFFFF) + data)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.peer.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def serve(self) -> None:
        try:
            while True:
                code, first, second, length, _, magic = struct.unpack("<6I", self.receive(24))
                if code ^ 0xFFFFFFFF != magic:
                    break
                self.handle(NAMES.get(code, ""), first, second, self.receive(length))
        except (EOFError, OSError):
            pass
        finally:
            for stream in list(self.streams.values()):
                stream.peer_closed()
            self.peer.close()

    def drop(self) -> None:
        """The cable is pulled."""
        with contextlib.suppress(OSError):
            self.peer.shutdown(socket.SHUT_RDWR)

    def handle(self, name: str, first: int, second: int, data: bytes) -> None:
        faults = self.faults()
        if faults.get("mute"):
            return
        if name == "CNXN":
            self.most = min(second, MOST_BYTES)
            if faults.get("unauthorized"):
                self.send("AUTH", 1, 0, os.urandom(20))
                return
            banner = f"device::ro.product.name=simphone;ro.product.model=Sim Phone;ro.product.device=sim;features={self.features}"
            self.send("CNXN", min(first, VERSION), self.most, banner.encode())
        elif name == "AUTH" and first == 2:  # a signature by a key that nobody accepted: ask again
            self.send("AUTH", 1, 0, os.urandom(20))
        elif name == "OPEN":
            self.open(first, data, faults)
        elif name in ("OKAY", "WRTE", "CLSE"):
            stream = self.streams.get(second)
            if stream is None:
                return
            if name == "OKAY":
                stream.credit.release()
            elif name == "WRTE":
                stream.incoming.put(data)
            else:
                self.streams.pop(second, None)
                stream.peer_closed()

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

    def run(self, stream: Stream, work: Callable[[Stream], None]) -> None:
        with contextlib.suppress(EOFError, OSError):
            work(stream)
        if not stream.closed:
            stream.credit.acquire()  # the last packet must be taken before the stream ends
        if self.streams.pop(stream.local, None):
            self.send("CLSE", stream.local, stream.remote)
