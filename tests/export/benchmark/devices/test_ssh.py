"""Boards over ssh: a client program that runs commands on this machine stands for the network."""

import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.errors import InputError, KitError, NoDeviceError
from mnv3_tf.export.benchmark.devices.bench import benchmark_device, open_target
from mnv3_tf.export.benchmark.devices.remote import DeviceLost
from mnv3_tf.export.benchmark.devices.session import opened
from mnv3_tf.export.benchmark.devices.ssh import SshDevice
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
from mnv3_tf.progress import Silent


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ssh` that drops its options and the host, and runs the rest here."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    says(program, 'while [ "$1" = -o ]; do shift 2; done; shift; exec sh -c "$*"')
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def says(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_a_board_is_measured_and_left_clean(client: Path, files: dict[str, Path], tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
    settings = BenchmarkSettings(runs=40, min_seconds=0, rounds=4, warmup=1, cool_down=0)
    (tmp_path / "base").mkdir()
    monkeypatch.setattr(SshDevice, "base", str(tmp_path / "base"))  # other programs may write to /tmp meanwhile
    row, = benchmark_device(open_target("ssh:me@board"), [files["plain_int8"]], settings, Silent()).rows
    assert row["failure"] is None and row["runs"] >= 40 and row["target"].startswith("ssh:") and row["delegate"] == "xnnpack"
    assert "me@board" not in row["target"] and row["build_fingerprint"] is None and row["architecture"] == "x86_64"
    assert not list((tmp_path / "base").iterdir())


def test_only_what_an_earlier_session_left_is_removed(client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    monkeypatch.setattr(SshDevice, "base", str(base))
    long_ago = time.time() - 2 * 3600
    for name in ("mnv3-0a1b2c3d", "mnv3-verify-0a1b2c3d", "mnv3-zzzzzzzz", "mnv3"):
        (base / name / "inner").mkdir(parents=True)
        os.utime(base / name, (long_ago, long_ago))
    (base / "mnv3-ffffffff").mkdir()  # of a session that still runs
    with opened(SshDevice("board")) as session:
        assert Path(session.folder).is_dir()
    assert sorted(path.name for path in base.iterdir()) == ["mnv3", "mnv3-ffffffff", "mnv3-verify-0a1b2c3d", "mnv3-zzzzzzzz"]


def test_bytes_pass_both_ways(client: Path, tmp_path: Path) -> None:
    board = SshDevice("board")
    (tmp_path / "a b'c").write_bytes(np.arange(256, dtype=np.uint8).tobytes() * 50)
    board.push(tmp_path / "a b'c", str(tmp_path / "there $x"), executable=True)
    assert (tmp_path / "there $x").stat().st_mode & 0o100
    board.pull(str(tmp_path / "there $x"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "a b'c").read_bytes()
    assert board.shell("exit_is() { return 7; }; exit_is").code == 7


def test_greetings_of_a_board_are_no_part_of_what_a_command_says(client: Path, tmp_path: Path) -> None:
    says(client, 'while [ "$1" = -o ]; do shift 2; done; shift; printf "\\n*** Welcome to 42 ***\\n7 updates\\n"; '
                 'sh -c "$*"; code=$?; echo "logout at 5"; exit $code')
    board = SshDevice("board")
    assert board.check("echo one; echo two") == "one\ntwo" and board.shell("printf x; false").code == 1
    content = np.arange(256, dtype=np.uint8).tobytes()
    (tmp_path / "a").write_bytes(content)
    board.push(tmp_path / "a", str(tmp_path / "there"))
    board.pull(str(tmp_path / "there"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_a_folder_that_lets_no_program_run_is_left_for_the_next(client: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose mount has `noexec` is played by a `chmod` that does nothing there."""
    noexec, odd, good = (tmp_path / name for name in ("noexec", "with blank", "good"))
    for folder in (noexec, odd, good):
        folder.mkdir()
    says(client.with_name("chmod"), f'case "$2" in {noexec}/*) exit 0;; *) exec /bin/chmod "$@";; esac')
    monkeypatch.setattr(SshDevice, "base", str(noexec))
    monkeypatch.setattr(SshDevice, "other_bases", ("/proc", "$HOME", str(good)))
    monkeypatch.setenv("HOME", str(odd))
    said: list[str] = []
    with opened(SshDevice("board"), said.append) as session:
        assert Path(session.folder).parent == good and session.run(["pwd"], seconds=9).output.strip() == session.folder
    assert not any(list(folder.iterdir()) for folder in (noexec, odd, good))
    assert said == [f"board: {noexec} is not used ({said[0].partition('(')[2].partition(')')[0]}); {session.folder} is"]
    assert "Permission denied" in said[0]
    monkeypatch.setattr(SshDevice, "other_bases", ("/proc",))
    with pytest.raises(KitError, match=r"noexec, /proc cannot be written to \(.*Permission denied.*\).*let programs run"), \
            opened(SshDevice("board")):
        pass


@pytest.mark.parametrize(("text", "error", "words"), [
    ("me@board: Permission denied (publickey).", NoDeviceError, "ssh-copy-id"),
    ("Host key verification failed.", NoDeviceError, "must work without a question"),
    ("ssh: Could not resolve hostname board: Name or service not known", DeviceLost, "Could not resolve"),
    ("ssh: connect to host board port 22: Connection refused", DeviceLost, "Connection refused")])
def test_the_clients_errors(text: str, error: type[Exception], words: str, client: Path) -> None:
    says(client, f"echo '{text}' >&2; exit 255")
    with pytest.raises(error, match=words):
        SshDevice("board").shell("true")


def test_hosts_that_are_none(client: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for host in ("-oProxyCommand=x", "a b", "a;b"):
        with pytest.raises(InputError, match="is not a host"):
            SshDevice(host)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoDeviceError, match="ssh was not found"):
        SshDevice("board")
