"""Processes of one run: that they meet, differ by name, stop together, and end within moments when one is gone."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mnv3_tf.errors import InputError
from mnv3_tf.progress import Silent
from mnv3_tf.training import processes
from mnv3_tf.training.processes import Meeting

pytest.importorskip("jax")
# A run without a network: its processes exchange something in every step. What happens to one is the fourth argument.
WORK = """
import os, signal, sys
from pathlib import Path
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.interrupts import Interrupted
from mnv3_tf.progress import Silent
from mnv3_tf.training import processes
processes.HEARTBEAT_SECONDS, processes.LEAVING_SECONDS, processes.MEETING_SECONDS = 10, 5, int(os.environ.get("MEETING", 120))
address, number, out, what = sys.argv[1:]
try:
    processes.Meeting.of(address, 2, int(number)).join(out)
    with processes.together(out, Silent(), setting=what) as (place, _), processes.stop_on_notice() as stop:
        processes.agree({"train.epochs": number if what == "differ" else 1})
        for step in range(1, 1000000):
            processes.gathered(bytes(100))
            if step == 5:
                print("under way", (place / "config.yaml").read_text(), flush=True)
                if what == "fail" and number == "1":
                    raise InputError("cloud.jpg: is no picture.")
            if processes.is_last(step):
                raise Interrupted(f"Stopped after step {step}.")
