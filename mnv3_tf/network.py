"""Keras 3 functional MobileNetV3 from a block table, with built-in layers only.

Layer names follow the place in the network: ``stem_conv``, ``block_07_depthwise``, ``head_conv``, ``classifier``. Reports
print them as ``block_07/depthwise`` (:func:`mnv3_tf.layer_names.display_name`), since Keras 3 allows no slash in a layer's name.

Source: Howard et al., "Searching for MobileNetV3" (2019); with the same arguments, parameters, shapes and outputs are those
of keras.applications; other published implementations are dialects of the same builder (:mod:`mnv3_tf.spec`).
"""

import dataclasses
import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import layers

from mnv3_tf.errors import InputError
from mnv3_tf.spec import (
    Dialect,
    NetworkSpec,
    ScaledBlock,
    check_alpha,
    find_spec,
    head_widths,
    in_dialect,
    make_divisible,
    scale_blocks,
    stem_width,
)
from mnv3_tf.yaml_text import nearest

SMALLEST_SIDE = 32


def MobileNetV3(
    spec: str | NetworkSpec = "large",
    *,
    input_shape: Sequence[int | None] = (224, 224, 3),
    alpha: float = 1.0,
    classes: int = 1000,
    include_top: bool = True,
    pooling: str | None = None,
    dropout: float = 0.2,
    classifier_activation: str | None = None,
    include_preprocessing: bool = True,
    batchnorm_momentum: float = 0.99,
    inplanes: int | None = None,
    class_squeeze: int | None = None,
    class_expand: int | None = None,
    dialect: str | None = None,
    outputs: str | Sequence[str] | None = None,
    weights: str | Path | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds the network.

    Args:
        spec: a built-in name (large, small, large_minimalistic, small_minimalistic) or a table of your own
            (:func:`mnv3_tf.read_block_table`).
        input_shape: (height, width, channels), height and width at least 32 or None.
        alpha: width multiplier, > 0.
        classes: width of the classifier, used with `include_top`.
        include_top: with the pooling, the last convolutions and the classifier.
        pooling: without the top: None (feature map), "avg" or "max" (a vector per picture).
        dropout: share dropped before the classifier, in [0, 1).
        classifier_activation: None for logits (what training, quantization and conversion expect) or, say, "softmax".
        include_preprocessing: the input is RGB pixels 0..255 and a Rescaling layer maps them to what the dialect's stem
            expects ([-1, 1] for keras); without, the input is expected like that.
        batchnorm_momentum: of the running statistics. keras.applications has 0.999, which needs thousands of steps.
        inplanes, class_squeeze, class_expand: channels of the stem, of the convolution before pooling (scaled by alpha) and
            of the one after it; None keeps the table's.
        dialect: whose details (padding, rounding, normalization, head, ...) the network has: keras, torchvision, timm,
            timm_tf or paddle; None: the table's own, or keras.
        outputs: instead of the classifier's output, a dict of named feature maps: "pyramid" for the last map of every
            stride, or stage names (``stride_8``), layer names or patterns (``block_0*_add``).
        weights: None for random numbers; "imagenet" for what the dialect's package published for this network, of 1000 classes;
            the name of published weights; or a `.keras` file or run folder of the same network. The normalization of the pixels
            is then that of the weights.
        name: of the Keras model.

    Returns:
        A `keras.Model`; its output is (batch, classes) logits, or what `include_top`, `pooling` and `outputs` ask for.

    Raises:
        InputError: an argument is out of range, or there are no such weights; the message says what is allowed.
    """
    spec = find_spec(spec) if isinstance(spec, str) else spec
    spec = in_dialect(spec, dialect) if dialect is not None else spec
    changes: dict[str, Any] = {"inplanes": inplanes, "class_squeeze": class_squeeze, "class_expand": class_expand}
    spec = dataclasses.replace(spec, **{key: value for key, value in changes.items() if value is not None})
    _check(spec, input_shape, alpha, classes, pooling, dropout)
    found = None
    if weights is not None:
        from mnv3_tf.weights.loading import assign_weights, find_weights, with_their_normalization

        found = find_weights(weights, spec, alpha, top=include_top)
        spec = with_their_normalization(spec, found.normalization)
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
    name = name or f"mobilenet_v3_{spec.name}"
    model = keras.Model(image, x, name=name)
    if found is not None:
        assign_weights(model, found)
    if outputs is None:
        return model
    return keras.Model(image, _select_outputs(model, stages, outputs), name=name)


def MobileNetV3Large(*, minimalistic: bool = False, **arguments: Any) -> keras.Model:
    """MobileNetV3-Large: 5.5 M parameters at alpha 1 and 1000 classes. Arguments as for :func:`MobileNetV3`."""
    return MobileNetV3("large_minimalistic" if minimalistic else "large", **arguments)


def MobileNetV3Small(*, minimalistic: bool = False, **arguments: Any) -> keras.Model:
    """MobileNetV3-Small: 2.6 M parameters at alpha 1 and 1000 classes. Arguments as for :func:`MobileNetV3`."""
    return MobileNetV3("small_minimalistic" if minimalistic else "small", **arguments)


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


def _select_outputs(model: keras.Model, stages: dict[str, Any], wanted: str | Sequence[str]) -> dict[str, Any]:
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


__all__ = ["MobileNetV3", "MobileNetV3Large", "MobileNetV3Small", "make_divisible"]
