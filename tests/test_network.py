"""The network: parameters, MACs, shapes and outputs equal to keras.applications', and what it offers beyond."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import mnv3_tf
from mnv3_tf.errors import InputError
from mnv3_tf.network import MobileNetV3, MobileNetV3Large, MobileNetV3Small, display_name
from mnv3_tf.profile import count_macs, profile
from mnv3_tf.spec import SPECS, Block, NetworkSpec

# (network, alpha, (height, width)): (parameters, MACs) at 1000 classes, counted on keras.applications 3.15.
GOLDENS = {
    ("large", 0.5, (224, 224)): (2702512, 73663088),
    ("large", 0.5, (96, 160)): (2702512, 24133520),
    ("large", 0.75, (224, 224)): (4012616, 154560624),
    ("large", 0.75, (96, 160)): (4012616, 49469072),
    ("large", 1.0, (224, 224)): (5507432, 216589760),
    ("large", 1.0, (96, 160)): (5507432, 69089600),
    ("large", 1.25, (224, 224)): (8286760, 349904800),
    ("large", 1.25, (96, 160)): (8286760, 111244384),
    ("large_minimalistic", 0.5, (224, 224)): (2288256, 69850736),
    ("large_minimalistic", 0.5, (96, 160)): (2288256, 22697360),
    ("large_minimalistic", 0.75, (224, 224)): (3069400, 148802544),
    ("large_minimalistic", 0.75, (96, 160)): (3069400, 47079440),
    ("large_minimalistic", 1.0, (224, 224)): (3948688, 209136704),
    ("large_minimalistic", 1.0, (96, 160)): (3948688, 65762240),
    ("large_minimalistic", 1.25, (224, 224)): (5788928, 340095904),
    ("large_minimalistic", 1.25, (96, 160)): (5788928, 106553440),
    ("small", 0.5, (224, 224)): (1599720, 24188688),
    ("small", 0.5, (96, 160)): (1599720, 8407792),
    ("small", 0.75, (224, 224)): (2051552, 43399344),
    ("small", 0.75, (96, 160)): (2051552, 14496080),
    ("small", 1.0, (224, 224)): (2554968, 56510400),
    ("small", 1.0, (96, 160)): (2554968, 18737216),
    ("small", 1.25, (224, 224)): (3660640, 87703648),
    ("small", 1.25, (96, 160)): (3660640, 28878752),
    ("small_minimalistic", 0.5, (224, 224)): (1451976, 21942032),
    ("small_minimalistic", 0.5, (96, 160)): (1451976, 7632112),
    ("small_minimalistic", 0.75, (224, 224)): (1742192, 40072880),
    ("small_minimalistic", 0.75, (96, 160)): (1742192, 13284688),
    ("small_minimalistic", 1.0, (224, 224)): (2056848, 52288448),
    ("small_minimalistic", 1.0, (96, 160)): (2056848, 17126464),
    ("small_minimalistic", 1.25, (224, 224)): (2886208, 82287200),
    ("small_minimalistic", 1.25, (96, 160)): (2886208, 26717600),
}


def reference(name: str, **arguments) -> keras.Model:
    """keras.applications' network of the same arguments."""
    maker = keras.applications.MobileNetV3Large if name.startswith("large") else keras.applications.MobileNetV3Small
    return maker(weights=None, minimalistic=name.endswith("minimalistic"), **arguments)


