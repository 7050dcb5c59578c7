"""The bundle in the hands of a real client: MediaPipe's ImageClassifier, as Android apps use it."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from device_lab.downloads import folder_for, kept
from device_lab.waiting import PATIENCE
from PIL import Image

from mnv3_tf.data import read_labels
from mnv3_tf.export.bundle import BundleOptions, make_bundle
from mnv3_tf.export.bundle.contract import read_app_contract
from mnv3_tf.progress import Silent
from mnv3_tf.tflite.runtime import LiteRTModel

pytestmark = pytest.mark.slow
PACKAGE = "mediapipe>=1.2,<1.3"


@pytest.fixture(scope="module")
def client() -> Path:
    """The Python of an environment with mediapipe, made once for this user."""
    def make(folder: Path) -> None:
        venv.create(folder, with_pip=True, clear=True)
        words = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", PACKAGE]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{PACKAGE} cannot be installed, so the real client is not tried: {done.stderr.strip().splitlines()[-1]}")

    return kept(folder_for("mediapipe", PACKAGE, sys.version), make) / "bin" / "python"


def photo_crops(count: int) -> list[np.ndarray]:
    """Crops of the two photos that scikit-learn carries, of many sizes and shapes."""
    from sklearn.datasets import load_sample_images

    rng, photos = np.random.default_rng(0), load_sample_images().images
    crops = []
    for number in range(count):
        photo = photos[number % 2]
        height, width = rng.integers(60, 400), rng.integers(60, 600)
        top, left = rng.integers(0, photo.shape[0] - height + 1), rng.integers(0, photo.shape[1] - width + 1)
        crops.append(np.ascontiguousarray(photo[top:top + height, left:left + width]))
    return crops


def ask(client: Path, model: Path, pictures: list[np.ndarray], folder: Path) -> list[dict[str, float]]:
    """The client's scores by label, for each picture."""
    np.savez(folder / "pictures.npz", **{f"{number:04d}": picture for number, picture in enumerate(pictures)})  # type: ignore[arg-type]
    script = Path(__file__).with_name("mediapipe_client.py")
    done = subprocess.run([str(client), str(script), str(model), str(folder / "pictures.npz"), str(folder / "answers.json")],
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads((folder / "answers.json").read_text())["answers"])


@pytest.mark.slow
@pytest.mark.parametrize("scores", [False, True])
def test_the_client_gives_the_same_scores_to_the_last_bit(scores: bool, small_file: Path, client: Path, tmp_path: Path) -> None:
    """Through MediaPipe's own resize, normalization and labels, on 120 pictures."""
    options = BundleOptions(client="mediapipe", scores=scores, goldens=1, license="Apache-2.0")
    folder = make_bundle(small_file, tmp_path / "b", options=options, progress=Silent()).folder
    contract, _ = read_app_contract(folder / "preprocessing.json")
    pictures = photo_crops(120)
    ours = LiteRTModel(folder / "model.tflite").predict(np.stack([contract.prepare(Image.fromarray(p)) for p in pictures]))
    theirs = ask(client, folder / "model.tflite", pictures, tmp_path)
    labels = read_labels(folder / "labels.txt")
    found = np.array([[answer[label] for label in labels] for answer in theirs])
    np.testing.assert_array_equal(found.argmax(axis=1), ours.argmax(axis=1))
    np.testing.assert_allclose(found, ours, atol=1e-6)
    assert len(set(found.argmax(axis=1).tolist())) > 1


@pytest.mark.slow
def test_the_models_own_contract_is_not_the_clients(small_file: Path, client: Path, tmp_path: Path) -> None:
    """Where a bundle asks for antialiasing, MediaPipe's answers differ: that is why the client's contract is offered."""
    folder = make_bundle(small_file, tmp_path / "b", options=BundleOptions(goldens=1), progress=Silent()).folder
    contract, _ = read_app_contract(folder / "preprocessing.json")
    pictures = photo_crops(40)
    ours = LiteRTModel(folder / "model.tflite").predict(np.stack([contract.prepare(Image.fromarray(p)) for p in pictures]))
    labels = read_labels(folder / "labels.txt")
    answers = ask(client, folder / "model.tflite", pictures, tmp_path)
    theirs = np.array([[answer[label] for label in labels] for answer in answers])
    assert np.abs(theirs - ours).max() > 0.01
