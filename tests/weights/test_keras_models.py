"""Whole Keras models as users save them: taken over with equal answers, or refused with all that stands in the way."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from shared import without_values
from tutorial_models import L3, MODELS, Model, answers_of, randomized, short

from mnv3_tf.cli.main import main
from mnv3_tf.errors import CheckFailed, InputError
from mnv3_tf.metrics import softmax
from mnv3_tf.quantization.fold import trace
from mnv3_tf.weights.importing import import_weights
from mnv3_tf.weights.keras_models.importing import import_model

SIZE = (32, 48, 3)


@pytest.mark.slow
@pytest.mark.parametrize("case", MODELS)
@pytest.mark.usefixtures("short_is_known")
def test_a_model_of_the_tutorials(case: str, tmp_path: Path) -> None:
    """Package, size, activations, head and preprocessing are the file's; only the class names are not in it."""
    (take_over if case.startswith("Keras 2") else partial(without_values, take_over))(MODELS[case], tmp_path)


def take_over(model: Model, tmp_path: Path) -> None:
    source = randomized(model.build(SIZE, 4))
    source.save(tmp_path / f"model{model.suffix}")
    classes = max(source.output_shape[-1], 2)
    found = import_weights(tmp_path / f"model{model.suffix}", labels=[f"kind {n}" for n in range(classes)])
    assert {key: getattr(found.settings, key) for key in model.settings} == model.settings and found.model.input_shape[1:] == SIZE
    assert tuple(layer.name for layer in found.model.layers[-len(model.last):]) == model.last
    assert found.preprocessing is not None and (found.preprocessing.height, found.preprocessing.resize) == (32, "stretch")
    pixels = np.random.default_rng(1).integers(0, 256, (16, *SIZE)).astype(np.float32)
    wanted, given = answers_of(source, pixels, model.end), np.asarray(found.model(pixels), np.float64)
    if model.end == "softmax":
        given = np.log(softmax(given))
    assert np.ptp(wanted) > 0.05
    assert np.abs(given - wanted).max() <= 1e-5 * np.ptp(wanted)
    assert trace(found.model).classes == classes
    assert any("augmentation does nothing" in note for note in found.notes)


def own_network(flatten: bool = False) -> Any:
    """A small network of somebody's own, with what MobileNets are made of."""
    x = image = keras.Input((None, None, 3))
    x = L3.Resizing(24, 32)(x)
    x = L3.Normalization(mean=[120.0, 110.0, 100.0], variance=[900.0, 1600.0, 2500.0])(x)
    x = keras.ops.relu6(L3.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x))
    y = L3.SeparableConv2D(8, 3, padding="same", activation="relu6")(x)
    y = L3.BatchNormalization()(L3.Conv2D(8, 1)(y))
    x = L3.Add()([x, y])
    x = L3.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = L3.DepthwiseConv2D(3, strides=2)(x)
    x = L3.ReLU(6.0)(L3.BatchNormalization(scale=False)(x))
    gate = L3.Dense(4, activation="relu")(L3.GlobalAveragePooling2D()(x))
    gate = L3.Reshape((1, 1, 8))(L3.Dense(8, activation="hard_sigmoid")(gate))
    x = L3.Multiply()([x, gate])
    z = L3.Conv2D(12, 1)(x)
    x = z * (keras.ops.relu6(z + 3.0) / 6.0)
    x = L3.Flatten()(x if flatten else L3.AveragePooling2D((6, 8))(x))
    return randomized(keras.Model(image, L3.Dense(3, name="logits")(x / 2.0), name="mine"))


