"""One file, two backends: what TensorFlow saves runs on JAX, and the other way round; training runs on both."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from shared import COMMON, HERE, Shared, random_values

from mnv3_tf.files import read_json, write_json
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import read_block_table

SIZE = (32, 40, 3)
# Like `two_blocks.yaml`, whose shapes JAX compiles anyway, without what the minimalistic networks lack.
MINIMALISTIC = """
blocks:
  - [3, 16, 16, false, relu, 2]
  - [3, 48, 16, false, relu, 1]
activation: relu
class_expand: 32
"""
# Without most optimizations it compiles in half the time.
JAX = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
# One process for all checks, since JAX takes seconds to start and to compile.
ON_JAX = """
import json, os, sys
import numpy as np, keras
folder, pictures = sys.argv[1:]
facts = {"backend": keras.backend.backend(), "tensorflow_by_keras": "tensorflow" in sys.modules}
pixels = np.load(folder + "/pixels.npy")
plain = keras.models.load_model(folder + "/whole.keras")
facts["kit_needed"] = any(name.startswith("mnv3_tf") for name in sys.modules)
np.save(folder + "/whole_jax.npy", plain.predict_on_batch(pixels))

from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.profile import count_macs
from mnv3_tf.network.spec import read_block_table
facts["tensorflow_by_kit"] = "tensorflow" in sys.modules
minimalistic = MobileNetV3(read_block_table(folder + "/minimalistic.yaml"), input_shape=pixels.shape[1:], classes=3)
minimalistic.load_weights(folder + "/minimalistic.weights.h5")
np.save(folder + "/minimalistic_jax.npy", minimalistic.predict_on_batch(pixels))
facts["minimalistic"] = [minimalistic.count_params(), count_macs(minimalistic)]
minimalistic.save(folder + "/jax.keras")
json.dump(facts, open(folder + "/facts.json", "w"))

from mnv3_tf.data import open_dataset
from mnv3_tf.progress import Silent
from mnv3_tf.training.trainer import train
from mnv3_tf.weights.starting import load_settings
progress = Silent()
train(open_dataset(pictures), load_settings(None, json.load(open(folder + "/settings.json"))), folder + "/run", progress=progress)
assert any(line.startswith("jax on") for line in progress.lines), progress.lines
"""


@pytest.fixture(scope="module")
def jax_folder(shared: Shared, pictures: Path, one_block_run: Path) -> Path:
    """Files saved by TensorFlow, and what a process on JAX made of them: logits, facts, and a run."""
    pytest.importorskip("jax")
    settings = (*COMMON, "train.epochs=3", f"model.weights={one_block_run}", "train.freeze=stem", "train.unfreeze_epochs=1",
                "train.batchnorm=reestimate", "train.layer_decay=0.9", f"train.teacher={one_block_run}")
    return shared("jax", lambda folder: _on_jax(folder, pictures, settings))


def _on_jax(folder: Path, pictures: Path, settings: tuple[str, ...]) -> None:
    folder.mkdir()
    write_json(folder / "settings.json", settings)
    pixels = np.random.default_rng(1).integers(0, 256, (4, *SIZE)).astype(np.float32)
    np.save(folder / "pixels.npy", pixels)
    whole = MobileNetV3(read_block_table(HERE / "two_blocks.yaml"), input_shape=SIZE, classes=3)
    whole.set_weights(random_values(whole))
    whole.save(folder / "whole.keras")
    np.save(folder / "whole_tf.npy", np.asarray(whole(pixels)))
    (folder / "minimalistic.yaml").write_text(MINIMALISTIC)
    minimalistic = MobileNetV3(read_block_table(folder / "minimalistic.yaml"), input_shape=SIZE, classes=3)
    minimalistic.set_weights(random_values(minimalistic))
    minimalistic.save_weights(folder / "minimalistic.weights.h5")
    np.save(folder / "minimalistic_tf.npy", np.asarray(minimalistic(pixels)))
    done = subprocess.run([sys.executable, "-c", ON_JAX, str(folder), str(pictures)], capture_output=True, text=True,
                          env=os.environ | JAX)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "minimalistic"])
def test_logits_agree(jax_folder: Path, name: str) -> None:
    """A whole .keras file of every kind of block, and a weights file of a network without squeeze-excitation and hard-swish."""
    expected, found = np.load(jax_folder / f"{name}_tf.npy"), np.load(jax_folder / f"{name}_jax.npy")
    assert np.ptp(expected) > 0.01
    assert np.abs(found - expected).max() < 1e-4 * max(np.abs(expected).max(), 1)


@pytest.mark.slow
def test_the_network_needs_no_tensorflow_on_jax(jax_folder: Path) -> None:
    facts = read_json(jax_folder / "facts.json")
    assert facts["backend"] == "jax" and not facts["kit_needed"]
    if facts["tensorflow_by_keras"]:
        pytest.skip("this Keras imports TensorFlow by itself")
    assert not facts["tensorflow_by_kit"]


@pytest.mark.slow
def test_counts_do_not_depend_on_the_backend(jax_folder: Path) -> None:
    from mnv3_tf.network.profile import count_macs

    model = MobileNetV3(read_block_table(jax_folder / "minimalistic.yaml"), input_shape=SIZE, classes=3)
    assert read_json(jax_folder / "facts.json")["minimalistic"] == [model.count_params(), count_macs(model)]


@pytest.mark.slow
def test_what_jax_saves_opens_in_tensorflow(jax_folder: Path) -> None:
    model = keras.models.load_model(jax_folder / "jax.keras")
    assert keras.backend.backend() == "tensorflow"
    found = np.asarray(model(np.load(jax_folder / "pixels.npy")))
    np.testing.assert_allclose(found, np.load(jax_folder / "minimalistic_tf.npy"), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_training_on_jax(jax_folder: Path, pictures: Path) -> None:
    """Three epochs on JAX leave a whole run, and TensorFlow scores its model as JAX did."""
    from mnv3_tf.export.evaluate.classifier import Classifier
    from mnv3_tf.export.evaluate.evaluate import evaluate
    from mnv3_tf.progress import Silent

    run = jax_folder / "run"
    assert (run / "model.keras").exists() and len((run / "log.csv").read_text().splitlines()) == 4
    recorded = read_json(run / "metrics.json")["test"]
    scores = evaluate(Classifier(run), pictures, progress=Silent()).scores
    assert (scores.top1, scores.loss) == (recorded["top1"], pytest.approx(recorded["loss"], rel=1e-3))


@pytest.mark.slow
def test_fine_tuning_on_jax(jax_folder: Path, one_block_run: Path) -> None:
    """Frozen stem, stages, rates by layer, re-estimated BatchNorm and a teacher, from weights that TensorFlow saved."""
    run = jax_folder / "run"
    assert read_json(run / "metrics.json")["test"]["top1"] > 0.9
    before, after = (keras.models.load_model(folder / "model.keras") for folder in (one_block_run, run))
    # The kept epoch may be the first, which trains the top alone; the state holds the weights of the last.
    with np.load(run / "state" / "state.npz") as archive:
        last = [archive[f"variable_{i:04d}"] for i in range(len(after.variables))]
    assert [value.shape for value in last] == [tuple(variable.shape) for variable in after.variables]
    for variable, value in zip(after.variables, last, strict=True):
        variable.assign(value)
    for layer in before.layers:
        if layer.weights:
            pairs = zip(layer.get_weights(), after.get_layer(layer.name).get_weights(), strict=True)
            same = [np.array_equal(a, b) for a, b in pairs]
            assert all(same) if layer.name.startswith("stem") else not any(same), layer.name
