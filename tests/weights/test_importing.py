"""Imported models: the packages' own answers, what is written, and what a new process makes of it."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers.generate import pictures, tensor
from seeded import golden, tensors_of
from shared import HERE, without_values
from tutorial_models import short

from mnv3_tf.errors import InputError
from mnv3_tf.network.spec import in_dialect, read_block_table
from mnv3_tf.weights.importing import Imported, import_tensors, import_weights
from mnv3_tf.weights.saving import save_imported
from mnv3_tf.weights.sources.names import source_entries

# Networks of each origin; the others, with the packages themselves, in `make peers`.
NETWORKS = [("torchvision", "mobilenet_v3_small", 0.35), ("timm", "mobilenetv3_small_050", 0.5),
            ("timm", "tf_mobilenetv3_small_075", 0.75), ("paddle", "MobileNetV3_small_x0_35", 0.35),
            ("keras", "MobileNetV3Small", 0.5), ("torchvision", "mobilenet_v3_large", 0.75),
            ("timm", "mobilenetv3_large_100", 1.0), ("timm", "tf_mobilenetv3_large_minimal_100", 1.0),
            ("paddle", "MobileNetV3_large_x1_25", 1.25)]


def imported(package: str, model_name: str, alpha: float, **options: Any) -> tuple[Imported, dict[str, Any]]:
    variant = golden(package, model_name, alpha)
    options = {"dialect": variant["dialect"], "input_size": tuple(map(int, variant["size"].split("x"))), **options}
    return import_tensors(tensors_of(variant), Path(f"{model_name}.file"), package, **options), variant


def import_and_ask(package: str, model_name: str, alpha: float, count: int = 2) -> tuple[Imported, np.ndarray]:
    """What is imported, whose model keeps no values, and its answers."""
    def run() -> tuple[Imported, np.ndarray]:
        result, _ = imported(package, model_name, alpha)
        return result, answers(result.model, count)

    return without_values(run)


def answers(model: Any, count: int) -> np.ndarray:
    height, width, _ = model.input_shape[1:]
    return np.asarray(model(pictures(count, height, width).astype(np.float32)))


@pytest.mark.slow
@pytest.mark.parametrize(("package", "model_name", "alpha"), NETWORKS)
def test_the_answers_are_the_packages_own(package: str, model_name: str, alpha: float) -> None:
    """The package ran with the same seeded weights and pictures (128 x 96 pixels) when the goldens were made."""
    variant = golden(package, model_name, alpha)
    wanted = np.array(variant["logits"])
    result, given = import_and_ask(package, model_name, alpha, len(wanted))
    assert given.dtype == np.float32 and given.shape == (2, 12)
    extent = wanted.max() - wanted.min()
    assert np.abs(given - wanted).max() < 1e-4 * extent
    # The answers depend on the picture far more than that, or a mistake before the pooling would go unnoticed.
    assert np.abs(wanted[0] - wanted[1]).mean() > 2e-3 * extent
    assert (result.settings.name, result.settings.alpha, result.settings.dialect) == (
        variant["name"], alpha, variant["dialect"])


def test_the_seeded_weights_reach_all_sides_of_the_knees() -> None:
    """Of hard-swish and hard-sigmoid: else equal answers would prove little."""
    import keras

    def before_knees() -> dict[str, Any]:
        result, _ = imported("torchvision", "mobilenet_v3_small", 0.35)
        layers = [layer for layer in result.model.layers if layer.name.endswith(("_hard_swish", "_hard_sigmoid"))]
        return keras.Model(result.model.input, {layer.name: layer.input for layer in layers})(
            pictures(2, 128, 96).astype(np.float32))

    found = without_values(before_knees)
    for ending, least in (("_hard_swish", 0.002), ("_hard_sigmoid", 0.05)):
        values = np.concatenate([np.ravel(value) for name, value in found.items() if name.endswith(ending)])
        shares = [(values < -3).mean(), (np.abs(values) <= 3).mean(), (values > 3).mean()]
        assert min(shares) > least, (ending, shares)


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    {"batchnorm_epsilon": 1e-3}, {"symmetric_padding": False}, {"std": (0.229, 0.224, 0.224)}, {"hard_sigmoid_slope": 0.17}])
def test_the_smallest_mistake_in_a_dialect_would_be_noticed(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from mnv3_tf.network.spec import DIALECTS

    monkeypatch.setitem(DIALECTS, "timm", replace(DIALECTS["timm"], **change))
    wanted = np.array(golden("timm", "mobilenetv3_small_050", 0.5)["logits"])
    _, given = import_and_ask("timm", "mobilenetv3_small_050", 0.5)
    assert np.abs(given - wanted).max() > 1e-3 * (wanted.max() - wanted.min())


@pytest.fixture(scope="module")
def paddle(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """From a file as PaddlePaddle writes it: a pickled dict of arrays."""
    path = tmp_path_factory.mktemp("source") / "MobileNetV3_small_x0_35.pdparams"
    path.write_bytes(pickle.dumps(tensors_of(golden("paddle", "MobileNetV3_small_x0_35", 0.35)), protocol=2))
    return import_weights(path, "paddle", input_size=(97, 129), labels=[f"class {n}" for n in range(12)])


def test_report(paddle: Imported) -> None:
    report = json.loads(json.dumps(paddle.report))
    assert report["classes"] == 12 and report["include_top"] is True and report["input"] == [97, 129, 3]
    assert report["model"]["name"] == "small" and report["model"]["alpha"] == 0.35 and report["model"]["dialect"] == "paddle"
    assert report["notes"] == ["the shapes are those of small at alpha 0.35"]
    rows = {row["source"]: row for row in report["tensors"]}
    assert len(rows) == len(paddle.model.weights)
    assert rows["blocks.0.mid_se.conv2.weight"] == {
        "source": "blocks.0.mid_se.conv2.weight", "source_shape": [8, 2, 1, 1], "target": "block_01_se_expand/kernel",
        "shape": [1, 1, 2, 8], "transform": "OIHW -> HWIO, times 1.2 (hard-sigmoid of slope 0.2)"}
    assert report["left_out"] == []


def made(table: Path, origin: str, classes: int) -> dict[str, np.ndarray]:
    """Seeded tensors of a network of one's own, under the names of a package."""
    spec = in_dialect(read_block_table(table), origin)
    return {entry.source: tensor(entry.source, entry.source_shape) for entry in source_entries(origin, spec, 1.0, classes, [])}


