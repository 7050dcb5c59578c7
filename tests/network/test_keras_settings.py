"""Settings of Keras that belong to another project change nothing, and a backend that is not there is said in one line."""

import json
import os
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from mnv3_tf import backend
from mnv3_tf.backend import own_settings
from mnv3_tf.cli.options import quiet_libraries
from mnv3_tf.errors import InputError
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.keras_io import batch_logits, load_keras, save_keras
from mnv3_tf.network.spec import Block, NetworkSpec

SPEC = NetworkSpec("one", (Block(3, 16, 16, True, "hard_swish", 2),), "hard_swish", class_expand=32)
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
Made = tuple[dict[str, object], list[np.ndarray], np.ndarray]


def settings() -> tuple[object, ...]:
    return (keras.config.image_data_format(), keras.config.floatx(), keras.config.epsilon(), keras.config.dtype_policy().name)


def put(data_format: str, floatx: str, epsilon: float, policy: str) -> None:
    keras.config.set_image_data_format(data_format)
    keras.config.set_floatx(floatx)
    keras.config.set_epsilon(epsilon)
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def restored() -> Iterator[None]:
    before = settings()
    yield
    put(*before)


def made(folder: Path) -> Made:
    """Configuration, weights and answers of a network that is built, saved and loaded."""
    keras.utils.set_random_seed(3)
    model = MobileNetV3(SPEC, input_shape=(32, 32, 3), classes=3, name="m")
    save_keras(model, folder / "m.keras")
    loaded = load_keras(folder / "m.keras")
    assert all(variable.dtype == "float32" for variable in loaded.weights)
    return json.loads(json.dumps(model.get_config())), model.get_weights(), batch_logits(loaded, PIXELS)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """With the settings of these tests."""
    return made(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("others", [("channels_first", "float32", 1e-7, "float32"), ("channels_last", "float16", 1e-3, "float16"),
                                    ("channels_first", "float64", 1e-2, "float64")])
@pytest.mark.usefixtures("restored")
def test_the_network_is_the_same_bit_by_bit(others: tuple[str, str, float, str], expected: Made, tmp_path: Path) -> None:
    put(*others)
    found = made(tmp_path)
    assert settings() == others  # the program's own are as it left them

    def plain(config: object) -> object:  # shared objects are numbered by their place in memory
        if isinstance(config, list):
            return [plain(entry) for entry in config]
        if isinstance(config, dict):
            return {key: plain(value) for key, value in config.items() if key != "shared_object_id"}
        return config

    assert plain(found[0]) == plain(expected[0])
    for ours, theirs in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found[2], expected[2])


@pytest.mark.usefixtures("restored")
def test_a_policy_that_the_program_chose_is_followed() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    model = MobileNetV3(SPEC, input_shape=(32, 32, 3), classes=3)
    assert model.get_layer("stem_conv").compute_dtype == "float16" and keras.config.dtype_policy().name == "mixed_float16"


@pytest.mark.usefixtures("restored")
def test_settings_come_back_after_an_error() -> None:
    put("channels_first", "float64", 1e-3, "float64")
    with pytest.raises(ZeroDivisionError), own_settings():
        assert settings() == ("channels_last", "float32", 1e-7, "float32")
        raise ZeroDivisionError
    assert settings() == ("channels_first", "float64", 1e-3, "float64")


def test_a_saved_model_has_nothing_that_older_versions_of_keras_do_not_know(tmp_path: Path) -> None:
    made(tmp_path)
    with zipfile.ZipFile(tmp_path / "m.keras") as saved:
        text = saved.read("config.json").decode()
        assert saved.testzip() is None and set(saved.namelist()) == {"metadata.json", "config.json", "model.weights.h5"}
    assert not [word for word in ("renorm", "input_axes", "output_axes", "optional", "quantization_config") if f'"{word}' in text]
    assert '"momentum"' in text and '"epsilon"' in text


@pytest.mark.parametrize(("settings", "says"), [
    ({"backend": "nosuch"}, "keras.json in "), ({"floatx": "float8"}, "Invalid `floatx` configuration")])
def test_what_keras_cannot_be_loaded_with_is_one_line(settings: dict[str, str], says: str, tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = "from mnv3_tf.errors import InputError\ntry:\n import mnv3_tf; mnv3_tf.MobileNetV3\nexcept InputError as e: print(e)"
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"} | {"KERAS_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.count("\n") == 1 and says in done.stdout and "Set KERAS_BACKEND=tensorflow" in done.stdout, done.stderr


def test_a_backend_of_keras_that_the_kit_does_not_know_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(InputError, match=r"^Keras computes on numpy by keras.json in .* Set KERAS_BACKEND=tensorflow.*\.$"):
        runpy.run_path(backend.__file__)


def test_keras_is_taken_from_one_place() -> None:
    """Elsewhere its import would end in a traceback where the backend is not there."""
    root = Path(__file__).parents[2]
    files = [path for folder in ("mnv3_tf", "export", "cli") for path in (root / folder).rglob("*.py")]
    found = [path.relative_to(root).as_posix() for path in files if any(
        line.strip().startswith(("import keras", "from keras")) for line in path.read_text("utf-8").splitlines())]
    assert found == ["mnv3_tf/backend.py"]


def test_commands_take_the_memory_of_a_gpu_as_they_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    quiet_libraries()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    quiet_libraries()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"
