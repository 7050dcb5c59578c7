"""`.tflite` files and graph models imported whole: the model, and its comparison with the file."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from foreign_models import SIDE, SPEC, build, noise, randomize, relative

from benchmarks.peers.keras_applications import convert_model_standard
from mnv3_tf import MobileNetV3
from mnv3_tf.data.synthetic import synthetic_pictures
from mnv3_tf.errors import CheckFailed, InputError
from mnv3_tf.files import sha256
from mnv3_tf.network.spec import NetworkSpec
from mnv3_tf.tflite.runtime import LiteRTModel
from mnv3_tf.weights.graphs import importing as module
from mnv3_tf.weights.graphs.importing import import_foreign
from mnv3_tf.weights.saving import save_imported

TABLE = """blocks:
  - [3, 16, 16, false, relu, 1]
  - [5, 48, 24, true, relu, 2]
  - [3, 72, 24, true, hard_swish, 1]
  - [5, 96, 32, false, hard_swish, 2]
class_expand: 64
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "four.yaml"
    path.write_text(TABLE)
    return path


def written(model: keras.Model, path: Path, kind: str = "float32") -> Path:
    side = model.input_shape[1]
    path.write_bytes(convert_model_standard(model, kind, synthetic_pictures(8, side)))
    return path


@pytest.fixture(scope="module")
def float_file(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(network, tmp_path_factory.mktemp("float") / "m.tflite")


@pytest.mark.slow
def test_a_float_file(network: keras.Model, float_file: Path, table: Path, tmp_path: Path) -> None:
    imported = import_foreign(float_file, "tflite", table=table,
                              labels=["a", "b", "c", "d", "e"])
    comparison = imported.facts["comparison"]
    assert comparison["where"] == "logits" and comparison["largest"] < 1e-5 and comparison["limit"] == 1e-3
    assert relative(imported.model(noise()), network(noise())) < 1e-5
    assert imported.include_top and imported.classes == 5 and imported.settings.block_table == str(table)
    norm = imported.model.get_layer("block_02_expand_bn")
    assert np.allclose(norm.gamma, np.sqrt(1 + 1e-3), rtol=1e-6)
    assert np.all(np.asarray(norm.moving_mean) == 0) and np.all(np.asarray(norm.moving_variance) == 1)
    save_imported(imported, tmp_path / "out" / "m.keras")
    card = json.loads((tmp_path / "out" / "m.card.json").read_text())
    assert card["origin"] == "tflite" and card["classes"] == ["a", "b", "c", "d", "e"]
    rows = {row.target: row for row in imported.tensors}
    assert len(rows) == 2 * len([layer for layer in imported.model.layers if hasattr(layer, "kernel")])


@pytest.mark.slow
def test_the_command(float_file: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mnv3_tf.cli.main import main

    out = tmp_path / "m.keras"
    for arguments, code, part in (
            (("--table", table), 0,
             f"Imported: {out} (the network of {table} at alpha 1, dialect keras, 5 classes, input 32x32, "),
            (("--model", "large"), 2, "are not those of a network that the kit builds with name large"),
            (("--table", table, "--model-name", "x"), 2, "those of a tflite file are found by their order"),
            (("--table", table, "--part", "ema"), 2, "--part ema: is for weights that are found by their names"),
            (("--table", table, "--alpha", "inf"), 2, "alpha is inf; the width multiplier must be above 0")):
        with pytest.raises(SystemExit) as stopped:
            main(["import-weights", str(float_file), "--from", "tflite", "--out", str(out), *map(str, arguments)])
        printed = capsys.readouterr()
        assert (stopped.value.code or 0) == code and part in printed.out + printed.err
    out.unlink()
    assert "against the file itself (float32, 4 random pictures, logits)" in json.dumps(
        json.loads(out.with_name("m.card.json").read_text())["notes"])


@pytest.mark.slow
def test_a_softmax_and_another_size(network: keras.Model, table: Path, tmp_path: Path) -> None:
    softmax = keras.Model(network.input, keras.layers.Softmax()(network.output))
    imported = import_foreign(written(softmax, tmp_path / "m.tflite"), "tflite", table=table, input_size=(48, 64))
    assert imported.facts["comparison"]["where"] == "softmax" and imported.model.input_shape == (None, 48, 64, 3)


@pytest.mark.slow
def test_an_8_bit_file(table: Path, network: keras.Model, tmp_path: Path) -> None:
    imported = import_foreign(written(network, tmp_path / "m.tflite", "int8"), "tflite", table=table)
    comparison = imported.facts["comparison"]
    assert comparison["precision"] == "8 bits" and 0 < comparison["mean"] < 0.1
    assert any(note.startswith("against the file itself (8 bits") for note in imported.notes)


@pytest.mark.slow
def test_open_sizes(network: keras.Model, table: Path, tmp_path: Path) -> None:
    """TFLite's converter leaves the batch open; that is run as 1. Without height and width there is nothing to run."""
    import tensorflow as tf

    def converted(model: keras.Model) -> bytes:
        call = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec(model.input_shape, tf.float32))
        return tf.lite.TFLiteConverter.from_concrete_functions([call]).convert()

    path = tmp_path / "m.tflite"
    path.write_bytes(converted(network))
    assert LiteRTModel(path, fix_batch=True).dynamic_batch
    assert import_foreign(path, "tflite", table=table).facts["comparison"]["largest"] < 1e-5
    block = NetworkSpec("one", SPEC.blocks[:1], "hard_swish", class_expand=16)
    path.write_bytes(converted(MobileNetV3(block, input_shape=(None, None, 3), classes=2)))
    with pytest.raises(InputError, match="leaves height and width of its input open"):
        import_foreign(path, "tflite", table=table, input_size=32)


@pytest.mark.slow
def test_a_backbone_without_a_head(table: Path, tmp_path: Path) -> None:
    """Up to the last block; another task's layers follow."""
    body = build()
    x = body.get_layer("block_04_project_bn").output
    detector = randomize(keras.Model(body.input, keras.layers.Conv2D(6, 3, padding="same", activation="sigmoid")(x)))
    imported = import_foreign(written(detector, tmp_path / "m.tflite"), "tflite", table=table)
    assert not imported.include_top and imported.classes is None
    assert imported.facts["comparison"]["where"] == "block_04_project_bn"
    assert imported.facts["comparison"]["largest"] < 1e-5
    ours = imported.model(noise())
    theirs = keras.Model(body.input, x)(noise())
    assert relative(ours, theirs) < 1e-5


def test_a_model_that_answers_otherwise_is_refused(float_file: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mistake of the import would make it: one bias is off."""
    right = module.to_keras

    def wrong(*arguments: object, **options: object) -> object:
        assigned = right(*arguments, **options)  # type: ignore[arg-type]
        layer = assigned.model.get_layer("head_expand")
        layer.bias.assign(np.asarray(layer.bias) + 0.5)
        return assigned

    monkeypatch.setattr(module, "to_keras", wrong)
    with pytest.raises(CheckFailed, match=r"answers differently from the file.*allowed largest 0.001.*Nothing was written"):
        import_foreign(float_file, "tflite", table=table)


@pytest.mark.slow
def test_pixels_that_the_file_does_not_tell(float_file: Path, table: Path, tmp_path: Path) -> None:
    """Without its Rescaling layer, the file's input is normalized outside: by ImageNet's mean, say."""
    bare = build(include_preprocessing=False)
    path = written(bare, tmp_path / "m.tflite")
    with pytest.raises(InputError, match=r"m\.tflite: does not say what its float input holds.*Give --mean and --std"):
        import_foreign(path, "tflite", table=table)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    imported = import_foreign(path, "tflite", table=table, mean=mean, std=std)
    pixels = noise()
    seen = (pixels / 255 - np.float32(mean)) / np.float32(std)
    assert relative(imported.model(pixels), bare(seen)) < 1e-5
    assert np.allclose(imported.mean, mean) and np.allclose(imported.std, std)
    with pytest.raises(InputError, match=r"says itself how pixels become its input"):
        import_foreign(float_file, "tflite", table=table, mean=mean, std=std)


@pytest.mark.slow
def test_a_graph_model(tfjs: Path, network: keras.Model, table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a tfjs file\. Give --from tfjs"):
        import_foreign(tfjs, "tflite", table=table)
    imported = import_foreign(tfjs.parent, "tfjs", table=table)
    assert relative(imported.model(noise()), network(noise())) < 1e-5
    assert imported.facts["comparison"] is None and any("were not compared" in note for note in imported.notes)
    assert imported.model.input_shape == (None, SIDE, SIDE, 3)
    save_imported(imported, tmp_path / "m.keras")
    card = json.loads((tmp_path / "m.card.json").read_text())
    assert card["source"] == {"file": "model.json", "sha256": sha256(tfjs)}
    assert card["weight_files"] == {"model.bin": sha256(tfjs.with_name("model.bin"))}
