"""Training on several devices, of one process and of two, is training on one."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image
from shared import HERE, Shared

from mnv3_tf.data import Preprocessing, Sample, Samples
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json, write_json
from mnv3_tf.training import devices as module
from mnv3_tf.training.devices import Devices
from mnv3_tf.training.state import SavedState

# As where TensorFlow is not installed, which starts sooner.
ALONE = """
import sys
class Lacking:
    def find_spec(name, *_):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Lacking)
"""
# One of two processes. The second is killed in the second epoch.
ONE_OF_TWO = ALONE + """
import os, signal
from mnv3_tf.training import processes
processes.HEARTBEAT_SECONDS = 10
processes.is_last = lambda step: step == 9 and processes.index() == 1 and os.kill(os.getpid(), signal.SIGKILL)
from mnv3_tf.cli.main import main
main(sys.argv[1:])
"""
# Whole runs on one device and on four, and that of the two processes to its end, on one and on four. Then BatchNorm's statistics.
IN_ONE = ALONE + """
import json, os
from mnv3_tf import train
folder, pictures = sys.argv[1:]
settings = json.load(open(folder + "/settings.json"))
for devices in (1, 4):
    settings["train.devices"] = devices
    said = train(pictures, f"{folder}/{devices}", settings=settings, progress=None)
    train(pictures, f"{folder}/resumed_{devices}", settings={"train.devices": devices}, resume=True, progress=None)

import keras, numpy as np
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import read_block_table
from mnv3_tf.training import batchnorm
from mnv3_tf.training import devices as module
from mnv3_tf.training.devices import Devices
pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 32, 3)).astype(np.uint8)
for devices in (1, 4):
    keras.utils.set_random_seed(0)
    with Devices(devices).scope():
        model = MobileNetV3(read_block_table(settings["model.block_table"]), input_shape=(32, 32, 3), classes=3)
        measured = batchnorm.measure(model, pixels)
        batchnorm.adapt_statistics(model, pixels)
    np.savez(f"{folder}/statistics_{devices}", *[value for pair in measured.values() for value in pair], *model.get_weights())
"""


def test_devices_of_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Devices(None).notes == []
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1"])
    assert Devices(None).notes == Devices(1).notes == [
        "1 of 2 devices is used (gpu:0), since TensorFlow trains on one; KERAS_BACKEND=jax trains on all of them"]
    for wanted, says in ((2, "TensorFlow trains on one. Set KERAS_BACKEND=jax"), (3, r"there are 2 \(gpu:0, gpu:1\)")):
        with pytest.raises(InputError, match=says):
            Devices(wanted)


@pytest.mark.parametrize(("size", "pictures", "says"), [
    (10, 96, "A batch of 10 pictures cannot be spread evenly over 4 devices: give -o train.batch_size=8 or 12"),
    (6, 6, "give -o train.batch_size=4, or fewer"), (3, 3, "3 training pictures are fewer than the 4 devices: use fewer")])
def test_a_batch_that_cannot_be_spread(monkeypatch: pytest.MonkeyPatch, size: int, pictures: int, says: str) -> None:
    devices = Devices(None)
    devices.check_batch(size, pictures)
    monkeypatch.setattr(devices, "used", 4)
    with pytest.raises(InputError, match=says):
        devices.check_batch(size, pictures)
    devices.check_batch(8, 96)


@pytest.mark.parametrize(("accelerator", "wanted", "count", "here", "cores", "workers"), [
    (False, None, 1, 1, 16, None), (False, 8, 1, 1, 16, 8), (True, None, 1, 1, 16, 16), (True, 3, 2, 2, 16, 3),
    (True, None, 8, 4, 16, 4), (True, None, 4, 4, 6, 6)])
def test_what_prepares_pictures(monkeypatch: pytest.MonkeyPatch, accelerator: bool, wanted: int | None, count: int, here: int,
                                cores: int, workers: int | None) -> None:
    """One for each core with an accelerator; of a host's 16, unless this process was given some of its own."""
    devices = Devices(None)
    monkeypatch.setattr(devices, "processes", count)
    monkeypatch.setattr(module, "has_accelerator", lambda: accelerator)
    monkeypatch.setattr(module, "usable_cores", lambda: cores)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(module.processes, "on_this_host", lambda: here)
    assert devices.workers(wanted) == workers


