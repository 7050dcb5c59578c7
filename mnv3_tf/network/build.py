"""Keras 3 functional MobileNetV3 from a block table, with built-in layers only.

Layer names follow the place in the network: ``stem_conv``, ``block_07_depthwise``, ``head_conv``, ``classifier``. Reports
print them as ``block_07/depthwise`` (:func:`mnv3_tf.display_name`), since Keras 3 allows no slash in a layer's name.

Source: Howard et al., "Searching for MobileNetV3" (2019); with the same arguments, parameters, shapes and outputs are those
of keras.applications; other published implementations are dialects of the same builder (:mod:`mnv3_tf.network.spec`).
"""

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from mnv3_tf.backend import keras, own_settings
from mnv3_tf.config import SMALLEST_SIDE
from mnv3_tf.errors import InputError
from mnv3_tf.network.layer_names import block_of
from mnv3_tf.network.plan import Part, network_parts
from mnv3_tf.network.spec import Dialect, NetworkSpec, check_alpha
from mnv3_tf.text import nearest

layers = keras.layers


@own_settings()
def build(spec: NetworkSpec, *, input_shape: Sequence[int | None] | None, alpha: float, classes: int, include_top: bool = True,
          pooling: str | None = None, dropout_rate: float = 0.2, classifier_activation: str | None = None,
          include_preprocessing: bool = True, batchnorm_momentum: float = 0.99, input_tensor: Any = None,
          name: str | None = None) -> tuple[keras.Model, dict[str, Any]]:
    """Builds a table's network; the arguments are those of :func:`mnv3_tf.MobileNetV3`.

    Returns:
        The network with random weights, and the last map of every stride by name: ``stride_8`` -> tensor.

    Raises:
        InputError: an argument is out of range; the message says what is allowed.
    """
    input_shape = _input_shape(input_shape, input_tensor)
    _check(spec, input_shape, alpha, classes, pooling, dropout_rate)
    parts = network_parts(spec, alpha, classes if include_top else None)
    stem, head_conv, *top = (part for part in parts if not part.block)
    convolution = _Convolutions(spec.dialect, batchnorm_momentum)

    x = layers.Input(input_shape, name="image") if input_tensor is None else input_tensor
    sources = keras.utils.get_source_inputs(x)
    if include_preprocessing:
        x = _rescaling(spec.dialect)(x)
    x = convolution(x, stem)
    stages: dict[str, Any] = {}
    stride = 2
    for _, block in groupby((part for part in parts if part.block), key=lambda part: part.block):
        block_parts = list(block)
        if any(part.stride == 2 for part in block_parts):
            stages[f"stride_{stride}"] = x
            stride *= 2
        x = _block(x, block_parts, convolution)
    x = stages[f"stride_{stride}"] = convolution(x, head_conv)

    if include_top:
        expand, classifier = top
        x = layers.GlobalAveragePooling2D(keepdims=True, name="head_pool")(x)
        x = convolution(x, expand)
        if dropout_rate > 0:
            x = layers.Dropout(dropout_rate, name="head_dropout")(x)
        x = convolution(x, classifier)
        x = layers.Flatten(name="logits")(x)
        if classifier_activation not in (None, "linear"):
            x = layers.Activation(classifier_activation, name="predictions")(x)
    elif pooling:
        pool = layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D
        x = pool(name=f"{pooling}_pool")(x)
    return keras.Model(sources[0] if len(sources) == 1 else sources, x, name=name or f"mobilenet_v3_{spec.name}"), stages


@contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Builds what is built within it by this policy of Keras, whatever Keras's own is."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _rescaling(dialect: Dialect) -> keras.Layer:
    """Pixels 0..255 to what the stem expects; plain numbers where all channels have the same."""
    scale, offset = dialect.rescaling()
    if dialect.mean == dialect.std == (0.5, 0.5, 0.5):
        return layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")
    return layers.Rescaling(list(scale), offset=list(offset), name="rescale")