@pytest.mark.slow
def test_saved_and_loaded_in_a_new_process(tmp_path: Path) -> None:
    """By Keras alone: nothing of this kit is needed, for an imported network as for one of the kit's own."""
    from mnv3_tf import MobileNetV3

    table = HERE / "two_blocks.yaml"
    result = import_tensors(made(table, "paddle", 4), tmp_path / "x.pdparams", "paddle", table=table, input_size=(33, 47),
                            labels=list("abcd"))
    (tmp_path / "x.pdparams").touch()
    save_imported(result, tmp_path / "p.keras")
    own = MobileNetV3(read_block_table(HERE / "one_block.yaml"), input_shape=(32, 40, 3), classes=4)
    own.save(tmp_path / "own.keras")
    pixels = {"p": pictures(2, 33, 47).astype(np.float32), "own": pictures(2, 32, 40).astype(np.float32)}
    np.savez(tmp_path / "x.npz", **pixels)
    script = ("import sys\n"
              "sys.modules.update(matplotlib=None, sklearn=None)  # which Keras would import for nothing\n"
              "import numpy as np, keras\n"
              "given = np.load('x.npz')\n"
              "np.savez('y.npz', **{name: keras.models.load_model(name + '.keras')(given[name]) for name in given})\n"
              "assert not any(name.startswith('mnv3_tf') for name in sys.modules)\n"
              "import mnv3_tf\n"
              "assert mnv3_tf.MobileNetV3.__module__ == 'mnv3_tf.models'\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "y.npz")
    for name, model, difference in (("p", result.model, 1e-4), ("own", own, 1e-6)):
        wanted = np.asarray(model(pixels[name]))
        assert np.ptp(wanted) > 0.01
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=difference)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["own.keras", "p.card.json", "p.keras", "p.labels.txt", "x.npz", "x.pdparams", "y.npz"]


