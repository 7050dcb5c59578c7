"""`mnv3 import-weights` as a user meets it."""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from peers.generate import tensor
from shared import HERE

from mnv3_tf.cli.main import main
from mnv3_tf.errors import InputError
from mnv3_tf.network.spec import SMALL_BLOCKS, SPECS, NetworkSpec, find_spec, in_dialect, read_block_table
from mnv3_tf.weights.sources.names import source_entries


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", autouse=True)
def _small_is_of_two_blocks() -> Iterator[None]:
    """What the command says and writes does not depend on how many blocks `small` has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPECS, "small", replace(SPECS["small"], blocks=SMALL_BLOCKS[:2]))
        yield


def tensors_of(spec: NetworkSpec, alpha: float) -> dict[str, np.ndarray]:
    """Seeded tensors of 12 classes under the names of the dialect's package."""
    entries = source_entries(spec.dialect.name.removesuffix("_tf"), spec, alpha, 12, [])
    return {entry.source: tensor(entry.source, entry.source_shape) for entry in entries}


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors and config.json, as the Hugging Face hub has them."""
    tensors = tensors_of(find_spec("small", "timm_tf"), 0.75)
    return hub_folder(tmp_path_factory.mktemp("hub"), {**tensors, "bn1.num_batches_tracked": np.array(7.0, np.float32)})


def hub_folder(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({
        "architecture": "tf_mobilenetv3_small_075", "num_classes": 12, "pretrained_cfg": {
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.875, "interpolation": "bicubic",
            "license": "apache-2.0"}}))
    return folder


@pytest.mark.slow
def test_a_folder_of_the_hub(timm_folder: Path, tmp_path: Path) -> None:
    """Name, normalization and preprocessing come from its config.json."""
    (tmp_path / "names.txt").write_text("".join(f"kind {n}\n" for n in range(12)))
    out = tmp_path / "m.keras"
    code, text, _ = run("import-weights", timm_folder / "model.safetensors", "--from", "timm", "--size", "64x96", "--labels",
                        tmp_path / "names.txt", "--out", out)
    assert code == 0, text
    assert f"Note: {timm_folder / 'config.json'} calls it tf_mobilenetv3_small_075." in text
    assert f"Imported: {out} (small at alpha 0.75, dialect timm_tf, 12 classes, input 64x96, 43 tensors)." in text
    assert "num_batches_tracked" in text
    from mnv3_tf.data import Preprocessing, read_labels

    contract = Preprocessing.read(tmp_path / "m.preprocessing.json")
    assert contract == Preprocessing(height=64, width=96, resize="crop", crop_fraction=0.875, interpolation="bicubic")
    assert read_labels(tmp_path / "m.labels.txt")[11] == "kind 11"
    card = json.loads((tmp_path / "m.card.json").read_text())
    assert card["preprocessing"] == contract.fingerprint() and card["licence"] == "apache-2.0"
    assert card["model_name"] == "tf_mobilenetv3_small_075"
    from mnv3_tf.export.evaluate.classifier import Classifier

    classifier = Classifier(out)
    assert classifier.contract == contract and classifier.labels[3] == "kind 3"
    assert classifier.logits(np.zeros((1, 64, 96, 3), np.uint8)).shape == (1, 12)


@pytest.mark.slow
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
            ((tmp_path / "none.safetensors", "--from", "timm", "--out", out), ("none.safetensors: cannot be read",)),
            (("detector.tflite", "--out", out), ("with --from tflite",)), (("model.json", "--out", out), ("with --from tfjs",)),
            ((file, "--from", "timm", "--alpha", "nan", "--out", out), ("alpha is nan; the width multiplier must be above 0",)),
            (("torchvision/mobilenet_v3_smal", "--out", out),
             ("no published weights of that name", "mobilenet_v3_small", "There is no file of that name either")),
            ((file, "--from", "timm", "--labels", tmp_path / "none.txt", "--out", out), ("none.txt: cannot be read",))):
        code, _, error = run("import-weights", *arguments)
        assert code == 2, error
        for part in parts:
            assert part in error
        assert "Traceback" not in error and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_published_weights_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By their name alone, network, dialect, normalization and preprocessing are known."""
    from mnv3_tf.weights.sources.registry import cached_path, find_published

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entry = find_published("paddle/MobileNetV3_small_x0_35")
    path = cached_path(entry)
    path.parent.mkdir(parents=True)
    import pickle

    path.write_bytes(pickle.dumps(tensors_of(find_spec("small", "paddle"), 0.35), protocol=2))
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


