"""The device side of the adb protocol over TCP, as far as a benchmark needs it; the standard library only.

Run as a program: ``python protocol.py ROOT [FEATURES]``; prints "READY PORT". Faults are read from ROOT/data/sim/faults.json at
every step, so that they can be changed while it runs: unauthorized, mute, read_only, disk_full (bytes), drop_after_bytes (of a
push), drop_after_opens, delay (seconds before each command), answers ([pattern, file, exit code] for commands).
"""

import contextlib
import json
import os
import queue
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CODES = {name: struct.unpack("<I", name.encode())[0] for name in ("CNXN", "AUTH", "OPEN", "OKAY", "CLSE", "WRTE")}
NAMES = {code: name for name, code in CODES.items()}
VERSION, MOST_BYTES = 0x01000001, 256 * 1024
FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"
MAPPED = re.compile(r"(?<![\w./-])/(data|sdcard|sys|system|proc/cpuinfo)(?![\w.-])")


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
        stream = Stream(self, self.next_id, remote)
        self.next_id += 1
        service = data.rstrip(b"\0").decode()
        work: Callable[[Stream], None]
        if service.startswith("sync:"):
            work = Sync(self).serve
        elif service.startswith(("shell", "exec")):
            kind, _, command = service.partition(":")
            framed = "v2" in kind.split(",") and "shell_v2" in self.features
            work = lambda opened: self.shell(opened, command, framed)  # noqa: E731
        else:
            self.send("CLSE", 0, remote)
            return
        self.streams[stream.local] = stream
        self.send("OKAY", stream.local, stream.remote)
        threading.Thread(target=self.run, args=(stream, work), daemon=True).start()

    def run(self, stream: Stream, work: Callable[[Stream], None]) -> None:
        with contextlib.suppress(EOFError, OSError):
            work(stream)
        if not stream.closed:
            stream.credit.acquire(timeout=10)  # the last packet must be taken before the stream ends
        if self.streams.pop(stream.local, None):
            self.send("CLSE", stream.local, stream.remote)

    def shell(self, stream: Stream, command: str, framed: bool) -> None:
        """Runs a command on this machine, the phone's paths mapped to its folder. As with adbd, it outlives its stream."""
        faults = self.faults()
        time.sleep(float(faults.get("delay", 0)))
        for pattern, file, code in faults.get("answers", []):
            if re.search(pattern, command):
                script = f"cat {file}; sh -c 'exit {code}'\necho MNV3-EXIT:$?"
                command = script if "MNV3-EXIT" in command else f"cat {file}; exit {code}"
                break
        else:
            command = MAPPED.sub(lambda match: str(self.root) + match.group(0), command)
        environment = {"PATH": f"{self.root}/system/bin:/usr/bin:/bin", "SYSROOT": str(self.root)}
        child = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE if framed else subprocess.STDOUT, env=environment, cwd=self.root,
                                 start_new_session=True)

        def pump(source: Any, ident: int) -> None:
            for line in source:
                text = line.replace(str(self.root).encode(), b"")
                try:
                    stream.write(struct.pack("<BI", ident, len(text)) + text if framed else text.replace(b"\n", b"\r\n"))
                except (BrokenPipeError, OSError):
                    source.close()
                    return

        pumps = [threading.Thread(target=pump, args=(child.stdout, 1), daemon=True)]
        if framed:
            pumps.append(threading.Thread(target=pump, args=(child.stderr, 2), daemon=True))
        for thread in pumps:
            thread.start()
        code = child.wait()
        for thread in pumps:
            thread.join(timeout=5)
        if framed:
            stream.write(struct.pack("<BI", 3, 1) + bytes([code if code >= 0 else 128 - code]))


class Sync:
    """Push, pull and stat."""

    def __init__(self, connection: Connection):
        self.connection = connection

    def path(self, name: str) -> Path:
        return self.connection.root / os.path.normpath("/" + name).lstrip("/")

    def serve(self, stream: Stream) -> None:
        while True:
            ident, length = struct.unpack("<4sI", stream.read(8))
            if ident == b"QUIT":
                return
            name = stream.read(length).decode()
            if ident in (b"STA2", b"LST2"):
                stream.write(self.stat(ident, name))
            elif ident == b"STAT":
                stream.write(self.old_stat(name))
            elif ident == b"SEND":
                self.take(stream, name)
            elif ident == b"RECV":
                self.give(stream, name)
            else:
                self.fail(stream, "unknown command")
                raise EOFError

    def fail(self, stream: Stream, message: str) -> None:
        stream.write(struct.pack("<4sI", b"FAIL", len(message)) + message.encode())

    def stat(self, ident: bytes, name: str) -> bytes:
        try:
            found = os.stat(self.path(name))
        except OSError as error:
            return struct.pack("<4sI2Q4I Q3q", ident, error.errno or 2, *[0] * 10)
        return struct.pack("<4sI2Q4I Q3q", ident, 0, found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid,
                           found.st_gid, found.st_size, int(found.st_atime), int(found.st_mtime), int(found.st_ctime))

    def old_stat(self, name: str) -> bytes:
        try:
            found = os.stat(self.path(name))
        except OSError:
            return struct.pack("<4s3I", b"STAT", 0, 0, 0)
        return struct.pack("<4s3I", b"STAT", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))

    def take(self, stream: Stream, argument: str) -> None:
        """A push: everything is read up to its end, and only then answered, as adbd does."""
        faults = self.connection.faults()
        name, _, mode = argument.rpartition(",")
        error = "couldn't create file: Read-only file system" if faults.get("read_only") else None
        target = self.path(name)
        data, got = b"", 0
        while True:
            ident, length = struct.unpack("<4sI", stream.read(8))
            if ident == b"DONE":
                break
            data += stream.read(length)
            got += length
            if "drop_after_bytes" in faults and got > int(faults["drop_after_bytes"]):
                target.write_bytes(data)
                self.connection.drop()
                raise EOFError
            if "disk_full" in faults and got > int(faults["disk_full"]):
                error = error or "write failed: No space left on device"
        if error is None:
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                target.chmod(int(mode) & 0o777)
            except OSError as problem:
                error = f"couldn't create file: {problem.strerror}"
        if error:
            self.fail(stream, error)
        else:
            stream.write(struct.pack("<4sI", b"OKAY", 0))

    def give(self, stream: Stream, name: str) -> None:
        try:
            data = self.path(name).read_bytes()
        except OSError as error:
            self.fail(stream, f"open failed: {error.strerror}")
            return
        for start in range(0, len(data), 65536):
            part = data[start:start + 65536]
            stream.write(struct.pack("<4sI", b"DATA", len(part)) + part)
        stream.write(struct.pack("<4sI", b"DONE", 0))


def main(root: str, features: str = FEATURES) -> None:
    """Serves until it is ended."""
    server = socket.create_server(("127.0.0.1", 0))
    print(f"READY {server.getsockname()[1]}", flush=True)
    while True:
        peer, _ = server.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=Connection(peer, Path(root).resolve(), features).serve, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
