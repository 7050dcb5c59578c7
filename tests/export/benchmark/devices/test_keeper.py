"""The test devices leave nothing behind, whatever becomes of the tests."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from device_lab.adb_client import find_clients
from device_lab.keeper import MARK, processes_with
from device_lab.waiting import PATIENCE, wait

# A server of adb, a phone, a command on it that does not end, and a daemon that has left its parents.
PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from device_lab.adb_client import find_clients, phones, private_server
from device_lab.keeper import MARK

folder = Path(sys.argv[1])
with private_server(find_clients()[0], folder) as client, phones(client, folder) as make:
    phone = make()
    client.start("-s", phone.serial, "shell", "while :; do sleep 1000; done")
    subprocess.run(["setsid", "sh", "-c", "(while :; do sleep 1001; done) &"], check=True)
    print(os.environ[MARK], flush=True)
    sys.stdin.read()
"""


def running(mark: str) -> str:
    """The command lines of a session's processes."""
    lines = []
    for pid in processes_with(f"{MARK}={mark}"):
        try:
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.skipif(not find_clients(), reason="there is no adb client for this machine")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None])
def test_nothing_outlives_the_process_that_started_it(number: signal.Signals | None, tmp_path: Path) -> None:
    """Killed, ended, and by itself."""
    words, tests = [sys.executable, "-c", PROGRAM, str(tmp_path)], Path(__file__).parents[3]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tests) as child:
        assert child.stdin and child.stdout
        mark = child.stdout.readline().strip()
        assert len(mark) == 16
        assert wait(lambda: all(words in running(mark) for words in (
            "fork-server", "server.py", "shell while", "sleep 1000", "sleep 1001"))), running(mark)
        if number is None:
            child.stdin.close()
        else:
            child.send_signal(number)
        assert child.wait(timeout=PATIENCE) == (-number if number else 0)
    assert wait(lambda: not processes_with(f"{MARK}={mark}")), running(mark)