except KitError as error:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts one of two processes, whose run folder is the first's."""
    started: list[subprocess.Popen[str]] = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("run0", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "run0" / "config.yaml").write_text("of the run")

    def run(number: int, what: str, *before: str, host: str = "127.0.0.1", **environment: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(
            [*before, sys.executable, "-c", WORK, f"{host}:{port}", str(number), str(tmp_path / f"run{number}"), what], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | environment | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TMPDIR": f"{tmp_path}/temporary"}))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait(*processes: subprocess.Popen[str]) -> None:
    """Until they exchange something."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way of the run\n", process.communicate(timeout=120)[1]


def end(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """How a process ends, and the lines that it leaves on standard error."""
    said, trouble = process.communicate(timeout=300)
    assert not said
    return process.returncode, trouble.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
def test_a_killed_process_ends_the_other(start: Start, tmp_path: Path, gone: int) -> None:
    """With one line that says who is gone and how to go on; the killed one's worker is gone, too, with what it had."""
    both = start(0, "run"), start(1, "run")
    wait(*both)
    both[gone].kill()
    other = 1 - gone
    code, lines = end(both[other])
    assert code == 1 and len(lines) == 1, lines
    why = "killed, or cut off from the network" if gone else "ended, or out of reach from here"
    assert lines[0] == (f"Error: Process {gone} on {socket.gethostname()} is gone: {why}. What was saved is in "
                        f"{tmp_path / f'run{other}'}: go on by starting all processes again with --resume.")
    assert end(both[gone]) == (-signal.SIGKILL, [])
    assert not (tmp_path / "run1").exists()  # only the first works in the run folder
    assert len(list((tmp_path / "temporary").iterdir())) == 1  # of the killed one, which could not clear it away


@pytest.mark.slow
def test_a_process_that_fails_says_why_and_the_other_who(start: Start) -> None:
    both = start(0, "fail"), start(1, "fail")
    wait(*both)
    (code, lines), (other_code, others) = end(both[1]), end(both[0])
    assert (code, other_code) == (1, 1) and lines == ["Error: cloud.jpg: is no picture."]
    assert len(others) == 1
    assert others[0].startswith(f"Error: Process 1 on {socket.gethostname()} failed, and says there why. What was saved is in ")


@pytest.mark.slow
def test_a_signal_to_one_stops_both_after_the_same_step(start: Start) -> None:
    both = start(0, "run"), start(1, "run")
    wait(*both)
    both[1].send_signal(signal.SIGINT)
    (code, lines), other = end(both[0]), end(both[1])
    assert code == 130 and re.fullmatch(r"Error: Stopped after step \d+\.", "\n".join(lines)), lines
    assert other == (130, [])


@pytest.mark.slow
def test_differing_processes_are_refused_by_name(start: Start) -> None:
    both = start(0, "differ"), start(1, "differ")
    host = socket.gethostname()
    refusal = (f'Error: Process 1 on {host} has train.epochs "1", process 0 on {host} has "0": all processes of a run need the '
               "same. Start them again with one of the two.")
    assert [end(process) for process in both] == [(2, [refusal])] * 2


@pytest.mark.slow
def test_a_process_that_waits_in_vain_says_for_what(start: Start) -> None:
    code, lines = end(start(1, "run", MEETING="2"))
    assert code == 1 and len(lines) == 1 and lines[0].startswith("Error: Not all processes came within 2 s. "), lines


# Networks of their own, joined by a cable: each waits for its end of it, and is known by a name that leads to it.
_APART = ("unshare", "--net", "--mount", "--uts")
_HOST = """
until ip link show cable >/dev/null 2>&1; do sleep 0.05; done
ip addr add 10.7.0.$1/24 dev cable && ip link set cable up && ip link set lo up
echo host$1 > /proc/sys/kernel/hostname
mount --bind "$2" /etc/hosts
shift 2; exec "$@"
"""


def _can_unshare() -> bool:
    try:
        done = subprocess.run([*_APART, "sh", "-c", "ip link add name one type veth peer name two"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _can_unshare(), reason="networks of their own need unshare, ip and the right to use them")
def test_processes_that_are_cut_off_from_each_other_end(start: Start, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n10.7.0.1 host1\n10.7.0.2 host2\n")
    both = [start(number, "run", *_APART, "sh", "-c", _HOST, "sh", str(number + 1), str(tmp_path / "hosts"), host="10.7.0.1")
            for number in (0, 1)]
    one, two = (str(process.pid) for process in both)
    here = os.readlink("/proc/self/ns/net")
    while here in (os.readlink(f"/proc/{pid}/ns/net") for pid in (one, two)):
        time.sleep(0.05)
    subprocess.run(f"ip link add name cable netns {one} type veth peer name cable netns {two}".split(), check=True)
    wait(*both)
    subprocess.run(f"nsenter --target {one} --net ip link set cable down".split(), check=True)
    for number, process in enumerate(both):
        code, lines = end(process)
        assert code == 1 and len(lines) == 1 and lines[0].startswith(f"Error: Process {1 - number} on host{2 - number} is gone: ")


@pytest.mark.parametrize(("backend", "given", "says"), [
    ("tensorflow", ("host:1", 2, 0), "set KERAS_BACKEND=jax for each"), ("jax", ("host", 2, 0), "it must be HOST:PORT"),
    ("jax", ("host:1", 2, 2), "--process is 2 of --processes 2: it must be one of 0 to 1")])
def test_what_does_not_fit_together_is_refused(monkeypatch: pytest.MonkeyPatch, backend: str, given: tuple[str, int, int],
                                               says: str) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backend)
    with pytest.raises(InputError, match=re.escape(says)):
        Meeting.of(*given)


def test_clusters_are_looked_for_where_there_may_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "SLURM_STEP_NODELIST", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert Meeting.of(None, None, None) is None
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-2]")
    assert Meeting.of(None, None, None) == Meeting(None, None, None)
    assert Meeting.of(None, 1, None) is None  # the user says that there is none
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert Meeting.of(None, None, None) is None
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert Meeting.of(None, None, None) is None


@pytest.mark.parametrize("version", ["0.8.3", "0.7.0.dev20250601"])
def test_an_older_jax_is_refused_before_anything_starts(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.importlib.metadata, "version", lambda name: version)
    says = f"needs JAX 0.9 or later; {re.escape(version)} is installed. Install it with pip install --upgrade 'jax>=0.9'"
    with pytest.raises(InputError, match=says):
        Meeting("localhost:1", 2, 0).join(tmp_path)
    monkeypatch.setattr(processes, "count", lambda: 2)  # of a program that met the others by itself
    with pytest.raises(InputError, match=says), processes.together(tmp_path, Silent()):
        pass