class _Convolutions:
    """Adds the layers of a convolution to a functional graph: padding, the convolution, BatchNorm and activation."""

    def __init__(self, dialect: Dialect, batchnorm_momentum: float):
        self._dialect, self._momentum = dialect, batchnorm_momentum

    def __call__(self, x: Any, part: Part) -> Any:
        name, side, padding = part.layer, part.kernel[0], "same"
        if part.stride > 1 and self._dialect.symmetric_padding:  # with stride 1, TensorFlow's SAME is symmetric anyway
            x, padding = layers.ZeroPadding2D(side // 2, name=f"{name}_pad")(x), "valid"
        settings: dict[str, Any] = {"strides": part.stride, "padding": padding, "use_bias": part.bias, "name": name}
        if part.role == "depthwise":
            x = layers.DepthwiseConv2D(side, depthwise_initializer="he_normal", **settings)(x)
        else:
            initializer = "glorot_uniform" if part.role == "classifier" else "he_normal"
            x = layers.Conv2D(part.outputs, side, kernel_initializer=initializer, **settings)(x)
        if part.batchnorm:
            x = layers.BatchNormalization(epsilon=self._dialect.batchnorm_epsilon, momentum=self._momentum, name=f"{name}_bn")(x)
        if part.activation == "relu":
            return layers.ReLU(name=f"{name}_relu")(x)
        return layers.Activation(part.activation, name=f"{name}_{part.activation}")(x) if part.activation else x


def _block(shortcut: Any, parts: Sequence[Part], convolution: _Convolutions) -> Any:
    """One inverted residual block; squeeze-and-excite gates by hard_sigmoid(conv(relu(conv(mean over the map))))."""
    name = block_of(parts[0].layer)
    x = ungated = shortcut
    for part in parts:
        if part.role == "se_reduce":
            ungated, x = x, layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_se_pool")(x)
        x = convolution(x, part)
        if part.role == "se_expand":
            x = layers.Multiply(name=f"{name}_se_multiply")([ungated, x])
    return layers.Add(name=f"{name}_add")([shortcut, x]) if parts[-1].residual else x


def select_outputs(model: keras.Model, stages: dict[str, Any], wanted: str | Sequence[str]) -> dict[str, Any]:
    """The feature maps asked for, by stage name, layer name or pattern, in the network's order."""
    if wanted == "pyramid":
        return stages
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    available = {layer.name: layer.output for layer in model.layers}
    chosen: dict[str, Any] = {}
    for pattern in patterns:
        names: Iterable[str] = [name for name in (*stages, *available) if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            raise InputError(f"outputs: nothing is called {pattern!r}{nearest(pattern, [*stages, *available])}. "
                             f"Stages: {', '.join(stages)}; or any layer's name, or a pattern with *.")
        chosen.update({name: stages.get(name, available.get(name)) for name in names})
    return chosen


def _input_shape(given: Sequence[int | None] | None, tensor: Any) -> tuple[int | None, ...]:
    """(height, width, channels) of the input: as given, or the tensor's."""
    if tensor is None:
        return (224, 224, 3) if given is None else tuple(given)
    if not keras.utils.is_keras_tensor(tensor):
        raise InputError(f"input_tensor is {type(tensor).__name__}; it must be a Keras tensor, such as keras.Input((96, 96, 3)).")
    shape = tuple(tensor.shape[1:])
    if given is not None and tuple(given) != shape:
        raise InputError(f"input_shape is {tuple(given)}, but input_tensor has {shape}. Leave one of them out.")
    return shape


def _check(spec: NetworkSpec, input_shape: Sequence[int | None], alpha: float, classes: int, pooling: str | None,
           dropout_rate: float) -> None:
    """Refuses arguments that would fail deep inside Keras, or silently mean something else."""
    if len(input_shape) != 3 or not input_shape[2]:
        raise InputError(f"input_shape is {tuple(input_shape)}; it must be (height, width, channels).")
    for side in input_shape[:2]:
        if side is not None and side < SMALLEST_SIDE:
            raise InputError(f"The input is {input_shape[0]}x{input_shape[1]}; both sides must be at least "
                             f"{SMALLEST_SIDE}, since the network halves them five times.")
    check_alpha(alpha)
    if classes < 1:
        raise InputError(f"classes is {classes}; at least 1 is needed.")
    if pooling not in (None, "avg", "max"):
        raise InputError(f"pooling is {pooling!r}; allowed: None, 'avg', 'max'.")
    if not 0 <= dropout_rate < 1:
        raise InputError(f"dropout_rate is {dropout_rate}; it must be at least 0 and below 1.")
    for key in ("inplanes", "class_squeeze", "class_expand"):
        width = getattr(spec, key)
        if width is not None and width < 1:
            raise InputError(f"{key} is {width}; at least 1 channel is needed.")
