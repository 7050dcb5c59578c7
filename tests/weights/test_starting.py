"""What `model.weights` means for the settings, and what is refused before anything starts."""

import dataclasses
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import random_values, without_values

from mnv3_tf.config import ModelConfig, load_config, save_config
from mnv3_tf.errors import InputError
from mnv3_tf.files import sha256, write_json
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.spec import find_spec, network_spec, with_normalization
from mnv3_tf.training.transfer import transfer
from mnv3_tf.weights.starting import load_settings, starting_model


def save(path: Path, *arguments: Any, **named: Any) -> None:
    """A network with random values."""
    def build() -> None:
        model = MobileNetV3(*arguments, input_shape=(32, 32, 3), **named)
        model.set_weights(random_values(model))
        model.save(path)

    without_values(build)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`imported.keras` with its card, `bare.keras` without one, and `extractor.keras`, which ends with the last block."""
    folder = tmp_path_factory.mktemp("weights")
    save(folder / "imported.keras", "large", alpha=0.35, classes=4, dialect="timm")
    write_json(folder / "imported.card.json", {
        "kind": "imported weights", "model": {"name": "large", "alpha": 0.35, "dialect": "timm"}, "classes": list("abcd")})
    own = with_normalization(find_spec("small", "timm"), [0.0] * 3, [1.0] * 3)
    for name, network in (("extractor", "small"), ("own", own)):
        save(folder / f"{name}.keras", network, alpha=0.5, include_top=False, outputs="block_11_add")
    return folder


@pytest.mark.slow
def test_the_weights_own_settings_come_before_yaml_and_overrides(folder: Path, tmp_path: Path) -> None:
    config = load_settings(None, [f"model.weights={folder / 'imported.keras'}", "train.seed=4"])
    assert (config.model.name, config.model.alpha, config.model.dialect, config.train.seed) == ("large", 0.35, "timm", 4)
    (tmp_path / "c.yaml").write_text("model:\n  weights: sub/imported.keras\n  dropout: 0.4\n  alpha: 0.35\n")
    (tmp_path / "sub").mkdir()
    for file in folder.glob("imported.*"):
        shutil.copy(file, tmp_path / "sub")
    config = load_settings(tmp_path / "c.yaml", ["model.dropout=0.5"])
    assert config.model.weights == str(tmp_path / "sub" / "imported.keras")
    assert (config.model.name, config.model.dropout) == ("large", 0.5)


def test_a_contradiction_is_refused_where_it_was_written(folder: Path, tmp_path: Path) -> None:
    weights = f"model.weights={folder / 'imported.keras'}"
    with pytest.raises(InputError, match=r"-o model\.alpha=0\.5: model\.alpha is 0\.5, but the weights .* are of large at alpha "
                                         r"0\.35 \(dialect timm\)\. Leave model\.alpha out"):
        load_settings(None, [weights, "model.alpha=0.5"])
    (tmp_path / "c.yaml").write_text("model:\n  alpha: 0.35\n  dialect: keras\n")
    with pytest.raises(InputError, match=r"c\.yaml, line 3: model\.dialect is keras"):
        load_settings(tmp_path / "c.yaml", [weights])
    # The width after pooling may differ: that layer is then new.
    assert load_settings(None, [weights, "model.class_expand=64"]).model.class_expand == 64


def test_a_library_user_gets_the_same_refusal(folder: Path) -> None:
    config = load_config(None, [f"model.weights={folder / 'imported.keras'}"])
    with pytest.raises(InputError, match=r"model\.name is small, but the weights"):
        starting_model(config)


def test_what_is_read(folder: Path) -> None:
    start = without_values(starting_model, load_settings(None, [f"model.weights={folder / 'imported.keras'}"]))
    assert start.labels == ("a", "b", "c", "d") and start.sha256 == sha256(folder / "imported.keras")
    assert start.tensors["block_02_expand"]["kernel"].shape == (1, 1, 8, 32)
    assert set(start.tensors["stem_conv_bn"]) == {"gamma", "beta", "moving_mean", "moving_variance"}


@pytest.mark.slow
def test_a_feature_extractor_without_a_card_is_recognised(folder: Path) -> None:
    config = without_values(load_settings, None, [f"model.weights={folder / 'extractor.keras'}"])
    assert (config.model.name, config.model.alpha, config.model.dialect) == ("small", 0.5, "keras")
    config = without_values(load_settings, None, [f"model.weights={folder / 'own.keras'}"])
    assert (config.model.name, config.model.alpha, config.model.dialect) == ("small", 0.5, "timm")


def test_a_run_folder_gives_its_settings(source_run: Path, tuned_config) -> None:
    assert tuned_config.model.weights == str(source_run)
    assert tuned_config.model.block_table == load_config(source_run / "config.yaml").model.block_table


def test_stored_settings_are_read_without_the_weights(folder: Path, tmp_path: Path) -> None:
    config = load_settings(None, [f"model.weights={folder / 'imported.keras'}"])
    save_config(tmp_path / "config.yaml", config)
    text = (tmp_path / "config.yaml").read_text().replace(str(folder), "/nowhere")
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml").model.weights == "/nowhere/imported.keras"


@pytest.mark.parametrize(("value", "message"), [
    ("none.keras", "there is no such run folder or .keras file"), ("file.h5", "mnv3 import-weights"),
    ("damaged.keras", "card.json"), ("truncated.keras", "truncated"), ("run", "quantized run"),
    ("foreign.keras", "not the blocks"),
])
def test_weights_that_cannot_be_used(tmp_path: Path, value: str, message: str) -> None:
    import keras

    (tmp_path / "file.h5").write_bytes(b"x")
    for name in ("damaged", "truncated"):
        (tmp_path / f"{name}.keras").write_bytes(b"x")
    (tmp_path / "damaged.card.json").write_text("[]")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "quantized.npz").write_bytes(b"x")
    if value == "foreign.keras":
        image = keras.Input((32, 32, 3))
        keras.Model(image, keras.layers.Conv2D(4, 3)(image)).save(tmp_path / value)
    with pytest.raises(InputError, match=message):
        load_settings(None, [f"model.weights={tmp_path / value}"])


# Published weights ---------------------------------------------------------------------------------------------------------


def test_alphas_without_imagenet_weights_are_refused_before_any_download() -> None:
    with pytest.raises(InputError, match=r"of large in the dialect keras for alpha 0\.5\. Allowed alphas: 0\.75, 1"):
        load_settings(None, ["model.weights=imagenet", "model.name=large", "model.alpha=0.5"])
    with pytest.raises(InputError, match=r"no such run folder .*no published weights of that name\. The nearest: timm/"):
        load_settings(None, ["model.weights=timm/mobilenetv3_small_10"])
    with pytest.raises(InputError, match=r"-o model\.alpha=0\.5: model\.alpha is 0\.5, but the weights"):
        load_settings(None, ["model.weights=timm/mobilenetv3_small_100.lamb_in1k", "model.alpha=0.5"])


@pytest.mark.slow
def test_published_weights_by_name_and_as_imagenet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file in the cache, such as the registry downloads, goes through the importer."""
    from mnv3_tf.weights.sources.names import source_entries
    from mnv3_tf.weights.sources.registry import cached_path, find_published

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    entry = find_published("paddle/MobileNetV3_small_x0_35")
    cached_path(entry).parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    tensors = {row.source: rng.uniform(0.5, 1, row.source_shape).astype(np.float32)
               for row in source_entries("paddle", find_spec("small", "paddle"), 0.35, 12, {})}
    cached_path(entry).write_bytes(pickle.dumps(tensors))
    named = load_settings(None, ["model.weights=paddle/MobileNetV3_small_x0_35", "train.seed=2"])
    assert (named.model.name, named.model.alpha, named.model.dialect) == ("small", 0.35, "paddle")
    imagenet = load_settings(None, ["model.weights=imagenet", "model.alpha=0.35", "model.dialect=paddle"])
    first, second = (without_values(starting_model, config) for config in (named, imagenet))
    assert first.sha256 == second.sha256 == sha256(cached_path(entry))
    assert first.facts["published"] == second.facts["published"] == "paddle/MobileNetV3_small_x0_35"
    np.testing.assert_allclose(first.normalization, [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])

    def build_and_take() -> np.ndarray:
        model = MobileNetV3("small", alpha=0.35, dialect="paddle", classes=3, input_shape=(64, 48, 3))
        taken = transfer(model, first, ("a", "b", "c"))
        assert taken.new == ("classifier",) and len(taken.taken) > 60
        return np.asarray(model.get_layer("head_conv").kernel)

    np.testing.assert_array_equal(without_values(build_and_take), first.tensors["head_conv"]["kernel"])


@pytest.mark.slow
def test_the_weights_normalization_is_kept(folder: Path) -> None:
    """Imported weights may have been trained with another one than their dialect's."""
    plain = network_spec(ModelConfig(name="small"))
    same = with_normalization(plain, [0.5] * 3, [0.5] * 3)
    assert same is plain
    other = with_normalization(plain, [0.4, 0.5, 0.6], [0.2, 0.25, 0.5])
    model = without_values(MobileNetV3, dataclasses.replace(other, blocks=other.blocks[:1]), input_shape=(32, 32, 3), classes=2)
    seen = model.get_layer("rescale")(np.array([[[[0.4, 0.5, 0.6]]], [[[0.6, 0.75, 1.1]]]]) * 255)
    np.testing.assert_allclose(np.asarray(seen)[:, 0, 0], [[0, 0, 0], [1, 1, 1]], atol=1e-5)
    save(folder / "other.keras", other, classes=2, alpha=0.35)
    config = without_values(load_settings, None, [f"model.weights={folder / 'other.keras'}"])
    start = without_values(starting_model, config)
    np.testing.assert_allclose(start.normalization, [[0.4, 0.5, 0.6], [0.2, 0.25, 0.5]], atol=1e-6)
