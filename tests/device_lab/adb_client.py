"""The adb clients of this machine, each with a server, a port and keys of its own."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from device_lab.downloads import NotHere, debian_packages, loader_of
from device_lab.keeper import keep
from device_lab.phone import SimulatedPhone
from device_lab.waiting import PATIENCE, wait

_PORTS = 20


@dataclass(frozen=True)
class AdbClient:
    """A client program and the environment that leads it to its own server.

    Attributes:
        program: its path.
        environment: for every process that should talk to the same server.
    """

    program: Path
    environment: Mapping[str, str]

    def run(self, *words: str, seconds: float = PATIENCE) -> "subprocess.CompletedProcess[str]":
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

    def wait_for(self, serial: str, *states: str) -> str:
        """Waits until a device is in one of some states, and gives the last one that was seen."""
        wait(lambda: self.state(serial) in states)
        return self.state(serial)


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
    done = subprocess.run([str(program), "version"], capture_output=True, text=True, timeout=PATIENCE)
    if "29." not in done.stdout:
        raise NotHere(f"Debian's adb 29 does not run here: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return program


@contextmanager
def phones(client: AdbClient, folder: Path) -> Iterator[Callable[..., SimulatedPhone]]:
    """Makes connected phones in a folder, and switches them off at the end."""
    with ExitStack() as stack:
        made = 0

        def make(**options: object) -> SimulatedPhone:
            nonlocal made
            made += 1
            (folder / f"phone{made}").mkdir()
            phone = stack.enter_context(SimulatedPhone(folder / f"phone{made}", **options))  # type: ignore[arg-type]
            stack.callback(client.run, "disconnect", phone.serial)
            if options.get("mute"):  # the client waits ten seconds for a phone that says nothing; the list has it at once
                waiting = client.start("connect", phone.serial)
                stack.callback(waiting.communicate)
                stack.callback(waiting.kill)
                wait(lambda: client.state(phone.serial))
            else:
                client.run("connect", phone.serial)
            return phone

        yield make


@contextmanager
def private_server(program: Path, home: Path) -> Iterator[AdbClient]:
    """Starts a client's server on a free port with a new folder for its keys, and ends it.

    The server is a child of this process and not a daemon. The client cannot start another: it takes the address for another
    machine's.

    Args:
        program: the client.
        home: an empty folder.

    Raises:
        OSError: the server does not start.
    """
    keep()
    environment = {**os.environ, "HOME": str(home), "ANDROID_USER_HOME": str(home), "ADB_MDNS": "0", "ADB_MDNS_AUTO_CONNECT": "0",
                   "ADB_LIBUSB": "0", "TMPDIR": str(home)}
    for name in ("ANDROID_SERIAL", "ADB_VENDOR_KEYS", "ANDROID_ADB_SERVER_PORT", "ADB_TRACE"):
        environment.pop(name, None)
    for _ in range(_PORTS):
        server, port = _start_server(program, environment)
        if server is not None:
            break
    else:
        raise OSError(f"{program}: its server does not start")
    try:
        yield AdbClient(program, {**environment, "ADB_SERVER_SOCKET": f"tcp:127.0.0.1:{port}"})
    finally:
        server.kill()
        server.wait()


def _start_server(program: Path, environment: Mapping[str, str]) -> "tuple[subprocess.Popen[bytes] | None, int]":
    """The server, when it listens; None where another process was quicker to take the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    read, write = os.pipe()
    try:
        # As a client starts it.
        server = subprocess.Popen([str(program), "-L", f"tcp:{port}", "fork-server", "server", "--reply-fd", str(write)],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  pass_fds=(write,), env=dict(environment))
    finally:
        os.close(write)
    with open(read, "rb") as answer:
        if answer.read(3) == b"OK\n":
            return server, port
    server.kill()
    server.wait()
    return None, port