@pytest.mark.slow
def test_card_labels_and_what_an_earlier_import_left(paddle: Imported, tmp_path: Path) -> None:
    from mnv3_tf.artefacts.card import read_card
    from mnv3_tf.data import read_labels
    from mnv3_tf.files import sha256

    out = tmp_path / "m" / "p.keras"
    save_imported(paddle, out)
    card = read_card(out)
    assert card is not None and card["kind"] == "imported weights" and card["origin"] == "paddle"
    assert card["classes"] == [f"class {n}" for n in range(12)] == list(read_labels(out.with_name("p.labels.txt")))
    assert card["source"] == {"file": "MobileNetV3_small_x0_35.pdparams", "sha256": sha256(paddle.source)}
    assert card["model"]["dialect"] == "paddle" and card["model"]["alpha"] == 0.35 and card["class_count"] == 12
    assert card["files"] == {name: sha256(out.with_name(name)) for name in ("p.keras", "p.labels.txt")}
    assert card["mean"] == [0.485, 0.456, 0.406] and card["preprocessing"] is None
    save_imported(replace(paddle, labels=None), out)  # labels of another import would be wrong ones
    assert not out.with_name("p.labels.txt").exists()
    assert read_card(out)["classes"] is None


@pytest.mark.parametrize(("package", "model_name", "alpha", "low", "high"), [
    ("keras", "MobileNetV3Small", 0.5, (-1, -1, -1), (1, 1, 1)),
    ("timm", "tf_mobilenetv3_small_075", 0.75, (-1, -1, -1), (1, 1, 1)),
    ("torchvision", "mobilenet_v3_small", 0.35, (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225),
     (0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225))])
def test_what_pixels_are_at_the_first_convolution(package: str, model_name: str, alpha: float, low: tuple[float, ...],
                                                  high: tuple[float, ...]) -> None:
    import keras

    result, _ = without_values(imported, package, model_name, alpha)
    first = keras.Model(result.model.input, result.model.get_layer("rescale").output)
    for pixel, expected in ((0, low), (255, high)):
        seen = np.asarray(first(np.full((1, 128, 96, 3), pixel, np.float32)))
        assert np.allclose(seen, np.asarray(expected), atol=1e-5)


def test_another_normalization_of_the_same_network(tmp_path: Path) -> None:
    variant = golden("timm", "mobilenetv3_small_050", 0.5)
    tensors = tensors_of(variant)
    result = without_values(import_tensors, tensors, tmp_path / "x", "timm", dialect="timm", input_size=64, mean=(0, 0, 0),
                            std=(1, 1, 1))
    rescale = result.model.get_layer("rescale")
    assert np.allclose(rescale.scale, 1 / 255) and np.allclose(rescale.offset, 0)
    assert result.report["mean"] == [0, 0, 0] and result.report["std"] == [1, 1, 1]
    with pytest.raises(InputError, match=r"shares of 255.*divide them by 255"):
        import_tensors(tensors, tmp_path / "x", "timm", dialect="timm", mean=(123.7, 116.3, 103.5))
    with pytest.raises(InputError, match=r"std is .*three numbers as shares of 255"):
        import_tensors(tensors, tmp_path / "x", "timm", dialect="timm", std=(1, 0, 1))


@pytest.mark.slow
def test_a_file_without_a_classifier(tmp_path: Path) -> None:
    """timm saves it like this with num_classes=0: the convolution before the classifier is still there."""
    import keras

    tensors = tensors_of(golden("timm", "mobilenetv3_small_050", 0.5))
    headless = {name: value for name, value in tensors.items() if not name.startswith("classifier.")}
    picture = pictures(1, 64, 64).astype(np.float32)

    def features_of(tensors: dict[str, np.ndarray], **options: Any) -> tuple[Imported, np.ndarray]:
        result = import_tensors(tensors, tmp_path / "x", "timm", dialect="timm", input_size=64, **options)
        features = keras.Model(result.model.input, result.model.get_layer("head_conv_hard_swish").output)
        return result, np.asarray(features(picture))

    _, wanted = without_values(features_of, tensors)
    result, given = without_values(features_of, headless, labels=["not", "used"])
    assert not result.include_top and result.classes is None and result.model.output_shape == (None, 2, 2, 288)
    assert set(result.left_out) == {"conv_head.weight", "conv_head.bias",
                                    *(name for name in tensors if name.endswith("num_batches_tracked"))}
    assert any("no classifier" in note for note in result.notes)
    assert result.model.output.name == result.model.get_layer("head_conv_hard_swish").output.name
    assert np.ptp(wanted) > 0 and np.array_equal(given, wanted)


