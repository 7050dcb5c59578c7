"""The file on other processors, as parity stages."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from device_lab.phone import SimulatedPhone

from mnv3_tf.errors import KitError
from mnv3_tf.export.benchmark.devices.bench import run_on_device
from mnv3_tf.export.benchmark.devices.emulator import run_on_emulated_arm
from mnv3_tf.export.verify import open_chain, verify
from mnv3_tf.export.verify.result import Verification
from mnv3_tf.export.verify.stages import ARM, PHONE, XNNPACK
from mnv3_tf.progress import Silent
from mnv3_tf.tflite.runtime import LiteRTModel

pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")


@pytest.fixture
def verification(phone: Callable[..., SimulatedPhone], small_file: Path, pictures: Path) -> Verification:
    """Of a file that a phone answers rightly, and another processor as if its kernels were wrong: every picture's classes change
    places. With the run's limits, on few pictures."""
    def wrong(model: Path, tensors: Path, outputs: Path) -> None:
        runtime = LiteRTModel(model)
        given = np.fromfile(tensors, runtime.input_dtype).reshape(-1, *runtime.input_shape)
        np.concatenate([runtime.run_raw(tensor)[:, ::-1] for tensor in given]).tofile(outputs)

    sim = phone()
    limits = replace(open_chain(small_file).float_run.config().verify, pictures=12, layer_pictures=2)
    elsewhere = {PHONE: partial(run_on_device, f"adb:{sim.serial}", progress=Silent()), ARM: wrong}
    found = verify(open_chain(small_file), pictures, elsewhere=elsewhere, limits=limits, progress=Silent())
    assert sim.settled()
    return found


@pytest.mark.slow
def test_the_stages_of_other_processors(verification: Verification) -> None:
    """The phone's holds; the other's alone breaks, so that the file does not pass."""
    right, wrong = verification.stages[-2:]
    assert (right.name, right.status, right.previous.against) == (PHONE, "holds", XNNPACK)  # type: ignore[union-attr]
    assert right.checks[-1].text == "its output bytes are this machine's on 12 of 12 pictures"
    assert not verification.passed and verification.broken_stages() == [ARM] == [wrong.name], verification.verdict()
    assert "its output bytes are this machine's on" in wrong.checks[-1].text and not wrong.checks[-1].passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_int8", "swish_int8", "pixel_uint8"])
def test_emulated_arm_gives_the_same_bytes(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    if not shutil.which("qemu-aarch64"):
        pytest.skip("no qemu-aarch64 here (apt install qemu-user), so ARM is not emulated")
    model = LiteRTModel(files[name])
    limits = np.iinfo(model.input_dtype)
    tensors = np.random.default_rng(0).integers(limits.min, limits.max, (20, *model.input_shape), dtype=model.input_dtype,
                                                endpoint=True)
    (tmp_path / "in.bin").write_bytes(tensors.tobytes())
    run_on_emulated_arm(files[name], tmp_path / "in.bin", tmp_path / "out.bin", Silent())
    expected = b"".join(model.run_raw(tensor).tobytes() for tensor in tensors)
    found = np.frombuffer((tmp_path / "out.bin").read_bytes(), model.output_dtype).astype(int)
    assert np.abs(found - np.frombuffer(expected, model.output_dtype)).max() <= 1
    # What runs in XNNPACK is equal to the byte; kernels outside of it may differ in the last step.
    assert name == "swish_int8" or (tmp_path / "out.bin").read_bytes() == expected


def test_without_the_emulator_it_is_said(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KitError, match="apt install qemu-user"):
        run_on_emulated_arm(files["plain_int8"], tmp_path / "in.bin", tmp_path / "out.bin", Silent())
