"""`mnv3 import-weights` as a user meets it."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from seeded import golden, tensors_of

from mnv3_tf.cli.main import main


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors and config.json, as the Hugging Face hub has them."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("hub")
    save_file(tensors_of(golden("timm", "tf_mobilenetv3_small_075", 0.75)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "architecture": "tf_mobilenetv3_small_075", "num_classes": 12, "pretrained_cfg": {
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.875, "interpolation": "bicubic",
            "license": "apache-2.0"}}))
    return folder


def test_a_folder_of_the_hub(timm_folder: Path, tmp_path: Path) -> None:
    """Name, normalization and preprocessing come from its config.json."""
    (tmp_path / "names.txt").write_text("".join(f"kind {n}\n" for n in range(12)))
    out = tmp_path / "m.keras"
    code, text, _ = run("import-weights", timm_folder / "model.safetensors", "--from", "timm", "--size", "64x96", "--labels",
                        tmp_path / "names.txt", "--out", out)
    assert code == 0, text
    assert f"Note: {timm_folder / 'config.json'} calls it tf_mobilenetv3_small_075." in text
    assert f"Imported: {out} (small at alpha 0.75, dialect timm_tf, 12 classes, input 64x96, 210 tensors)." in text
    assert "num_batches_tracked" in text
    from mnv3_tf.data import Preprocessing, read_labels

    contract = Preprocessing.read(tmp_path / "m.preprocessing.json")
    assert contract == Preprocessing(height=64, width=96, resize="crop", crop_fraction=0.875, interpolation="bicubic")
    assert read_labels(tmp_path / "m.labels.txt")[11] == "kind 11"
    card = json.loads((tmp_path / "m.card.json").read_text())
    assert card["preprocessing"] == contract.fingerprint() and card["licence"] == "apache-2.0"
    assert card["model_name"] == "tf_mobilenetv3_small_075"
    import keras

    assert keras.models.load_model(out).output_shape == (None, 12)
    from mnv3_tf.export.classifier import open_classifier

    classifier = open_classifier(out)
    assert classifier.contract == contract and classifier.labels[3] == "kind 3"
    assert classifier.logits(np.zeros((1, 64, 96, 3), np.uint8)).shape == (1, 12)


def test_json_and_the_given_name(timm_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "alone.safetensors"
    file.write_bytes((timm_folder / "model.safetensors").read_bytes())
    out = tmp_path / "m.keras"
    code, _, error = run("import-weights", file, "--from", "timm", "--out", out)
    assert code == 2 and "--dialect timm or --dialect timm_tf" in error and not out.exists()
    code, text, error = run("import-weights", file, "--from", "timm", "--model-name", "tf_mobilenetv3_small_075", "--size", 64,
                            "--out", out, "--json")
    report = json.loads(text)
    assert code == 0 and report["model"]["dialect"] == "timm_tf" and report["input"] == [64, 64, 3], error
    assert report["preprocessing"] is None and not (tmp_path / "m.preprocessing.json").exists()
    first = report["tensors"][0]
    assert first == {"source": "conv_stem.weight", "source_shape": [16, 3, 3, 3], "target": "stem_conv/kernel",
                     "shape": [3, 3, 3, 16], "transform": "OIHW -> HWIO"}


def test_errors_are_of_the_user_and_leave_nothing(timm_folder: Path, tmp_path: Path) -> None:
    file, out = timm_folder / "model.safetensors", tmp_path / "m.keras"
    for arguments, parts in (
            ((file, "--from", "timm", "--model", "large", "--alpha", 1, "--out", out),
             ("are not the weights of large at alpha 1", "These shapes are small at alpha 0.75: give --model small")),
            ((file, "--out", out), ("say which package saved it, with --from keras, torchvision, timm, paddle",)),
            ((file, "--from", "timm", "--size", "big", "--out", out), ("--size big: one side in pixels",)),
            ((file, "--from", "timm", "--out", tmp_path / "m.h5"), ("the model is written as a .keras file",)),
            ((tmp_path / "none.pth", "--from", "torchvision", "--out", out), ("none.pth: cannot be read",)),
            (("torchvision/mobilenet_v3_smal", "--out", out),
             ("no published weights of that name", "mobilenet_v3_small", "There is no file of that name either")),
            ((file, "--from", "timm", "--labels", tmp_path / "none.txt", "--out", out), ("none.txt: cannot be read",))):
        code, _, error = run("import-weights", *arguments)
        assert code == 2, error
        for part in parts:
            assert part in error
        assert "Traceback" not in error and not list(tmp_path.iterdir())


def test_published_weights_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By their name alone, network, dialect, normalization and preprocessing are known."""
    from mnv3_tf.weights.registry import cached_path, find_published

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entry = find_published("paddle/MobileNetV3_small_x0_35")
    path = cached_path(entry)
    path.parent.mkdir(parents=True)
    import pickle

    path.write_bytes(pickle.dumps(tensors_of(golden("paddle", "MobileNetV3_small_x0_35", 0.35)), protocol=2))
    out = tmp_path / "m.keras"
    code, text, error = run("import-weights", entry.name, "--out", out, "--json", "--dropout", 0.5)
    assert code == 0, error
    report = json.loads(text)
    kernel = next(row for row in report["tensors"] if row["target"] == "classifier/kernel")
    assert "times 0.5 (dropout of 0.5" in kernel["transform"] and report["model"]["dropout"] == 0.5
    assert report["model"]["name"] == "small" and report["model"]["alpha"] == 0.35 and report["input"] == [224, 224, 3]
    assert report["preprocessing"]["crop_fraction"] == 0.875 and report["licence"] == entry.licence
    assert np.allclose(report["mean"], [0.485, 0.456, 0.406])
    code, _, error = run("import-weights", entry.name, "--from", "timm", "--out", out)
    assert code == 2 and "was published by paddle" in error