@pytest.mark.slow
def test_half_precision_and_a_policy_of_keras(tmp_path: Path) -> None:
    import keras

    tensors = {name: value.astype(np.float16) for name, value in tensors_of(golden("timm", "mobilenetv3_small_050", 0.5)).items()}
    keras.config.set_dtype_policy("mixed_float16")

    def import_and_look() -> tuple[Imported, np.ndarray]:
        result = import_tensors(tensors, tmp_path / "x", "timm", dialect="timm", input_size=64)
        return result, np.asarray(result.model.get_layer("classifier").bias)

    try:
        result, bias = without_values(import_and_look)
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in result.model.layers} == {"float32"}
    assert np.array_equal(bias, tensors["classifier.bias"].astype(np.float32))


@pytest.mark.parametrize(("options", "part"), [
    ({"labels": ["a", "b"]}, "has 12 classes, but 2 class names are given"), ({"classes": 10}, "has 12 classes, not 10"),
    ({"alpha": -1.0}, "alpha is -1"), ({"name": "huge"}, "there is no network 'huge'"),
    ({"dialect": "keras"}, "timm saves timm or timm_tf"), ({"model_name": "mobilenetv3_rw"}, "cannot be imported by its name"),
    ({"model_name": "mobilenetv3_smal_050"}, "did you mean 'mobilenetv3_small_050'"), ({"input_size": 16}, "at least 32")])
def test_what_cannot_be(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        import_tensors(tensors_of(golden("timm", "mobilenetv3_small_050", 0.5)), Path("x"), "timm",
                       **{"dialect": None if "model_name" in options else "timm", **options})
    assert part in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("package", "files"), [
    ("keras", ("a.weights.h5", "b.keras", "c.h5")), ("tf_keras", ("a.h5", "b.weights.h5", "c.h5", "d.keras"))])
@pytest.mark.usefixtures("short_is_known")
def test_files_of_keras_applications_in_every_layout(package: str, files: tuple[str, ...], tmp_path: Path) -> None:
    """Keras 3 and Keras 2, weights and whole models: the same network from each of them."""
    picture = pictures(2, 64, 96).astype(np.float32)
    model = short(pytest.importorskip(package), input_shape=(64, 96, 3), alpha=0.5, classes=5, classifier_activation=None)
    rng = np.random.default_rng(0)
    names = [getattr(weight, "path", weight.name) for weight in model.weights]
    model.set_weights([rng.uniform(0.3, 1.5, weight.shape) if "variance" in name else rng.normal(0, 0.3, weight.shape)
                       for name, weight in zip(names, model.weights, strict=True)])
    wanted = np.asarray(model(picture))
    for file in files:
        weights_only = file.startswith("a.") or file.endswith(".weights.h5")
        (model.save_weights if weights_only else model.save)(tmp_path / file)

    def import_and_ask(file: str) -> tuple[Imported, np.ndarray]:
        result = import_weights(tmp_path / file, "keras", input_size=(64, 96))
        return result, np.asarray(result.model(picture))

    for file in files:
        result, given = without_values(import_and_ask, file)
        assert (result.settings.name, result.settings.alpha, result.classes) == ("short", 0.5, 5)
        assert np.abs(given - wanted).max() < 1e-4 * (wanted.max() - wanted.min()), file


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    """A table, as torchvision's classes would build it."""
    table = tmp_path / "mine.yaml"
    table.write_text("blocks:\n  - [3, 16, 16, true, relu, 2]\n  - [5, 64, 24, false, hard_swish, 2]\nclass_expand: 64\n")
    tensors = made(table, "torchvision", 3)
    result = import_tensors(tensors, tmp_path / "x.pth", "torchvision", table=table, input_size=64)
    assert result.settings.block_table == str(table) and result.classes == 3
    assert result.model.get_layer("block_02_depthwise").kernel.shape == (5, 5, 64, 1)
    with pytest.raises(InputError, match=r"1 tensor does not fit:\n  features\.1\.block\.0\.0\.weight: is missing"):
        import_tensors({k: v for k, v in tensors.items() if k != "features.1.block.0.0.weight"}, tmp_path / "x.pth",
                       "torchvision", table=table)
