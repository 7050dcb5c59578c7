"""`weights=` of the networks: published ones from the cache, files, and what is refused before anything is downloaded."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from seeded import golden, tensors_of

from mnv3_tf.errors import InputError
from mnv3_tf.network import MobileNetV3, MobileNetV3Small
from mnv3_tf.weights.registry import cached_path, find_published


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """PaddleClas's weights of Small 0.35, as if downloaded before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entry = find_published("paddle/MobileNetV3_small_x0_35")
    cached_path(entry).parent.mkdir(parents=True)
    tensors = tensors_of(golden("paddle", "MobileNetV3_small_x0_35", 0.35))
    cached_path(entry).write_bytes(pickle.dumps(tensors, protocol=2))
    return entry.name


def test_imagenet_and_a_name_are_the_same_weights(published: str, tmp_path: Path) -> None:
    arguments = {"alpha": 0.35, "dialect": "paddle", "input_shape": (64, 64, 3)}
    model = MobileNetV3("small", weights="imagenet", classes=_classes(), **arguments)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.float32)
    expected = np.asarray(model(pixels))
    assert np.ptp(expected) > 0
    again = MobileNetV3("small", weights=published, classes=_classes(), **arguments)
    np.testing.assert_array_equal(np.asarray(again(pixels)), expected)
    model.save(tmp_path / "m.keras")
    from_file = MobileNetV3("small", weights=tmp_path / "m.keras", classes=_classes(), **arguments)
    np.testing.assert_array_equal(np.asarray(from_file(pixels)), expected)

    features = MobileNetV3("small", weights="imagenet", include_top=False, **arguments)
    np.testing.assert_allclose(np.asarray(features(pixels)),
                               np.asarray(type(model)(model.input, model.get_layer("head_conv_hard_swish").output)(pixels)),
                               atol=1e-5)
    with pytest.raises(InputError, match=rf"classifier/kernel .* Build it with classes={_classes()}, or with include_top=False"):
        MobileNetV3("small", weights="imagenet", classes=3, **arguments)


def _classes() -> int:
    shapes = dict(golden("paddle", "MobileNetV3_small_x0_35", 0.35)["tensors"])
    return int(shapes["fc.bias"][0])


def test_alphas_that_there_are_are_said_before_any_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"for alpha 0.5. Allowed alphas: 0.75, 1"):
        MobileNetV3Small(alpha=0.5, weights="imagenet", input_shape=(64, 64, 3))
    assert not list(tmp_path.iterdir())


def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    MobileNetV3("small", alpha=0.35, classes=3, input_shape=(32, 32, 3)).save(tmp_path / "m.keras")
    with pytest.raises(InputError, match="Build the network as the weights are"):
        MobileNetV3("small", alpha=0.5, classes=3, input_shape=(32, 32, 3), weights=tmp_path / "m.keras")


def test_the_normalization_is_that_of_the_weights(tmp_path: Path) -> None:
    source = MobileNetV3("small", alpha=0.35, dialect="timm", classes=3, input_shape=(32, 32, 3))
    source.save(tmp_path / "m.keras")
    other = MobileNetV3("small", alpha=0.35, dialect="timm_tf", classes=3, input_shape=(32, 32, 3), weights=tmp_path / "m.keras")
    assert np.allclose(other.get_layer("rescale").scale, source.get_layer("rescale").scale)
