"""The file service of a simulated phone: stat, list, push and pull, in both versions of the protocol."""

import contextlib
import os
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from device_lab.protocol import Connection, Stream

WRITABLE = ("/data/local/tmp", "/sdcard")
_STAT = "<4sI2Q4I Q3q"
_PART = 64 * 1024


class Refused(Exception):
    """What the phone answers instead of doing it."""


class FileService:
    """One `sync:` stream.

    Args:
        connection: over which the host asked; its faults count: read_only, disk_full, drop_after_bytes, bytes_per_second.
    """

    def __init__(self, connection: "Connection"):
        self.connection = connection

    def path(self, name: str) -> Path:
        """Where a path of the phone lies on this machine; never outside of the phone's folder."""
        return self.connection.root / os.path.normpath("/" + name).lstrip("/")

    def serve(self, stream: "Stream") -> None:
        """Answers until the host has had enough."""
        while True:
            ident, length = struct.unpack("<4sI", stream.read(8))
            if ident == b"QUIT":
                return
            name = stream.read(length).decode("utf-8", "surrogateescape")
            try:
                self.answer(stream, ident, name)
            except Refused as reason:
                self.fail(stream, str(reason))

    def answer(self, stream: "Stream", ident: bytes, name: str) -> None:
        """Does one thing."""
        if ident in (b"STA2", b"LST2"):
            stream.write(_stat_2(ident, self.path(name), follow=ident == b"STA2"))
        elif ident == b"STAT":
            stream.write(_stat_1(self.path(name)))
        elif ident in (b"LIST", b"LIS2"):
            self.list(stream, name, new=ident == b"LIS2")
        elif ident == b"SEND":
            self.take(stream, name)
        elif ident == b"RECV":
            self.give(stream, name)
        else:
            self.fail(stream, f"unknown command {int.from_bytes(ident, 'little'):#010x}")
            raise EOFError

    def fail(self, stream: "Stream", message: str) -> None:
        """Says why not."""
        text = message.encode("utf-8", "surrogateescape")
        stream.write(struct.pack("<4sI", b"FAIL", len(text)) + text)

    def list(self, stream: "Stream", name: str, *, new: bool) -> None:
        """Names and sizes in a folder; nothing where there is none, as adbd does."""
        folder = self.path(name)
        with contextlib.suppress(OSError):
            for entry in (".", "..", *sorted(os.listdir(folder))):
                text = os.fsencode(entry)
                if new:
                    stream.write(_stat_2(b"DNT2", folder / entry, follow=False) + struct.pack("<I", len(text)) + text)
                else:
                    stream.write(b"DENT" + _stat_1(folder / entry)[4:] + struct.pack("<I", len(text)) + text)
        stream.write(b"DONE" + bytes(struct.calcsize(_STAT) if new else 16))

    def take(self, stream: "Stream", argument: str) -> None:
        """A push. The error is sent when it occurs, and the rest is read and thrown away, as adbd does."""
        faults = self.connection.faults()
        name, _, mode = argument.rpartition(",")
        target, output, refused, got = self.path(name), None, "", 0
        try:
            output = self._create(target, name, int(mode), faults)
        except Refused as reason:
            refused = str(reason)
            self.fail(stream, refused)
        try:
            while True:
                ident, length = struct.unpack("<4sI", stream.read(8))
                if ident == b"DONE":
                    break
                data = stream.read(length)
                got += length
                self.connection.hold(name)
                self._wait(faults, length)
                if "drop_after_bytes" in faults and got > int(faults["drop_after_bytes"]):
                    self.connection.drop()
                    raise EOFError
                if not refused and "disk_full" in faults and got > int(faults["disk_full"]):
                    refused = "write failed: No space left on device"
                    target.unlink(missing_ok=True)
                    self.fail(stream, refused)
                if output and not refused:
                    output.write(data)
                elif stat.S_ISLNK(int(mode)) and not refused:
                    target.symlink_to(os.fsdecode(data.rstrip(b"\0")))
        finally:
            if output:
                output.close()
        if refused:
            return
        if output:
            owner = int(mode) >> 6 & 7
            target.chmod(owner << 6 | owner << 3 | owner)  # adbd gives everybody the owner's bits
            os.utime(target, (length, length))
        stream.write(struct.pack("<4sI", b"OKAY", 0))

    def _create(self, target: Path, name: str, mode: int, faults: dict[str, Any]) -> Any:
        plain = os.path.normpath("/" + name.lstrip("/"))
        if faults.get("read_only") or faults.get("read_only_disk"):
            raise Refused("couldn't create file: Read-only file system")
        if not plain.startswith(WRITABLE):
            why = "Permission denied" if plain.startswith("/data") else "Read-only file system"
            raise Refused(f"couldn't create file: {why}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink() or target.is_file():
                target.unlink()
            return None if stat.S_ISLNK(mode) else open(target, "wb")
        except OSError as error:
            raise Refused(f"couldn't create file: {error.strerror}") from None

    def give(self, stream: "Stream", name: str) -> None:
        """A pull."""
        faults = self.connection.faults()
        try:
            source = os.open(self.path(name), os.O_RDONLY)
        except OSError as error:
            raise Refused(f"open failed: {error.strerror}") from None
        with open(source, "rb") as opened:
            while data := opened.read(_PART):
                self._wait(faults, len(data))
                stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
        stream.write(struct.pack("<4sI", b"DONE", 0))

    def _wait(self, faults: dict[str, Any], count: int) -> None:
        if "bytes_per_second" in faults:
            self.connection.wait(count / float(faults["bytes_per_second"]))


def _stat_1(path: Path) -> bytes:
    try:
        found = os.lstat(path)
    except OSError:
        return struct.pack("<4s3I", b"STAT", 0, 0, 0)
    return struct.pack("<4s3I", b"STAT", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime) & 0xFFFFFFFF)


def _stat_2(ident: bytes, path: Path, *, follow: bool) -> bytes:
    try:
        found = path.stat() if follow else path.lstat()
    except OSError as error:
        return struct.pack(_STAT, ident, error.errno or 2, *[0] * 10)
    return struct.pack(_STAT, ident, 0, found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid,
                       found.st_size, int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