@pytest.mark.parametrize("flatten", [False, True])
def test_any_network_of_such_layers(flatten: bool) -> None:
    """Operators, separable convolutions, gates and heads of the user's own, and its own resizing and normalization."""
    source = own_network(flatten=flatten)
    found = import_model(source, labels=["a", "b", "c"])
    pixels = np.random.default_rng(1).integers(0, 256, (16, 24, 32, 3)).astype(np.float32)
    wanted, given = np.asarray(source(pixels, training=False)), np.asarray(found.model(pixels))
    assert np.abs(given - wanted).max() <= 1e-5 * np.ptp(wanted)
    assert found.settings.name == "imported" and found.model.input_shape == (None, 24, 32, 3)
    assert np.allclose(np.multiply(found.mean, 255), [120, 110, 100]) and np.allclose(np.multiply(found.std, 255), [30, 40, 50])
    kinds = [op.kind for op in trace(found.model).ops]
    assert kinds.count("hard_swish") == kinds.count("hard_sigmoid") == 1 and kinds.count("conv") == 7
    assert any("the model's own resizing" in note for note in found.notes)


def test_everything_that_stands_in_the_way_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = keras.Input((32, 32, 3))
    x = L3.Conv2D(8, 3, strides=2, padding="same", activation="swish")(image)
    x = L3.MaxPooling2D()(x)
    x = L3.LayerNormalization(name="norm_here")(x)
    x = L3.Conv2D(8, 3, groups=2)(x)
    x, _ = keras.ops.split(x, 2, axis=-1)
    x = L3.ReLU(name="after_add")(L3.Add()([x, L3.Conv2D(4, 1)(x)]))
    bad = keras.Model(image, L3.Dense(3)(L3.Flatten()(x)))
    with pytest.raises(InputError) as caught:
        import_model(bad)
    text = str(caught.value)
    assert text.count("\n- ") == 6
    for part in ("activation silu", "MaxPooling2D", "'norm_here' (LayerNormalization)", "grouped convolutions", "(Split)",
                 "'after_add' (ReLU)"):
        assert part in text
    # What is missing is asked for in one message, and nothing is written.
    plain = keras.Model(image, L3.Dense(3)(L3.GlobalAveragePooling2D()(L3.Conv2D(8, 3, activation="relu")(image))))
    plain.save(tmp_path / "plain.keras")
    with pytest.raises(SystemExit) as stopped:
        main(["import-weights", str(tmp_path / "plain.keras"), "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "it has no Rescaling: --mean" in error and "its 3 classes" in error
    assert "Traceback" not in error and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("build", "options", "part"), [
    (lambda image, x: keras.Model(image, L3.Dense(3, activation="sigmoid")(x)), {}, "a picture may have several labels"),
    (lambda image, x: keras.Model(image, L3.Dense(1, activation="relu")(x)), {}, "its one output comes from a ReLU"),
    (lambda image, x: keras.Model(image, L3.Dense(3)(x) + L3.Dense(3)(L3.GlobalAveragePooling2D()(L3.Conv2D(8, 3)(image)))), {},
     "takes the picture in another scale"),
    (lambda image, x: keras.Model(image, [L3.Dense(3)(x), L3.Dense(2)(x)]), {}, "has 1 inputs and 2 outputs"),
    (lambda image, x: keras.Model(image, L3.Dense(3)(x)), {"input_size": 64}, "its input is 32x32 pixels"),
    (lambda image, x: keras.Model(image, L3.Dense(3)(x)), {"mean": (0.5,) * 3, "std": (0.5,) * 3}, "rescales pixels itself"),
    (lambda image, x: keras.Model(image, L3.Dense(3)(x)), {"labels": ["a", "b"]}, "has 3 classes, but 2 class names"),
    (lambda image, x: keras.Model(image, L3.Dense(3)(L3.Activation("softmax")(x))), {}, "takes the result of a softmax")])
def test_what_contradicts_the_model(build: Callable[[Any, Any], Any], options: dict[str, Any], part: str) -> None:
    image = keras.Input((32, 32, 3))
    x = L3.GlobalAveragePooling2D()(L3.Conv2D(8, 3, activation="relu")(L3.Rescaling(1 / 255)(image)))
    with pytest.raises(InputError, match=part):
        import_model(build(image, x), **options)


def test_layers_whose_code_is_not_there(tmp_path: Path) -> None:
    """They are named before Keras tries; in memory too, since nobody knows what they compute."""
    @keras.saving.register_keras_serializable("mine")
    class Halved(L3.Layer):
        def call(self, x: Any) -> Any:
            return x / 2

    image = keras.Input((32, 32, 3))
    model = keras.Model(image, L3.Dense(2)(L3.GlobalAveragePooling2D()(L3.Conv2D(4, 3)(Halved()(L3.Rescaling(1 / 255)(image))))))
    model.save(tmp_path / "own.keras")
    with pytest.raises(InputError, match=r"own\.keras: has layers of your own.*mine>Halved"):
        import_weights(tmp_path / "own.keras")
    with pytest.raises(InputError, match="a layer of your own"):
        import_model(model)
    # Code in a file is never run.
    image = tf_keras.Input((32, 32, 3))
    x = tf_keras.layers.GlobalAveragePooling2D()(tf_keras.layers.Lambda(lambda x: x / 255)(image))
    tf_keras.Model(image, tf_keras.layers.Dense(2)(x)).save(tmp_path / "code.h5")
    with pytest.raises(InputError, match=r"code\.h5: has layers of your own.*Lambda"):
        import_weights(tmp_path / "code.h5")

    class Called(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(InputError, match="only functional and sequential models"):
        import_model(Called())


def test_a_translation_that_answers_otherwise_is_never_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mnv3_tf.weights.keras_models import translate

    weights = translate._weights
    monkeypatch.setattr(translate, "_weights", lambda layer: [value * 1.01 for value in weights(layer)])
    image = keras.Input((32, 32, 3))
    x = L3.GlobalAveragePooling2D()(L3.Conv2D(8, 3, activation="relu")(L3.Rescaling(1 / 255)(image)))
    with pytest.raises(CheckFailed, match="differ from the model"):
        import_model(keras.Model(image, L3.Dense(3)(x)), labels=["a", "b", "c"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("short_is_known")
def test_a_feature_extractor(tmp_path: Path) -> None:
    """Without a classifier it is a .keras file to train from; the pooling is not part of the last map."""
    source = randomized(short(keras, input_shape=(32, 32, 3), alpha=1.25, include_top=False, pooling="avg"))
    found = import_model(source, out=tmp_path / "features.keras")
    assert not found.include_top and found.classes is None and found.model.layers[-1].name == "head_conv_hard_swish"
    card = json.loads((tmp_path / "features.card.json").read_text())
    assert card["model"]["name"] == "short" and card["model"]["alpha"] == 1.25
    with pytest.raises(InputError, match="has no classifier, so it is not a run yet"):
        import_model(source, out=tmp_path / "run")


@pytest.mark.slow
def test_the_road_of_a_network_that_is_no_mobilenetv3(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ReLU6, squeeze-and-excite and a head of its own: quantized by both methods, one partition, verified, bundled."""
    labels = tmp_path / "labels.txt"
    labels.write_text("blue\ngreen\nred\n")
    source = own_network()
    source.compile("sgd", "mse")
    source.save(tmp_path / "mine.keras")

    def run(*arguments: object) -> None:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert stopped.value.code == 0, arguments

    run("import-weights", tmp_path / "mine.keras", "--labels", labels, "--out", tmp_path / "run")
    for method in ("ptq", "qat"):
        run("quantize", tmp_path / "run", "--data", pictures, "--method", method, "--out", tmp_path / method,
            "-o", "quantize.epochs=1", "-o", "quantize.calibration_pictures=32")
        run("convert", tmp_path / method, "--out", tmp_path / f"{method}.tflite")
        run("inspect", tmp_path / f"{method}.tflite", "--require", "int8", "--require", "one-partition")
        run("verify", tmp_path / f"{method}.tflite", "--data", pictures)
    run("bundle", tmp_path / "qat.tflite", "--out", tmp_path / "bundle", "--data", pictures)
    run("bundle", "--check", tmp_path / "bundle")
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--data", str(pictures), "--out", str(tmp_path / "trained"), "-o", f"model.weights={tmp_path / 'run'}"])
    assert stopped.value.code == 2 and "model.name is imported" in capsys.readouterr().err
