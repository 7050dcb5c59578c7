"""What many tests share: a small picture data set, and runs made from it once per session."""

import contextlib
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
from PIL import Image

TINY = ("model.alpha=0.25", "data.image_size=[32,48]", "train.epochs=8", "train.batch_size=16", "train.learning_rate=0.01",
        "augment.rotation=0", "augment.erase=0", "augment.brightness=0.1", "augment.contrast=0.1", "augment.saturation=0.1",
        "quantize.epochs=2", "quantize.learning_rate=2e-4", "quantize.teacher_weight=1", "quantize.batch_size=16",
        "quantize.calibration_pictures=48")
CLASSES = ("blue", "green", "red")


def make_pictures(folder: Path, per_class: int, seed: int) -> None:
    """Class folders of cloudy pictures, mostly of the colour that the class is named after."""
    rng = np.random.default_rng(seed)
    for index, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = rng.integers(0, 120, (5, 7, 3))
            pixels[..., index] += rng.integers(15, 70)
            clouds = Image.fromarray(pixels.astype(np.uint8)).resize((56, 40), Image.Resampling.BICUBIC)
            clouds.save(folder / name / f"{name}_{number}.png")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ val/ test/ with three classes that a small network tells apart."""
    root = tmp_path_factory.mktemp("pictures")
    for seed, (split, count) in enumerate((("train", 32), ("val", 12), ("test", 12))):
        make_pictures(root / split, count, seed)
    return root


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """Networks that a test builds start from the same weights whichever tests ran before."""
    import sys

    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The scan's cache of these tests is not the user's. The runner for devices is kept between sessions: each of its parts has
    a name that says its content, and is put there whole."""
    from device_lab.downloads import folder_for

    cache, kept = tmp_path_factory.mktemp("cache"), folder_for("runner")
    with contextlib.suppress(OSError):  # without a folder to keep it in, it is made anew
        kept.mkdir(parents=True, exist_ok=True)
        (cache / "mnv3-tf").mkdir()
        (cache / "mnv3-tf" / "runner").symlink_to(kept)
    os.environ["XDG_CACHE_HOME"] = str(cache)


@pytest.fixture(scope="session")
def tiny_settings() -> tuple[str, ...]:
    """Overrides with which everything takes seconds."""
    return TINY


@pytest.fixture(scope="session")
def tiny_config():
    """The same as a configuration."""
    from mnv3_tf.config import load_config

    return load_config(None, TINY)


@pytest.fixture(scope="session")
def float_run(pictures: Path, tiny_config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained float run."""
    from mnv3_tf.data import open_dataset
    from mnv3_tf.progress import Silent
    from mnv3_tf.training.trainer import train

    out = tmp_path_factory.mktemp("runs") / "float"
    train(open_dataset(pictures), tiny_config, out, progress=Silent())
    return out


@pytest.fixture(scope="session")
def ptq_run(pictures: Path, float_run: Path, tiny_config) -> Path:
    """Its post-training quantized run."""
    from mnv3_tf.data import open_dataset
    from mnv3_tf.progress import Silent
    from mnv3_tf.quantization.quantize import quantize

    out = float_run.parent / "ptq"
    quantize(float_run, open_dataset(pictures), tiny_config, out, method="ptq", progress=Silent())
    return out


@pytest.fixture(scope="session")
def qat_run(pictures: Path, float_run: Path, tiny_config) -> Path:
    """Its fine-tuned quantized run."""
    from mnv3_tf.data import open_dataset
    from mnv3_tf.progress import Silent
    from mnv3_tf.quantization.quantize import quantize

    out = float_run.parent / "qat"
    quantize(float_run, open_dataset(pictures), tiny_config, out, method="qat", progress=Silent())
    return out


# A very small network with everything that the big ones have.
TABLE = """blocks:
  - [3, 16, 16, true, relu, 2]
  - [3, 32, 24, false, relu, 2]
  - [3, 48, 24, false, hard_swish, 1]
  - [5, 64, 32, true, hard_swish, 2]
class_expand: 64
"""


@pytest.fixture(scope="session")
def small_runs(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `float` and `ptq` of four blocks."""
    import keras

    from mnv3_tf.config import load_config
    from mnv3_tf.data import open_dataset
    from mnv3_tf.progress import Silent
    from mnv3_tf.quantization.quantize import quantize
    from mnv3_tf.training.trainer import train

    folder = tmp_path_factory.mktemp("verify")
    (folder / "blocks.yaml").write_text(TABLE)
    config = load_config(None, [f"model.block_table={folder / 'blocks.yaml'}", "data.image_size=[32,48]", "train.epochs=12",
                                "train.batch_size=16", "train.learning_rate=0.01", "augment.rotation=0", "augment.erase=0",
                                "quantize.calibration_pictures=96"])
    keras.utils.set_random_seed(0)
    train(open_dataset(pictures), config, folder / "float", progress=Silent())
    quantize(folder / "float", open_dataset(pictures), config, folder / "ptq", method="ptq", progress=Silent())
    return folder


@pytest.fixture(scope="session")
def small_file(small_runs: Path) -> Path:
    """The int8 file of the run `ptq`."""
    from mnv3_tf.export.convert import convert, open_source

    return convert(open_source(small_runs / "ptq"), small_runs / "small.tflite").path


# A network of three blocks for tests that train it more than once.
THREE_BLOCKS = """blocks:
  - [3, 16, 16, true, relu, 2]
  - [3, 32, 24, false, relu, 2]
  - [3, 48, 24, false, hard_swish, 1]
class_expand: 32
"""


@pytest.fixture(scope="session")
def source_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float run of three blocks."""
    from mnv3_tf.config import load_config
    from mnv3_tf.data import open_dataset
    from mnv3_tf.progress import Silent
    from mnv3_tf.training.trainer import train

    folder = tmp_path_factory.mktemp("source")
    (folder / "blocks.yaml").write_text(THREE_BLOCKS)
    config = load_config(None, [f"model.block_table={folder / 'blocks.yaml'}", "data.image_size=[32,48]", "train.epochs=10",
                                "train.batch_size=16", "train.learning_rate=0.01", "augment.rotation=0", "augment.erase=0"])
    train(open_dataset(pictures), config, folder / "run", progress=Silent())
    return folder / "run"


@pytest.fixture(scope="session")
def tuning(source_run: Path) -> tuple[str, ...]:
    """Overrides of a short run that starts from it."""
    return (f"model.weights={source_run}", "data.image_size=[32,48]", "train.epochs=3", "train.batch_size=16",
            "augment.rotation=0", "augment.erase=0")


@pytest.fixture(scope="session")
def tuned_config(tuning: tuple[str, ...]):
    """The same as a configuration."""
    from mnv3_tf.weights.starting import load_settings

    return load_settings(None, tuning)
