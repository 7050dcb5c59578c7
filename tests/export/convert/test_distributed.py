"""A network that was trained under a distribution strategy goes down the road like any other."""

import subprocess
import sys
from pathlib import Path

import pytest
from shared import HERE

SCRIPT = """
import sys
sys.modules.update(matplotlib=None, sklearn=None)  # which Keras would import for nothing
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from mnv3_tf import MobileNetV3, read_block_table
from mnv3_tf.export.convert.convert import Convertible, convert
from mnv3_tf.data import Preprocessing
from mnv3_tf.tflite.runtime import LiteRTModel
from mnv3_tf.quantization.fold import trace
from pathlib import Path

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
rng = np.random.default_rng(0)
pixels, labels = rng.integers(0, 256, (16, 32, 48, 3)).astype("float32"), rng.integers(0, 3, 16)
with strategy.scope():
    model = MobileNetV3(read_block_table(sys.argv[2]), input_shape=(32, 48, 3), classes=3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
model.fit(pixels, labels, batch_size=8, epochs=1, verbose=0)
out = Path(sys.argv[1])
model.save(out / "model.keras")
loaded = keras.models.load_model(out / "model.keras", compile=False)
# Not what `model` predicts here: each replica has BatchNorm statistics of its own, and the first one's are saved.
expected = np.asarray(loaded(pixels, training=False))
contract = Preprocessing(height=32, width=48)
for number, given in enumerate((model, loaded)):
    source = Convertible(out / "model.keras", trace(given), None, contract, ("a", "b", "c"))
    made = convert(source, out / f"{number}.tflite", format="float32")
    np.testing.assert_allclose(LiteRTModel(made.path).predict(pixels), expected, rtol=1e-3, atol=1e-4)
print("converted")
"""


@pytest.mark.slow
def test_a_model_of_two_replicas_converts(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), str(HERE / "one_block.yaml")],
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("converted\n"), done.stderr[-2000:]
