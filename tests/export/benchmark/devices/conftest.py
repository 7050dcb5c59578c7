"""The real adb client with a server of its own, and phones to talk to."""

import os
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from device_lab.adb_client import AdbClient, find_clients, phones, private_server
from device_lab.downloads import folder_for
from device_lab.keeper import keep
from device_lab.phone import SimulatedPhone
from device_lab.waiting import PATIENCE

from mnv3_tf.export.benchmark.devices import adb as adb_module
from mnv3_tf.export.benchmark.devices import local, remote, ssh
from mnv3_tf.export.benchmark.runners import runners

if TYPE_CHECKING:
    from device_lab.adbd import RealPhone
    from device_lab.sshd import Board


@pytest.fixture(scope="session", autouse=True)
def _keeper() -> None:
    """What these tests start ends with this process, however that ends."""
    keep()


@pytest.fixture(scope="session", autouse=True)
def _compiler_cache() -> Iterator[None]:
    """The compiler's own cache of the C library is kept between sessions: without it a program takes ten times as long."""
    with pytest.MonkeyPatch.context() as patch:
        if util.find_spec("ziglang"):
            patch.setenv("ZIG_GLOBAL_CACHE_DIR", str(folder_for("zig", metadata.version("ziglang"))))
        yield


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of these tests is given up after minutes, on however busy a machine; one that is to be given up, at once.

    A profile takes as many runs as it needs, and no second more.
    """
    def run_client(words: Sequence[str], what: str, seconds: float, **given: Any) -> Any:
        return remote.run_client(words, what, seconds and max(seconds, PATIENCE), **given)

    for module in (adb_module, ssh, local):
        monkeypatch.setattr(module, "run_client", run_client)
    monkeypatch.setattr(runners, "_PROFILED_SECONDS", 0.0)


@pytest.fixture(scope="session")
def adb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbClient]:
    """The client (PyPI `adbutils` carries one), with its own server, port and keys; `open_target` finds it too."""
    programs = find_clients()
    if not programs:
        pytest.skip("there is no adb client for this machine, so nothing of the phone's path is tested")
    with private_server(programs[0], tmp_path_factory.mktemp("adb")) as client, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADB", str(client.program))
        for name in ("ADB_SERVER_SOCKET", "ANDROID_USER_HOME", "ADB_MDNS"):
            patch.setenv(name, client.environment[name])
        yield client


@pytest.fixture
def phone(adb: AdbClient, tmp_path: Path) -> Iterator[Callable[..., SimulatedPhone]]:
    """Makes phones, connected."""
    with phones(adb, tmp_path) as make:
        yield make


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
def real_phone(adb: AdbClient, real_phone_switched_on: "RealPhone") -> "Iterator[RealPhone]":
    """The same, connected for one test: others expect no phone but their own."""
    adb.run("connect", real_phone_switched_on.serial)
    yield real_phone_switched_on
    adb.run("disconnect", real_phone_switched_on.serial)


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