@pytest.mark.parametrize(("name", "alpha", "size"), [key for key in GOLDENS if key[1] != 1.25 or key[2] == (224, 224)])
def test_parameters_and_macs(name: str, alpha: float, size: tuple[int, int]) -> None:
    model = MobileNetV3(name, input_shape=(*size, 3), alpha=alpha)
    assert (model.count_params(), count_macs(model)) == GOLDENS[name, alpha, size]


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize(("alpha", "size"), [(1.0, (97, 65)), (0.75, (64, 64)), (0.35, (32, 48))])
def test_outputs_equal_keras_applications(name: str, alpha: float, size: tuple[int, int]) -> None:
    arguments = {"input_shape": (*size, 3), "alpha": alpha, "classes": 7, "classifier_activation": None}
    theirs, ours = reference(name, **arguments), MobileNetV3(name, **arguments)
    rng = np.random.default_rng(0)
    values = [np.abs(w) + rng.uniform(0.3, 1, w.shape) if "variance" in v.path else w + rng.normal(0, 0.1, w.shape)
              for v, w in zip(theirs.weights, theirs.get_weights(), strict=True)]
    theirs.set_weights(values)
    ours.set_weights(values)
    pixels = rng.integers(0, 256, (2, *size, 3)).astype(np.float32)
    expected = np.asarray(theirs(pixels))
    assert np.abs(np.asarray(ours(pixels)) - expected).max() < 1e-5 * max(np.abs(expected).max(), 1)


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_without_the_top(pooling: str | None) -> None:
    arguments = {"input_shape": (64, 96, 3), "include_top": False, "pooling": pooling, "include_preprocessing": False}
    theirs, ours = reference("small", **arguments), MobileNetV3Small(**arguments)
    ours.set_weights(theirs.get_weights())
    values = np.random.default_rng(0).uniform(-1, 1, (1, 64, 96, 3)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(ours(values)), np.asarray(theirs(values)), atol=1e-5)


def test_feature_pyramid() -> None:
    model = MobileNetV3Large(input_shape=(96, 160, 3), alpha=0.5, outputs="pyramid", include_top=False)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.output.items()}
    assert shapes == {"stride_2": (None, 48, 80, 8), "stride_4": (None, 24, 40, 16), "stride_8": (None, 12, 20, 24),
                      "stride_16": (None, 6, 10, 56), "stride_32": (None, 3, 5, 480)}
    maps = model(np.zeros((1, 96, 160, 3), np.float32))
    assert maps["stride_16"].shape == (1, 6, 10, 56)


def test_outputs_by_pattern() -> None:
    model = MobileNetV3Small(input_shape=(32, 32, 3), outputs=["stride_8", "block_0[56]_add"])
    assert list(model.output) == ["stride_8", "block_05_add", "block_06_add"]
    with pytest.raises(InputError, match=r"block_05_ad.*did you mean 'block_05_add'"):
        MobileNetV3Small(input_shape=(32, 32, 3), outputs="block_05_ad")


def test_layers_are_built_in_and_named() -> None:
    model = MobileNetV3Large(input_shape=(64, 64, 3), classes=3)
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    names = [row.name for row in profile(model)]
    assert len(set(names)) == len(names) and "block_07/depthwise" in names and "stem/conv" in names
    assert display_name("block_07_se_expand_hard_sigmoid") == "block_07/se_expand_hard_sigmoid"
    assert display_name("classifier") == "classifier"


def test_saved_models_load_with_plain_keras_in_a_new_process(tmp_path: Path) -> None:
    model = MobileNetV3Small(input_shape=(32, 40, 3), classes=4)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3)).astype(np.float32)
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", pixels)
    script = ("import keras, numpy as np, sys; m = keras.models.load_model(sys.argv[1] + '/m.keras')\n"
              "np.save(sys.argv[1] + '/y.npy', np.asarray(m(np.load(sys.argv[1] + '/x.npy'))))\n"
              "assert 'mnv3_tf' not in sys.modules")
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), np.asarray(model(pixels)), atol=1e-6)


def test_the_first_convolution_sees_minus_one_to_one() -> None:
    model = MobileNetV3Small(input_shape=(32, 32, 3))
    rescaled = keras.Model(model.input, model.get_layer("rescale").output)
    for pixel, expected in ((0, -1.0), (255, 1.0)):
        np.testing.assert_allclose(np.asarray(rescaled(np.full((1, 32, 32, 3), pixel, np.uint8))), expected, atol=1e-6)


