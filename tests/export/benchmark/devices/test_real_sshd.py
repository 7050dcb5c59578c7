"""The whole path of a board with nothing simulated: the system's ssh client, a real sshd, real inference."""

from pathlib import Path

import numpy as np
import pytest
from device_lab.sshd import Board

from mnv3_tf.errors import KitError, NoDeviceError
from mnv3_tf.export.benchmark.devices.bench import benchmark_device, open_target
from mnv3_tf.export.benchmark.devices.session import opened
from mnv3_tf.export.benchmark.devices.ssh import SshDevice
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
from mnv3_tf.export.benchmark.runners.runner_build import build_runner
from mnv3_tf.export.benchmark.runners.runners import KitRunner
from mnv3_tf.progress import Silent
from mnv3_tf.tflite.runtime import LiteRTModel

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_two_models_and_equal_bytes(board: Board, files: dict[str, Path], tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
    (tmp_path / "base").mkdir()
    monkeypatch.setattr(SshDevice, "base", str(tmp_path / "base"))  # other programs may write to /tmp meanwhile
    settings = BenchmarkSettings(runs=8, min_seconds=0, rounds=4, warmup=1, cool_down=0, profile=True)
    result = benchmark_device(open_target(f"ssh:{board.shared}"), [files["plain_int8"], files["swish_int8"]], settings, Silent())
    assert len(result.rows) == 2 and all(row["failure"] is None and row["runs"] >= 8 for row in result.rows)
    assert [row["partitions"] for row in result.rows] == [1, 3] and all(row["peak_memory_mb"] > 1 for row in result.rows)
    assert all(row["profile"]["problem"] is None and row["target"].startswith("ssh:") for row in result.rows)
    for name in ("plain_int8", "swish_int8"):
        model = LiteRTModel(files[name])
        tensors = np.random.default_rng(0).integers(-128, 128, (3, *model.input_shape[1:]), dtype=np.int8)
        (tmp_path / f"{name}.bin").write_bytes(tensors.tobytes())
        (tmp_path / f"{name}.wanted").write_bytes(b"".join(model.run_raw(tensor[None]).tobytes() for tensor in tensors))
    with opened(open_target(f"ssh:{board.shared}")) as session:
        runner = KitRunner(session, build_runner("x86_64", Silent()))
        runner.install()
        for name in ("plain_int8", "swish_int8"):
            runner.outputs(files[name], tmp_path / f"{name}.bin", tmp_path / f"{name}.out")
            assert (tmp_path / f"{name}.out").read_bytes() == (tmp_path / f"{name}.wanted").read_bytes()
    assert not list((tmp_path / "base").iterdir()) and "Accepted publickey" in board.log()


def test_bytes_exit_codes_and_streams(board: Board, tmp_path: Path) -> None:
    device = SshDevice(board.host)
    (tmp_path / "a b'c").write_bytes(np.arange(256, dtype=np.uint8).tobytes() * 500)
    device.push(tmp_path / "a b'c", str(tmp_path / "there $x"), executable=True)
    assert (tmp_path / "there $x").stat().st_mode & 0o111
    device.pull(str(tmp_path / "there $x"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "a b'c").read_bytes()
    answer = device.shell("echo out; echo err >&2; exit_is() { return 7; }; exit_is")
    assert (answer.output, answer.errors, answer.code) == ("out", "err\n", 7)
    with pytest.raises(KitError, match=r"cannot be copied to .*No such file"):
        device.push(tmp_path / "a b'c", "/nowhere/x")


def test_a_key_that_is_not_let_in_and_a_host_that_changed(board: Board, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real client's own words."""
    config = (board.root / "ssh_config").read_text()
    known, other = (board.root / "known_hosts").read_text(), (board.root / "user_key.pub").read_text()
    (tmp_path / "known").write_text(f"{known.split()[0]} {other}")
    for wrong, words in ((config.replace("user_key", "host_key"), "ssh is not let in: .*Permission denied"),
                         (config.replace(f"{board.root}/known_hosts", f"{tmp_path}/known"), "Host key verification failed")):
        (tmp_path / "config").write_text(wrong)
        client = (board.bin / "ssh").read_text().replace(f"{board.root}/ssh_config", f"{tmp_path}/config")
        (tmp_path / "ssh").write_text(client)
        (tmp_path / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        with pytest.raises(NoDeviceError, match=words) as caught:
            SshDevice(board.host).shell("true")
        assert "ssh-copy-id" in str(caught.value) and "\n" not in str(caught.value)
