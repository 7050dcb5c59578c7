"""`weights=` of the networks: published ones from the cache, files, and what is refused before anything is downloaded."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeded import golden, tensors_of
from shared import without_values

from mnv3_tf.errors import InputError
from mnv3_tf.models import MobileNetV3, MobileNetV3Small
from mnv3_tf.network.spec import Block, NetworkSpec, find_spec, in_dialect, with_normalization
from mnv3_tf.weights.sources.registry import cached_path, find_published


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """PaddleClas's weights of Small 0.35, as if downloaded before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entry = find_published("paddle/MobileNetV3_small_x0_35")
    cached_path(entry).parent.mkdir(parents=True)
    tensors = tensors_of(golden("paddle", "MobileNetV3_small_x0_35", 0.35))
    cached_path(entry).write_bytes(pickle.dumps(tensors, protocol=2))
    return entry.name


@pytest.mark.slow
def test_imagenet_and_a_name_are_the_same_weights(published: str, tmp_path: Path) -> None:
    arguments = {"alpha": 0.35, "dialect": "paddle", "input_shape": (64, 64, 3)}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)

    def save_and_answer() -> tuple[np.ndarray, np.ndarray]:
        model = MobileNetV3("small", weights="imagenet", classes=_classes(), **arguments)
        model.save(tmp_path / "m.keras")
        features = type(model)(model.input, model.get_layer("head_conv_hard_swish").output)
        return np.asarray(model(pixels)), np.asarray(features(pixels))

    expected, maps = without_values(save_and_answer)
    assert np.ptp(expected) > 0

    def answers(weights: str | Path, **more: Any) -> np.ndarray:
        return without_values(lambda: np.asarray(MobileNetV3("small", weights=weights, **arguments, **more)(pixels)))

    np.testing.assert_array_equal(answers(published, classes=_classes()), expected)
    np.testing.assert_array_equal(answers(tmp_path / "m.keras", classes=_classes()), expected)
    np.testing.assert_allclose(answers("imagenet", include_top=False), maps, atol=1e-5)
    with pytest.raises(InputError, match=rf"classifier/kernel .* Build it with classes={_classes()}, or with include_top=False"):
        answers("imagenet", classes=3)


def _classes() -> int:
    shapes = dict(golden("paddle", "MobileNetV3_small_x0_35", 0.35)["tensors"])
    return int(shapes["fc.bias"][0])


def test_alphas_that_there_are_are_said_before_any_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"for alpha 0.5. Allowed alphas: 0.75, 1"):
        MobileNetV3Small(alpha=0.5, weights="imagenet", input_shape=(64, 64, 3))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("short_is_known")
def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    MobileNetV3("short", alpha=0.35, classes=3, input_shape=(32, 32, 3)).save(tmp_path / "m.keras")
    with pytest.raises(InputError, match="Build the network as the weights are"):
        without_values(MobileNetV3, "short", alpha=0.5, classes=3, input_shape=(32, 32, 3), weights=tmp_path / "m.keras")


@pytest.mark.slow
@pytest.mark.usefixtures("short_is_known")
def test_the_normalization_is_that_of_the_weights(tmp_path: Path) -> None:
    """Such as timm's `miil` weights, whose pixels are 0..1."""
    arguments = {"alpha": 0.35, "classes": 3, "input_shape": (32, 32, 3)}
    spec = with_normalization(find_spec("short", "timm"), (0, 0, 0), (1, 1, 1))
    MobileNetV3(spec, **arguments).save(tmp_path / "m.keras")
    loaded = without_values(MobileNetV3, "short", dialect="timm", weights=tmp_path / "m.keras", **arguments)
    assert np.allclose(loaded.get_layer("rescale").scale, 1 / 255) and np.allclose(loaded.get_layer("rescale").offset, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("short_is_known")
def test_another_dialect_of_equal_shapes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """timm's own networks and those it ported differ in padding and epsilon alone; keras and timm_tf at alpha 1 in nothing."""
    arguments = {"alpha": 1.0, "classes": 3, "input_shape": (32, 32, 3)}
    source = MobileNetV3("short", dialect="timm_tf", **arguments)
    source.save(tmp_path / "m.keras")
    without_values(MobileNetV3, "short", dialect="keras", weights=tmp_path / "m.keras", **arguments)
    with pytest.raises(InputError, match=r"m\.keras: weights of the dialect keras, and the network is built in the dialect timm, "
                                         r".*Build it with dialect='keras'"):
        without_values(MobileNetV3, "short", dialect="timm", weights=tmp_path / "m.keras", **arguments)
    own = NetworkSpec("own", (Block(3, 16, 16, False, "relu", 1),), "relu", class_expand=64)
    MobileNetV3(in_dialect(own, "timm"), **arguments).save(tmp_path / "own.keras")
    MobileNetV3(in_dialect(own, "timm"), weights=tmp_path / "own.keras", **arguments)
    with pytest.raises(InputError, match="weights of the dialect timm or paddle, and the network is built in the dialect keras"):
        MobileNetV3(own, weights=tmp_path / "own.keras", **arguments)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"lamb_in1k: weights of the dialect timm, .*Build it with dialect='timm'"):
        MobileNetV3("small", weights="timm/mobilenetv3_small_100.lamb_in1k", input_shape=(32, 32, 3))
    assert not (tmp_path / "cache").exists()
