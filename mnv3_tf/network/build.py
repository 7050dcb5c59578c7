"""Keras 3 functional MobileNetV3 from a block table, with built-in layers only.

Layer names follow the place in the network: ``stem_conv``, ``block_07_depthwise``, ``head_conv``, ``classifier``. Reports
print them as ``block_07/depthwise`` (:func:`mnv3_tf.display_name`), since Keras 3 allows no slash in a layer's name.

Source: Howard et al., "Searching for MobileNetV3" (2019); with the same arguments, parameters, shapes and outputs are those
of keras.applications; other published implementations are dialects of the same builder (:mod:`mnv3_tf.network.spec`).
"""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import layers

from mnv3_tf.errors import InputError
from mnv3_tf.network.spec import (
    Dialect,
    NetworkSpec,
    ScaledBlock,
    check_alpha,
    head_widths,
    scale_blocks,
    stem_width,
)
from mnv3_tf.text import nearest

SMALLEST_SIDE = 32


def build(spec: NetworkSpec, *, input_shape: Sequence[int | None], alpha: float, classes: int, include_top: bool = True,
          pooling: str | None = None, dropout: float = 0.2, classifier_activation: str | None = None,
          include_preprocessing: bool = True, batchnorm_momentum: float = 0.99,
          name: str | None = None) -> tuple[keras.Model, dict[str, Any]]:
    """Builds a table's network; the arguments are those of :func:`mnv3_tf.MobileNetV3`.

    Returns:
        The network with random weights, and the last map of every stride by name: ``stride_8`` -> tensor.

    Raises:
        InputError: an argument is out of range; the message says what is allowed.
    """
    _check(spec, input_shape, alpha, classes, pooling, dropout)
    builder = _Builder(spec, batchnorm_momentum)

    image = x = layers.Input(tuple(input_shape), name="image")
    if include_preprocessing:
        x = _rescaling(spec.dialect)(x)
    x = builder.conv(x, stem_width(spec, alpha), "stem_conv", kernel=3, stride=2, activation=spec.activation)
    stages: dict[str, Any] = {}
    stride = 2
    for block in scale_blocks(spec, alpha):
        if block.stride == 2:
            stages[f"stride_{stride}"] = x
            stride *= 2
        x = builder.block(x, block)
    before_pooling, after_pooling = head_widths(spec, alpha)
    x = builder.conv(x, before_pooling, "head_conv", activation=spec.activation)
    stages[f"stride_{stride}"] = x

    if include_top:
        x = layers.GlobalAveragePooling2D(keepdims=True, name="head_pool")(x)
        x = builder.conv(x, after_pooling, "head_expand", activation=spec.activation, batchnorm=False,
                         bias=spec.dialect.head_bias)
        if dropout > 0:
            x = layers.Dropout(dropout, name="head_dropout")(x)
        x = layers.Conv2D(classes, 1, padding="same", name="classifier")(x)
        x = layers.Flatten(name="logits")(x)
        if classifier_activation not in (None, "linear"):
            x = layers.Activation(classifier_activation, name="predictions")(x)
    elif pooling:
        pool = layers.GlobalAveragePooling2D if pooling == "avg" else layers.GlobalMaxPooling2D
        x = pool(name=f"{pooling}_pool")(x)
    return keras.Model(image, x, name=name or f"mobilenet_v3_{spec.name}"), stages


def _rescaling(dialect: Dialect) -> keras.Layer:
    """Pixels 0..255 to what the stem expects; plain numbers where all channels have the same."""
    scale, offset = dialect.rescaling()
    if dialect.mean == dialect.std == (0.5, 0.5, 0.5):
        return layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")
    return layers.Rescaling(list(scale), offset=list(offset), name="rescale")


class _Builder:
    """Adds named layers to a functional graph."""

    def __init__(self, spec: NetworkSpec, batchnorm_momentum: float):
        self._epsilon = spec.dialect.batchnorm_epsilon
        self._symmetric = spec.dialect.symmetric_padding
        self._momentum = batchnorm_momentum

    def _pad(self, x: Any, name: str, kernel: int, stride: int) -> tuple[Any, str]:
        """The input of a convolution, and its `padding`; with stride 1, TensorFlow's SAME is symmetric anyway."""
        if stride == 1 or not self._symmetric:
            return x, "same"
        return layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x), "valid"

    def _normalize(self, x: Any, name: str) -> Any:
        return layers.BatchNormalization(epsilon=self._epsilon, momentum=self._momentum, name=f"{name}_bn")(x)

    def _activate(self, x: Any, activation: str | None, name: str) -> Any:
        if activation is None:
            return x
        if activation == "relu":
            return layers.ReLU(name=f"{name}_relu")(x)
        return layers.Activation(activation, name=f"{name}_{activation}")(x)

    def conv(self, x: Any, filters: int, name: str, *, kernel: int = 1, stride: int = 1, activation: str | None = None,
             batchnorm: bool = True, bias: bool = True) -> Any:
        """Convolution, BatchNorm (or, unless `bias` is false, a bias) and activation."""
        x, padding = self._pad(x, name, kernel, stride)
        x = layers.Conv2D(filters, kernel, strides=stride, padding=padding, use_bias=bias and not batchnorm,
                          kernel_initializer="he_normal", name=name)(x)
        x = self._normalize(x, name) if batchnorm else x
        return self._activate(x, activation, name)

    def depthwise(self, x: Any, block: ScaledBlock) -> Any:
        """Depthwise convolution, BatchNorm and activation."""
        name = f"{block.name}_depthwise"
        x, padding = self._pad(x, name, block.kernel, block.stride)
        x = layers.DepthwiseConv2D(block.kernel, strides=block.stride, padding=padding, use_bias=False,
                                   depthwise_initializer="he_normal", name=name)(x)
        return self._activate(self._normalize(x, name), block.activation, name)

    def squeeze_excite(self, x: Any, block: ScaledBlock) -> Any:
        """Gates the channels by hard_sigmoid(conv(relu(conv(mean over the map))))."""
        gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{block.name}_se_pool")(x)
        gate = self.conv(gate, block.squeeze or 0, f"{block.name}_se_reduce", activation="relu", batchnorm=False)
        gate = self.conv(gate, block.expansion, f"{block.name}_se_expand", activation="hard_sigmoid", batchnorm=False)
        return layers.Multiply(name=f"{block.name}_se_multiply")([x, gate])

    def block(self, x: Any, block: ScaledBlock) -> Any:
        """One inverted residual block."""
        shortcut = x
        if block.has_expand:
            x = self.conv(x, block.expansion, f"{block.name}_expand", activation=block.activation)
        x = self.depthwise(x, block)
        if block.squeeze:
            x = self.squeeze_excite(x, block)
        x = self.conv(x, block.out, f"{block.name}_project")
        return layers.Add(name=f"{block.name}_add")([shortcut, x]) if block.residual else x


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


def _check(spec: NetworkSpec, input_shape: Sequence[int | None], alpha: float, classes: int, pooling: str | None,
           dropout: float) -> None:
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
    if not 0 <= dropout < 1:
        raise InputError(f"dropout is {dropout}; it must be at least 0 and below 1.")
    for key in ("inplanes", "class_squeeze", "class_expand"):
        width = getattr(spec, key)
        if width is not None and width < 1:
            raise InputError(f"{key} is {width}; at least 1 channel is needed.")