@pytest.mark.slow
def test_a_run_folder_goes_down_the_road(pictures: Path, tmp_path: Path) -> None:
    """Imported with class names, weights are a float run like any other; these are of a small network of one's own."""
    table = HERE / "one_block.yaml"
    timm_folder = hub_folder(tmp_path, tensors_of(in_dialect(read_block_table(table), "timm_tf"), 1.0))
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{name}\n" for name in ("blue", "green", "red", *(f"kind {n}" for n in range(9)))))
    folder = tmp_path / "run"
    arguments = ("import-weights", timm_folder / "model.safetensors", "--from", "timm", "--table", table, "--size", "64x96",
                 "--out", folder)
    code, _, error = run(*arguments)
    assert code == 2 and "names of its 12 classes are not known" in error and "--labels" in error
    code, text, error = run(*arguments, "--labels", names, "-o", "data.resize=pad")
    assert code == 0, error
    from mnv3_tf.artefacts.run_folder import open_run

    opened = open_run(folder)
    assert opened.labels()[:3] == ("blue", "green", "red") and opened.config().model.dialect == "timm_tf"
    assert opened.contract().resize == "pad" and opened.contract().height == 64
    # What was not given is as config.json says; the crop that belonged to its resizing is not.
    assert (opened.contract().interpolation, opened.contract().crop_fraction) == ("bicubic", 1.0)
    code, text, error = run("evaluate", folder, "--data", pictures, "--json")
    assert code == 0 and json.loads(text)["kind"] == "keras", error
    code, _, error = run("quantize", folder, "--data", pictures, "--out", tmp_path / "ptq", "--method", "ptq",
                         "-o", "quantize.calibration_pictures=48")
    assert code == 0, error
    code, text, error = run("diff", folder, tmp_path / "ptq", "--json")
    assert code in (0, 1), error
    code, _, error = run("import-weights", tmp_path / "none.pth", "--from", "torchvision", "--out", folder)
    assert code == 2 and "already holds files" in error


@pytest.mark.slow
def test_settings_of_pictures_come_on_top(timm_folder: Path, tmp_path: Path) -> None:
    from mnv3_tf.artefacts.run_folder import open_run
    from mnv3_tf.weights.importing import import_weights
    from mnv3_tf.weights.saving import save_run

    imported = import_weights(timm_folder / "model.safetensors", "timm", input_size=64, labels=[f"kind {n}" for n in range(12)])
    for overrides, crop in ((["data.strict=true"], 0.875), (["data.crop_fraction=0.5"], 0.5)):
        contract = save_run(imported, tmp_path / str(crop), overrides).contract()
        assert (contract.resize, contract.crop_fraction, contract.interpolation) == ("crop", crop, "bicubic")
    assert open_run(tmp_path / "0.875").config().data.strict
    with pytest.raises(InputError, match="only settings of the section data"):
        save_run(imported, tmp_path / "run", ["model.alpha=0.5"])
    with pytest.raises(InputError, match="it is not known how its pictures were prepared"):
        save_run(replace(imported, preprocessing=None), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_config_of_another_network_is_left_alone(timm_folder: Path, tmp_path: Path) -> None:
    """The user's word comes before the file beside the weights, and two words that disagree are refused."""
    file, out = timm_folder / "model.safetensors", tmp_path / "m.keras"
    options = ("--from", "timm", "--size", 64, "--out", out, "--json")
    code, text, error = run("import-weights", file, *options)
    assert code == 0, error
    assert f"mean and std of the input are as {timm_folder / 'config.json'} says" in json.loads(text)["notes"]
    code, text, error = run("import-weights", file, *options, "--model-name", "mobilenetv3_small_075")
    report = json.loads(text)
    assert code == 0 and np.allclose(report["mean"], [0.485, 0.456, 0.406]) and report["preprocessing"] is None, error
    assert any("is of tf_mobilenetv3_small_075, another network than was asked for" in note for note in report["notes"])
    code, _, error = run("import-weights", file, *options, "--model-name", "mobilenetv3_small_075", "--dialect", "timm_tf")
    assert code == 2
    assert "--dialect timm_tf: --model-name mobilenetv3_small_075 is small at alpha 0.75 in the dialect timm" in error
    for extra, said in ((("--model-name", "mobilenetv3_small_100"), "says already which network it is"),
                        (("--alpha", 0.5), "--alpha 0.5: timm/mobilenetv3_small_100.lamb_in1k is small at alpha 1"),
                        (("--dialect", "timm_tf"), "Leave --dialect out")):
        code, _, error = run("import-weights", "timm/mobilenetv3_small_100.lamb_in1k", "--out", tmp_path / "p.keras", *extra)
        assert code == 2 and said in error


@pytest.mark.slow
def test_a_part_of_a_checkpoint(timm_folder: Path, tmp_path: Path) -> None:
    import pickle

    tensors = tensors_of(find_spec("small", "paddle"), 0.35)
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps({"student": tensors, "teacher": tensors}, protocol=4))
    arguments = ("import-weights", tmp_path / "w.pdparams", "--from", "paddle", "--size", 64, "--out", tmp_path / "m.keras")
    code, _, error = run(*arguments)
    assert code == 2 and "Say which to take with --part" in error
    code, _, error = run(*arguments, "--part", "teacher")
    assert code == 0, error


def test_settings_of_pictures_go_with_a_run_folder(timm_folder: Path, tmp_path: Path) -> None:
    arguments = ("import-weights", timm_folder / "model.safetensors", "--from", "timm", "--out")
    code, _, error = run(*arguments, tmp_path / "m.keras", "-o", "data.resize=pad")
    assert code == 2 and "goes with a run folder" in error
    code, _, error = run(*arguments, tmp_path / "run", "-o", "model.alpha=0.5")
    assert code == 2 and "only settings of the section data" in error
