"""A very small network with everything that the big ones have, trained and quantized once."""

from pathlib import Path

import pytest

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
