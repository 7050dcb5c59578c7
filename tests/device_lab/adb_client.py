"""The adb clients of this machine, each with a server, a port and keys of its own."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from device_lab.downloads import NotHere, debian_packages, loader_of

_SECONDS = 20.0


@dataclass(frozen=True)
class AdbClient:
    """A client program and the environment that leads it to its own server.

    Attributes:
        program: its path.
        environment: for every process that should talk to the same server.
    """

    program: Path
    environment: Mapping[str, str]

    def run(self, *words: str, seconds: float = _SECONDS) -> "subprocess.CompletedProcess[str]":
        """Runs the client and waits; bytes that are no UTF-8 are replaced, line ends stay as they are.

        Raises:
            subprocess.TimeoutExpired: it took longer than `seconds`.
        """
        done = subprocess.run([str(self.program), *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds,
                              env=dict(self.environment))
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode("utf-8", "replace"),
                                           done.stderr.decode("utf-8", "replace"))

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Starts the client and does not wait."""
        return subprocess.Popen([str(self.program), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, env=dict(self.environment))

    def state(self, serial: str) -> str:
        """What `adb devices` says of a device; "" where it does not list it."""
        for line in self.run("devices").stdout.splitlines():
            name, _, state = line.partition("\t")
            if name == serial:
                return state.strip()
        return ""

    def wait_for(self, serial: str, state: str, seconds: float = 5.0) -> str:
        """Waits until a device is in a state, and gives the last one that was seen."""
        until = time.monotonic() + seconds
        while (found := self.state(serial)) != state and time.monotonic() < until:
            time.sleep(0.05)
        return found


def find_clients() -> list[Path]:
    """The client that the package `adbutils` carries, and the one in PATH, where they are."""
    found = []
    spec = find_spec("adbutils")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "binaries" / "adb"
        if program.exists():
            program.chmod(program.stat().st_mode | 0o111)
            found.append(program)
    installed = shutil.which("adb")
    return found + ([Path(installed)] if installed and Path(installed).resolve() not in found else [])


def old_client(folder: Path) -> Path:
    """Debian 12's client 29: a program that runs it with its libraries.

    Args:
        folder: an empty one, for the program.

    Raises:
        NotHere: it cannot be had here, or does not run with this machine's C library.
    """
    unpacked = debian_packages(["adb"], "bookworm")
    _, folders = loader_of(unpacked)
    # It starts itself as a server, by the path that the system tells: so under the system's own loader and C library.
    own = folder / "libraries"
    own.mkdir()
    for library in (path for each in folders for path in each.glob("lib*.so*")):
        if not re.match(r"lib(c|m|dl|pthread|rt|resolv|util|anl|nsl|nss_.*|thread_db|mvec|c_malloc_debug|pcprofile|memusage)[.-]",
                        library.name):
            (own / library.name).symlink_to(library)
    program = folder / "adb"
    program.write_text(f"#!/bin/sh\nLD_LIBRARY_PATH={own} exec {unpacked}/usr/lib/android-sdk/platform-tools/adb \"$@\"\n")
    program.chmod(0o755)
    done = subprocess.run([str(program), "version"], capture_output=True, text=True, timeout=_SECONDS)
    if "29." not in done.stdout:
        raise NotHere(f"Debian's adb 29 does not run here: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return program


@contextmanager
def private_server(program: Path, home: Path) -> Iterator[AdbClient]:
    """Starts a client's server on a free port with a new folder for its keys, and ends it.

    Args:
        program: the client.
        home: an empty folder.

    Raises:
        subprocess.CalledProcessError: the server does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "HOME": str(home), "ANDROID_USER_HOME": str(home), "ANDROID_ADB_SERVER_PORT": str(port),
                   "ADB_MDNS": "0", "ADB_MDNS_AUTO_CONNECT": "0", "TMPDIR": str(home)}
    for name in ("ANDROID_SERIAL", "ADB_VENDOR_KEYS", "ADB_SERVER_SOCKET", "ADB_TRACE"):
        environment.pop(name, None)
    client = AdbClient(program, environment)
    client.run("start-server").check_returncode()
    try:
        yield client
    finally:
        client.run("kill-server")
        until = time.monotonic() + 5
        while _listens(port) and time.monotonic() < until:
            time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
