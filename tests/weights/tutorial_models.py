"""Keras models as tutorials and their readers build them, that the kit must take over as they are."""

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tf_keras

from mnv3_tf.network.spec import SMALL_BLOCKS, NetworkSpec

Shape = tuple[int, int, int]


def randomized(model: Any, seed: int = 0) -> Any:
    """With weights whose answers differ from picture to picture."""
    rng = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        shape, name = tuple(weight.shape), getattr(weight, "path", weight.name)
        if "variance" in name or "gamma" in name:
            values.append(rng.uniform(0.5, 1.5, shape))
        elif "seed" in name:
            values.append(np.asarray(weight))
        else:
            inputs = 9 if "depthwise" in name and len(shape) == 4 else int(np.prod(shape[:-1])) or 1
            values.append(rng.normal(0, (1.5 / inputs) ** 0.5 if len(shape) > 1 else 0.2, shape))
    model.set_weights(values)
    return model


def with_head(package: Any, shape: Shape, backbone: Callable[[Any], Any], before: Any, *head: Any) -> Any:
    """A model as the tutorials build it: augmentation, something before the backbone, the backbone, a head."""
    image = x = package.Input(shape)
    for layer in (package.layers.RandomTranslation(0.05, 0.05), package.layers.RandomRotation(0.03)):
        x = layer(x)
    x = backbone(before(x))
    for layer in head:
        x = layer(x)
    return package.Model(image, x)


# The first two blocks of Small: what of a network's kind does not depend on its length is tested with them.
SHORT = NetworkSpec("short", SMALL_BLOCKS[:2], "hard_swish", class_expand=64)
PLAIN = NetworkSpec("short_minimalistic", tuple(dataclasses.replace(block, squeeze_excite=False) for block in SMALL_BLOCKS[:2]),
                    "relu", class_expand=64)


def short(package: Any, **arguments: Any) -> Any:
    """SHORT, or PLAIN with `minimalistic`, as keras.applications builds its networks; the arguments are those of
    MobileNetV3Small."""
    module = importlib.import_module(f"{package.__name__}.src.applications.mobilenet_v3")
    alpha = arguments.get("alpha", 1.0)

    def stack(x: Any, kernel: int, activation: Any, gate: float | None) -> Any:
        x = module._inverted_res_block(x, 1, module._depth(16 * alpha), 3, 2, gate, module.relu, 0)
        return module._inverted_res_block(x, 72 / 16, module._depth(24 * alpha), 3, 2, None, module.relu, 1)

    return module.MobileNetV3(stack, 64, **{"model_type": "small", "weights": None, **arguments})


def nested(package: Any, shape: Shape, **settings: Any) -> Callable[[Any], Any]:
    """A backbone of keras.applications as one layer."""
    return package.applications.MobileNetV3Small(input_shape=shape, include_top=False, weights=None, **settings)


def nested_short(package: Any, shape: Shape, **settings: Any) -> Callable[[Any], Any]:
    """The same of two blocks."""
    return short(package, input_shape=shape, include_top=False, **settings)


def flat(package: Any, **settings: Any) -> Callable[[Any], Any]:
    """Two blocks whose layers are among the model's own."""
    return lambda x: short(package, input_tensor=x, include_top=False, **settings).output


def of_mobilenet_v2(shape: Shape) -> Callable[[Any], Any]:
    """The first blocks of MobileNetV2 as one layer: with and without an addition, of stride 1 and 2."""
    whole = keras.applications.MobileNetV2(input_shape=shape, include_top=False, weights=None, alpha=0.35)
    return keras.Model(whole.input, whole.get_layer("block_3_project_BN").output)


def same(x: Any) -> Any:
    return x


def answers_of(model: Any, pixels: np.ndarray, end: str) -> np.ndarray:
    """The source's answers, as the logits that the taken-over network should have, up to a constant."""
    given = np.asarray(model(pixels, training=False), np.float64)
    if end == "softmax":
        return np.log(given)
    if given.shape[1] == 1:
        z = np.log(given / (1 - given)) if end == "sigmoid" else given
        return np.concatenate([-z / 2, z / 2], axis=1)
    return given


@dataclass(frozen=True)
class Model:
    """A starting point.

    Attributes:
        build: (input shape, classes) -> the model, of Keras 3 or tf_keras.
        suffix: of the file that it is saved in.
        end: what its answers are: "softmax", "sigmoid" or "" for logits.
        settings: of the network that it is taken for.
        last: the names of the last layers of the network that is made of it.
    """

    build: Callable[[Shape, int], Any]
    suffix: str
    end: str
    settings: dict[str, Any]
    last: tuple[str, ...]


L3, L2 = keras.layers, tf_keras.layers
MODELS = {
    "nested backbone, softmax": Model(lambda shape, classes: with_head(
        keras, shape, nested(keras, shape, alpha=0.35), same,
        L3.GlobalAveragePooling2D(), L3.Dropout(0.3), L3.Dense(classes, activation="softmax")),
        ".keras", "softmax", {"name": "small", "alpha": 0.35, "dropout": 0.3}, ("head_pool", "classifier", "logits")),
    "flat, Rescaling outside, two Dense": Model(lambda shape, classes: with_head(
        keras, shape, flat(keras, alpha=0.5, include_preprocessing=False), L3.Rescaling(1 / 255),
        L3.GlobalAveragePooling2D(), L3.BatchNormalization(), L3.Dense(16, activation="relu"), L3.Dense(classes)),
        ".h5", "", {"name": "short", "alpha": 0.5}, ("head_pool", "head_dense_1", "head_dense_1_relu", "classifier", "logits")),
    "pooled by the backbone, logits": Model(lambda shape, classes: with_head(
        keras, shape, nested_short(keras, shape, alpha=1.25, pooling="avg"), same, L3.Dense(classes)),
        ".h5", "", {"name": "short", "alpha": 1.25}, ("head_pool", "classifier", "logits")),
    "Keras 2, nested, one sigmoid": Model(lambda shape, classes: with_head(
        tf_keras, shape, nested(tf_keras, shape, alpha=0.35), same,
        L2.GlobalAveragePooling2D(), L2.Dense(1, activation="sigmoid")),
        ".h5", "sigmoid", {"name": "small", "alpha": 0.35}, ("head_pool", "classifier", "logits")),
    "Keras 2, flat, minimalistic, BatchNorm in the head": Model(lambda shape, classes: with_head(
        tf_keras, shape, flat(tf_keras, minimalistic=True), same,
        L2.GlobalAveragePooling2D(), L2.Dense(8), L2.BatchNormalization(), L2.ReLU(), L2.Dense(classes, activation="softmax")),
        ".keras", "softmax", {"name": "short_minimalistic", "alpha": 1.0}, ("classifier", "logits")),
    "MobileNetV2, preprocess_input, one logit": Model(lambda shape, classes: with_head(
        keras, shape, of_mobilenet_v2(shape), keras.applications.mobilenet_v2.preprocess_input,
        L3.GlobalAveragePooling2D(), L3.Dense(1)), ".keras", "", {"name": "imported"}, ("logits",)),
}
