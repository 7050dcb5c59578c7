"""The public constructors: a network by name or table, with random, published or your own weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnv3_tf.backend import keras
from mnv3_tf.network.build import build, select_outputs
from mnv3_tf.network.spec import NetworkSpec, find_spec, in_dialect, with_normalization, with_widths
from mnv3_tf.weights.loading import assign_weights, find_weights


def MobileNetV3(
    spec: str | NetworkSpec = "large",
    *,
    input_shape: Sequence[int | None] | None = None,
    alpha: float = 1.0,
    classes: int = 1000,
    include_top: bool = True,
    pooling: str | None = None,
    dropout_rate: float = 0.2,
    classifier_activation: str | None = None,
    include_preprocessing: bool = True,
    batchnorm_momentum: float = 0.99,
    inplanes: int | None = None,
    class_squeeze: int | None = None,
    class_expand: int | None = None,
    dialect: str | None = None,
    outputs: str | Sequence[str] | None = None,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    name: str | None = None,
) -> keras.Model:
    """Builds the network.

    The arguments of keras.applications have its names. Two defaults differ: no weights, and logits instead of softmax.

    Args:
        spec: a built-in name (large, small, large_minimalistic, small_minimalistic) or a table of your own
            (:func:`mnv3_tf.read_block_table`).
        input_shape: (height, width, channels), height and width at least 32 or None. The default is that of `input_tensor`, or
            (224, 224, 3).
        alpha: width multiplier, > 0.
        classes: width of the classifier, used with `include_top`.
        include_top: with the pooling, the last convolutions and the classifier.
        pooling: without the top: None (feature map), "avg" or "max" (a vector per picture).
        dropout_rate: share dropped before the classifier, in [0, 1).
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
        input_tensor: a Keras tensor (batch, height, width, channels) to build the network on; the model then begins where that
            tensor's own graph begins.
        name: of the Keras model.

    Returns:
        A `keras.Model`; its output is (batch, classes) logits, or what `include_top`, `pooling` and `outputs` ask for.

    Raises:
        InputError: an argument is out of range, or there are no such weights; the message says what is allowed.
    """
    spec = find_spec(spec) if isinstance(spec, str) else spec
    spec = in_dialect(spec, dialect) if dialect is not None else spec
    spec = with_widths(spec, inplanes, class_squeeze, class_expand)
    if weights is not None:
        source, tensors, normalization = find_weights(weights, spec, alpha, top=include_top)
        spec = with_normalization(spec, *(normalization or ()))
    model, stages = build(
        spec, input_shape=input_shape, alpha=alpha, classes=classes, include_top=include_top, pooling=pooling,
        dropout_rate=dropout_rate, classifier_activation=classifier_activation, include_preprocessing=include_preprocessing,
        batchnorm_momentum=batchnorm_momentum, input_tensor=input_tensor, name=name)
    if weights is not None:
        assign_weights(model, tensors, source)
    if outputs is None:
        return model
    return keras.Model(model.input, select_outputs(model, stages, outputs), name=model.name)


def MobileNetV3Large(*, minimalistic: bool = False, **arguments: Any) -> keras.Model:
    """MobileNetV3-Large: 5.5 M parameters at alpha 1 and 1000 classes. Arguments as for :func:`MobileNetV3`."""
    return MobileNetV3("large_minimalistic" if minimalistic else "large", **arguments)


def MobileNetV3Small(*, minimalistic: bool = False, **arguments: Any) -> keras.Model:
    """MobileNetV3-Small: 2.6 M parameters at alpha 1 and 1000 classes. Arguments as for :func:`MobileNetV3`."""
    return MobileNetV3("small_minimalistic" if minimalistic else "small", **arguments)