def test_scores_are_of_the_pictures_that_can_be_read(tmp_path: Path) -> None:
    rows = []
    for number in range(200):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path := tmp_path / f"{number}.png")
        rows.append(Sample(path, number % 3))
    said: list[str] = []
    devices = Devices(None)
    held = devices.pictures(Samples.of(rows), Preprocessing(height=4, width=4), said.append)
    model = SimpleNamespace(predict_on_batch=lambda pixels: np.asarray(pixels)[:, 0, 0])
    for broken in (70, 150):
        rows[broken].path.write_bytes(b"no picture")
    for _ in range(2):
        logits, labels = map(np.concatenate, zip(*devices.answers(model, held, np.arange(200)), strict=True))
        assert labels.tolist() == [number for number in range(200) if number not in (70, 150)]
        assert np.array_equal(logits[:, 0], labels)
    assert len(held.broken) == 2 and [text.partition(": not a")[0] for text in sorted(said)] == [
        f"broken, left out: {tmp_path / '150.png'}", f"broken, left out: {tmp_path / '70.png'}"]
    rows[0].path.unlink()
    held = devices.pictures(held.samples, held.contract, said.append)
    with pytest.raises(InputError, match="3 broken pictures of 200 to measure on, which is more than 1%"):
        list(devices.answers(model, held, np.arange(200)))


@pytest.fixture(scope="module")
def runs(shared: Shared, pictures: Path) -> Path:
    """Runs on one device, four, and two processes of which one is killed."""
    pytest.importorskip("jax")
    return shared("devices", lambda folder: _train(folder, pictures))


def _train(folder: Path, pictures: Path) -> None:
    folder.mkdir()
    settings = {"model.block_table": str(HERE / "one_block.yaml"), "train.learning_rate": 0.01, "train.batch_size": 16,
                "train.epochs": 2, "train.checkpoint_minutes": 1e-6, "data.image_size": 32, "augment.rotation": 0,
                "augment.erase": 0, "augment.mixup": 0.2}
    write_json(folder / "settings.json", settings)
    environment = os.environ | {
        "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    overrides = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    both = [subprocess.Popen([sys.executable, "-c", ONE_OF_TWO, "train", "--data", str(pictures), "--out", str(folder / "two"),
                              "--coordinator", place, "--processes", "2", "--process", str(number), *overrides],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) for number in (0, 1)]
    said = [process.communicate(timeout=600) for process in both]
    write_json(folder / "two.json", [[process.returncode, *texts] for process, texts in zip(both, said, strict=True)])
    for devices in (1, 4):
        shutil.copytree(folder / "two", folder / f"resumed_{devices}")
    done = subprocess.run([sys.executable, "-c", IN_ONE, str(folder), str(pictures)], capture_output=True, text=True,
                          env=environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"})
    assert done.returncode == 0, done.stderr


def history(run: Path) -> list[dict[str, float]]:
    """The figures of its epochs."""
    return SavedState.read(run / "state" / "state.npz").counters.history


@pytest.mark.slow
def test_the_first_epoch_is_the_same_on_one_two_and_four_devices(runs: Path) -> None:
    one, two, four = (history(runs / name)[0] for name in ("1", "two", "4"))
    for other in (two, four):
        for key, value in one.items():
            if key != "pictures_per_second":
                assert other[key] == pytest.approx(value, abs=1e-5 if key == "train_loss" else 1e-3), key


@pytest.mark.slow
def test_statistics_of_batchnorm_do_not_depend_on_devices(runs: Path) -> None:
    one, four = (np.load(runs / f"statistics_{devices}.npz") for devices in (1, 4))
    assert len(one.files) > 20
    for name in one.files:
        np.testing.assert_allclose(four[name], one[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_process_that_is_killed_in_an_epoch_ends_the_other(runs: Path) -> None:
    (code, said, trouble), (killed, _, words) = read_json(runs / "two.json")
    assert (code, killed, said) == (1, 1, "")
    assert words.startswith("Error: This process ended by SIGKILL.") and words.count("\n") == 1
    last = trouble.splitlines()[-1]
    assert last.startswith(f"Error: Process 1 on {socket.gethostname()} is gone: killed") and "--resume" in last
    assert "Traceback" not in trouble and "Check failure" not in trouble and "2 devices (2 processes with 1 each)" in trouble


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_a_run_of_two_processes_goes_on_in_one(runs: Path, devices: int) -> None:
    """In the middle of an epoch, as if nothing had happened: nothing finished is lost, and the next batches are the next."""
    stopped = SavedState.read(runs / "two" / "state" / "state.npz").counters
    assert stopped.epoch == 1 and stopped.step in (2, 3)
    expected, found = (SavedState.read(runs / name / "state" / "state.npz") for name in ("1", f"resumed_{devices}"))
    assert len(found.counters.history) == 2
    for key in ("train_loss", "raw_val_loss", "ema_val_loss"):
        for before, after in zip(expected.counters.history, found.counters.history, strict=True):
            assert after[key] == pytest.approx(before[key], abs=1e-3)
    assert all(np.abs(a - b).max() < 1e-2 for a, b in zip(expected.variables, found.variables, strict=True) if a.size)
    assert read_json(runs / f"resumed_{devices}" / "run.json")["metrics"].keys() == {"val", "test"}
