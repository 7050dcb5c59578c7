"""The real adb client with a server of its own, and phones to talk to."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from device_lab.phone import SimulatedPhone

if TYPE_CHECKING:
    from device_lab.adbd import RealPhone
    from device_lab.sshd import Board


@pytest.fixture(scope="session")
def adb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The client's path (PyPI `adbutils` carries one), with its own server, port and keys."""
    import adbutils

    program = Path(adbutils.__file__).parent / "binaries" / "adb"
    found = str(program) if program.exists() else shutil.which("adb")
    if found is None:
        pytest.skip("there is no adb client for this machine, so nothing of the phone's path is tested")
    if program.exists():
        program.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("adb")
    patch = pytest.MonkeyPatch()
    settings = {"ADB": found, "ANDROID_ADB_SERVER_PORT": str(port), "ANDROID_USER_HOME": str(home), "ADB_MDNS": "0"}
    for name, value in settings.items():
        patch.setenv(name, value)
    subprocess.run([found, "start-server"], capture_output=True, timeout=30, env={**os.environ, "HOME": str(home)})
    yield found
    subprocess.run([found, "kill-server"], capture_output=True, timeout=30)
    patch.undo()


@pytest.fixture
def phone(adb: str, tmp_path: Path) -> Iterator[Callable[..., SimulatedPhone]]:
    """Makes phones, connected."""
    made: list[SimulatedPhone] = []
    waiting: list[subprocess.Popen[bytes]] = []

    def make(**options: object) -> SimulatedPhone:
        root = tmp_path / f"phone{len(made)}"
        root.mkdir()
        new = SimulatedPhone(root, **options)  # type: ignore[arg-type]
        made.append(new)
        if options.get("mute"):  # the client waits ten seconds for a phone that says nothing; the list has it at once
            waiting.append(subprocess.Popen([adb, "connect", new.serial], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            until = time.monotonic() + 10
            while new.serial not in subprocess.run([adb, "devices"], capture_output=True, text=True).stdout:
                assert time.monotonic() < until
                time.sleep(0.05)
        else:
            subprocess.run([adb, "connect", new.serial], capture_output=True, timeout=30)
        return new

    yield make
    for child in waiting:
        child.kill()
        child.wait()
    for each in made:
        subprocess.run([adb, "disconnect", each.serial], capture_output=True, timeout=30)
        each.close()


@pytest.fixture(scope="session")
def real_phone_switched_on(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[RealPhone]":
    """A phone with a real adbd."""
    from device_lab.adbd import RealPhone
    from device_lab.downloads import NotHere

    try:
        made = RealPhone(tmp_path_factory.mktemp("real"))
    except (NotHere, OSError) as reason:
        pytest.skip(f"NOT TESTED, no real adbd here, so only the simulated phone is tested: {reason}")
    yield made
    made.close()


@pytest.fixture
def real_phone(adb: str, real_phone_switched_on: "RealPhone") -> "Iterator[RealPhone]":
    """The same, connected for one test: others expect no phone but their own."""
    subprocess.run([adb, "connect", real_phone_switched_on.serial], capture_output=True, timeout=30)
    yield real_phone_switched_on
    subprocess.run([adb, "disconnect", real_phone_switched_on.serial], capture_output=True, timeout=30)


@pytest.fixture(scope="session")
def board_switched_on(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Board]":
    """This machine behind a real sshd."""
    from device_lab.downloads import NotHere
    from device_lab.sshd import Board

    try:
        made = Board(tmp_path_factory.mktemp("board"))
    except (NotHere, OSError) as reason:
        pytest.skip(f"NOT TESTED, no real sshd here, so ssh is only tried with a stand-in for its client: {reason}")
    yield made
    made.close()


@pytest.fixture
def board(board_switched_on: "Board", monkeypatch: pytest.MonkeyPatch) -> "Board":
    """The same, with the `ssh` that knows it first in PATH."""
    monkeypatch.setenv("PATH", f"{board_switched_on.bin}:{os.environ['PATH']}")
    return board_switched_on
