"""The whole phone path with nothing simulated but the phone's files: real adb client, real adbd, real inference."""

from pathlib import Path

import numpy as np
import pytest
from device_lab.phone import SimulatedPhone

from mnv3_tf.export.benchmark.devices.bench import benchmark_device, open_target
from mnv3_tf.export.benchmark.devices.session import opened
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
from mnv3_tf.export.benchmark.runners.runner_build import build_runner
from mnv3_tf.export.benchmark.runners.runners import KitRunner
from mnv3_tf.progress import Silent
from mnv3_tf.tflite.runtime import LiteRTModel

pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_two_models_and_equal_bytes(real_phone: SimulatedPhone, files: dict[str, Path], tmp_path: Path) -> None:
    device = open_target(f"adb:{real_phone.serial}")
    assert "shell_v2" in device.adb.run("-s", real_phone.serial, "features").stdout.split()  # type: ignore[attr-defined]
    settings = BenchmarkSettings(runs=10, min_seconds=0, rounds=4, cores=("all", "big"), cool_down=0)
    result = benchmark_device(device, [files["plain_int8"], files["swish_int8"]], settings, Silent())
    assert len(result.rows) == 4 and all(row["failure"] is None and row["runs"] >= 10 for row in result.rows)
    assert [row["partitions"] for row in result.rows] == [1, 1, 3, 3]
    model = LiteRTModel(files["swish_int8"])
    tensors = np.random.default_rng(0).integers(-128, 128, (3, *model.input_shape[1:]), dtype=np.int8)
    (tmp_path / "in.bin").write_bytes(tensors.tobytes())
    with opened(device) as session:
        runner = KitRunner(session, build_runner("x86_64", Silent()))
        runner.install()
        runner.outputs(files["swish_int8"], tmp_path / "in.bin", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == b"".join(model.run_raw(tensor[None]).tobytes() for tensor in tensors)
    assert real_phone.left() == []