def test_head_widths_and_dropout() -> None:
    model = MobileNetV3Small(input_shape=(32, 32, 3), alpha=0.5, class_squeeze=200, class_expand=77, inplanes=24, classes=2,
                             dropout=0)
    assert model.get_layer("head_conv").output.shape[-1] == 104  # 200 * 0.5 to a multiple of 8, not below 90%
    assert model.get_layer("head_expand").output.shape[-1] == 77
    assert model.get_layer("stem_conv").output.shape[-1] == 24
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in model.layers)


def test_a_users_own_table() -> None:
    spec = NetworkSpec("own", (Block(3, 16, 16, False, "relu", 2), Block(5, 48, 24, True, "hard_swish", 2),
                               Block(5, 96, 24, True, "hard_swish", 1)), "hard_swish", class_expand=64)
    model = MobileNetV3(spec, input_shape=(32, 32, 3), classes=3)
    assert model(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 3)
    assert model.get_layer("block_03_add").output.shape == (None, 4, 4, 24)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"input_shape": (31, 64, 3)}, "at least 32"), ({"input_shape": (64, 64)}, "height, width, channels"),
    ({"alpha": 0}, "alpha"), ({"classes": 0}, "classes"), ({"dropout": 1.0}, "dropout"), ({"pooling": "mean"}, "pooling"),
    ({"inplanes": 0}, "inplanes"), ({"spec": "larg"}, "did you mean 'large'"),
])
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MobileNetV3(**arguments)


def test_the_package_is_cheap_to_import() -> None:
    script = "import sys, mnv3_tf; assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules); mnv3_tf.MobileNetV3"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert set(mnv3_tf.__all__) <= set(dir(mnv3_tf)) and all(getattr(mnv3_tf, name) for name in mnv3_tf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mnv3_tf.nothing  # noqa: B018


JAX = """
import sys
import numpy as np, keras
assert keras.backend.backend() == "jax"
from mnv3_tf.network import MobileNetV3
folder = sys.argv[1]
model = MobileNetV3("small", input_shape=(32, 40, 3), classes=4, alpha=0.5)
model.load_weights(folder + "/m.weights.h5")
np.save(folder + "/y.npy", np.asarray(model(np.load(folder + "/x.npy"))))
assert "tensorflow" not in sys.modules, "the network pulled TensorFlow in"
"""


def run_on_jax(script: str, *arguments: str) -> None:
    import os

    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True,
                          env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr


def test_the_same_network_on_jax(tmp_path: Path) -> None:
    model = MobileNetV3("small", input_shape=(32, 40, 3), classes=4, alpha=0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3)).astype(np.float32)
    model.save_weights(tmp_path / "m.weights.h5")
    np.save(tmp_path / "x.npy", pixels)
    run_on_jax(JAX, str(tmp_path))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), np.asarray(model(pixels)), rtol=1e-4, atol=1e-5)


TRAIN_ON_JAX = """
import sys
from mnv3_tf.config import load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.progress import Silent
from mnv3_tf.training.trainer import train
progress = Silent()
train(open_dataset(sys.argv[1]), load_config(None, sys.argv[3:]), sys.argv[2], progress=progress)
assert any(line.startswith("jax on") for line in progress.lines), progress.lines
"""


@pytest.mark.slow
def test_training_on_jax(pictures: Path, tiny_settings: tuple[str, ...], tmp_path: Path) -> None:
    """The whole float side runs on JAX, and TensorFlow evaluates what it leaves."""
    from mnv3_tf.export.classifier import open_classifier
    from mnv3_tf.export.evaluate import evaluate
    from mnv3_tf.files import read_json
    from mnv3_tf.progress import Silent

    run_on_jax(TRAIN_ON_JAX, str(pictures), str(tmp_path / "run"), *tiny_settings)
    recorded = read_json(tmp_path / "run" / "metrics.json")["test"]["top1"]
    assert recorded >= 0.9
    assert evaluate(open_classifier(tmp_path / "run"), pictures, progress=Silent()).scores.top1 == recorded
