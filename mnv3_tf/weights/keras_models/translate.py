"""Translates the calls of a Keras model into plain layers: from one Rescaling of the pixels to logits, without what only training
does, the activations as layers of their own, and vectors as maps of one place, so that a Dense is a 1x1 convolution."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv3_tf.weights.graphs.walk import same_pads
from mnv3_tf.weights.keras_models.calls import Call, Tensor

# What changes nothing when a network predicts.
_TRAINING_ONLY = ("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization",
                  "Identity", "Cast", "RandAugment", "AugMix", "MixUp", "CutMix")
_RANDOM = "Random"  # begins the names of Keras's augmentations
_ACTIVATIONS = {"hard_silu": "hard_swish", "Relu": "relu", "Relu6": "relu6", "HardSilu": "hard_swish",
                "HardSigmoid": "hard_sigmoid", "Sigmoid": "sigmoid", "Softmax": "softmax"}
_ENDS = ("softmax", "sigmoid")
_UNKNOWN = "unknown"
# Layers that the network which is built has beside these.
_OWN = {"image", "rescale", "logits"}


class NotTranslated(Exception):
    """A call has no form here; the text says why."""


@dataclass
class Plain:
    """A layer of the network as it is built again.

    Attributes:
        name: unique; that of the user's layer.
        kind: the Keras class: Conv2D, DepthwiseConv2D, BatchNormalization, ReLU, Activation, GlobalAveragePooling2D, Multiply,
            Add or ZeroPadding2D.
        inputs: names; "" is the picture.
        settings: arguments of the class.
        weights: in the order of the Keras layer's.
        shape: (height, width, channels) of the result.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    settings: dict[str, Any]
    weights: tuple[np.ndarray, ...] = ()
    shape: tuple[int, int, int] = (0, 0, 0)

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution of either kind."""
        return self.kind in ("Conv2D", "DepthwiseConv2D")


@dataclass(frozen=True)
class _Value:
    """What a tensor of the source is: ``scale * form(layer) + offset``, padded by `pads`.

    A form ("hard_sigmoid", "hard_swish") is not a layer yet, since sources write them in several steps.
    """

    layer: str
    shape: tuple[int, int, int]
    form: str = ""
    scale: np.ndarray = dataclasses.field(default_factory=lambda: np.asarray(1.0))
    offset: np.ndarray = dataclasses.field(default_factory=lambda: np.asarray(0.0))
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    end: str = ""

    @property
    def is_bare(self) -> bool:
        """Whether nothing is left to be done to the layer's result."""
        return not self.form and not self.is_scaled and not any(self.pads)

    @property
    def is_scaled(self) -> bool:
        return bool(np.any(self.scale != 1.0) or np.any(self.offset))


@dataclass(frozen=True)
class Translation:
    """The network of a Keras model.

    Attributes:
        layers: in the order of computation; the first takes the picture.
        output: name of the last.
        rescaling: (scale, offset), each (3,): the first convolution sees ``scale * pixel + offset``; None where the model does
            not rescale.
        end: "softmax", "sigmoid" or "" (logits), which the layers leave out.
        height, width: of the picture.
        dropout: the rate of the last Dropout, None without.
        notes: what was left out or changed, a sentence each.
    """

    layers: list[Plain]
    output: str
    rescaling: tuple[np.ndarray, np.ndarray] | None
    end: str
    height: int
    width: int
    dropout: float | None
    notes: tuple[str, ...]


def translate(calls: list[Call], image: Tensor, output: Tensor, size: tuple[int, int]) -> Translation | list[str]:
    """The network of a model's calls, or what of it has no form here, a line each.

    Args:
        calls, image, output: from :func:`mnv3_tf.weights.keras_models.calls.read_calls`.
        size: (height, width) of the picture.
    """
    translator = _Translator(calls, image, size)
    for call in calls:
        translator.step(call)
    return translator.finish(output)


class _Translator:
    def __init__(self, calls: list[Call], image: Tensor, size: tuple[int, int]):
        self._layers: dict[str, Plain] = {}
        self._values: dict[int, _Value] = {image: _Value("", (*size, 3))}
        self._uses = Counter(value for call in calls for value in call.operands if isinstance(value, Tensor))
        self._shared: set[str] = set()  # layers whose result several calls take
        self._formed: dict[tuple[str, str], str] = {}
        self._refused: list[str] = []
        self._rescaling: tuple[np.ndarray, np.ndarray] | None = None
        self._rescaled: tuple[np.ndarray, np.ndarray] | None = None  # what the first convolution sees, rescaled or not
        self._size = size
        self._dropout: float | None = None
        self._left: list[str] = []
        self._notes: list[str] = []
        rules: dict[str, Callable[[Call, _Value], _Value]] = {
            "Conv2D": self._convolution, "DepthwiseConv2D": self._convolution, "SeparableConv2D": self._separable,
            "Dense": self._dense, "BatchNormalization": self._batchnorm, "SyncBatchNormalization": self._batchnorm,
            "ReLU": self._relu, "Activation": lambda call, value: self._activate(call.name, value, call.layer.activation),
            "Softmax": lambda call, value: self._end("softmax", value), "GlobalAveragePooling2D": self._pool,
            "AveragePooling2D": self._average, "Flatten": lambda call, value: value, "Reshape": self._reshape,
            "ZeroPadding2D": self._pad, "Rescaling": lambda call, value: self._scaled(value, call.layer.scale, call.layer.offset),
            "Normalization": self._normalization, "Resizing": self._resizing, "Add": self._add, "Multiply": self._multiply,
            "Subtract": self._subtract, "TrueDivide": self._divide, "Divide": self._divide}
        self._rules = rules | {kind: self._operator for kind in _ACTIVATIONS if kind not in rules}

    def step(self, call: Call) -> None:
        """Translates a call; what follows a refused one takes it for its input, so that all of them are found."""
        taken = []
        for value in call.operands:
            if isinstance(value, Tensor):
                if value not in self._values:  # a further result of a call, which is refused
                    self._values[value] = self._unknown(call)
                taken.append(self._values[value])
        try:
            value = self._translated(call, taken)
        except NotTranslated as refusal:
            self._refused.append(f"layer {call.name!r} ({call.kind}): {refusal}")
            value = self._unknown(call)
        self._values[call.output] = value
        if self._uses[call.output] > 1:
            self._shared.add(value.layer)

    def _unknown(self, call: Call) -> _Value:
        shape = tuple(side or 1 for side in call.shape)
        height, width, channels = (1, 1, 1, *shape)[-3:]
        return _Value(self._put(Plain(call.name, _UNKNOWN, (), {}), (height, width, channels)), (height, width, channels))

    def _translated(self, call: Call, taken: list[_Value]) -> _Value:
        if not taken:
            raise NotTranslated("it takes no tensor of the network")
        value = taken[0]
        own = type(call.layer).__module__.partition(".")[0] in ("keras", "tf_keras")
        if own and (call.kind in _TRAINING_ONLY or (call.kind.startswith(_RANDOM) and call.kind != "RandomCrop")):
            if call.kind == "Dropout":
                self._dropout = float(call.layer.rate)
            elif call.kind.startswith(_RANDOM):
                self._left.append(call.name)
            return value
        if not own or call.kind not in self._rules:
            raise NotTranslated("this kind of layer has no integer form here" if own else
                                f"it is a layer of your own ({type(call.layer).__module__}); only Keras's own are known")
        if any(one.end for one in taken) and call.kind not in ("Flatten", "Reshape"):
            raise NotTranslated(f"it takes the result of a {value.end}")
        if getattr(call.layer, "data_format", None) == "channels_first":
            raise NotTranslated("channels come first; they must come last, as on phones")
        return self._rules[call.kind](call, value)

    # Layers with weights.

    def _convolution(self, call: Call, value: _Value) -> _Value:
        layer = call.layer
        is_depthwise = call.kind == "DepthwiseConv2D"
        if not is_depthwise and layer.groups != 1:
            raise NotTranslated("grouped convolutions have no integer form here")
        if is_depthwise and layer.depth_multiplier != 1:
            raise NotTranslated(f"makes {layer.depth_multiplier} channels of each; one is needed")
        kernel, *bias = _weights(layer)
        if layer.strides[0] != layer.strides[1] or tuple(layer.dilation_rate) != (1, 1):
            raise NotTranslated("needs equal strides and no dilation")
        value = self._convolve(call.name, value, kernel, bias[0] if bias else None, layer.strides[0], layer.padding,
                               is_depthwise)
        return self._activate(call.name, value, layer.activation)

    def _separable(self, call: Call, value: _Value) -> _Value:
        layer = call.layer
        if layer.depth_multiplier != 1 or layer.strides[0] != layer.strides[1] or tuple(layer.dilation_rate) != (1, 1):
            raise NotTranslated("needs depth_multiplier 1, equal strides and no dilation")
        depthwise, pointwise, *bias = _weights(layer)
        value = self._convolve(f"{call.name}_depthwise", value, depthwise, None, layer.strides[0], layer.padding, True)
        value = self._convolve(call.name, value, pointwise, bias[0] if bias else None, 1, "valid", False)
        return self._activate(call.name, value, layer.activation)

    def _dense(self, call: Call, value: _Value) -> _Value:
        kernel, *bias = _weights(call.layer)
        height, width, channels = value.shape
        if kernel.shape[0] != height * width * channels:
            raise NotTranslated("is applied to each place of a map; give it a 1x1 Conv2D, or a pooling before it")
        value = self._convolve(call.name, value, kernel.reshape(height, width, channels, -1), bias[0] if bias else None, 1,
                               "valid", False)
        return self._activate(call.name, value, call.layer.activation)

    def _convolve(self, name: str, value: _Value, kernel: np.ndarray, bias: np.ndarray | None, stride: int, padding: str,
                  is_depthwise: bool) -> _Value:
        """A convolution that takes what is left to be done to its input into its weights."""
        if value.layer == "":
            if is_depthwise:
                raise NotTranslated("the first convolution must not be a depthwise one")
            value = self._rescale(value)
        source = self._formed_layer(value)
        if value.is_scaled:
            along = (lambda amount: amount[:, None]) if np.ndim(value.scale) else (lambda amount: amount)
            if np.any(value.offset):
                if (padding == "same" and kernel.shape[:2] != (1, 1)) or any(value.pads):
                    raise NotTranslated("takes a map with a constant added, and pads it")
                shift = np.broadcast_to(value.offset, value.shape[2:])
                moved = np.einsum("hwcm,c->c" if is_depthwise else "hwio,i->o", kernel, shift)
                bias = moved if bias is None else bias + moved
            kernel = kernel * along(value.scale)
        pads, padding = self._padding(value, kernel.shape[:2], stride, padding)
        if pads is not None:
            source = self._put(Plain(f"{name}_pad", "ZeroPadding2D", (source,), {"padding": pads}), value.shape)
        lost = [side - 1 if padding == "valid" else 0 for side in kernel.shape[:2]]
        added = (0, 0) if pads is None else (sum(pads[0]), sum(pads[1]))
        height, width = (-(-(side + more - less) // stride) for side, more, less in zip(value.shape, added, lost, strict=False))
        if height < 1 or width < 1:
            raise NotTranslated("the picture is too small for it")
        settings: dict[str, Any] = {"kernel_size": kernel.shape[:2], "strides": stride, "padding": padding,
                                    "use_bias": bias is not None}
        if not is_depthwise:
            settings["filters"] = kernel.shape[3]
        outputs = kernel.shape[2 if is_depthwise else 3]
        layer = Plain(name, "DepthwiseConv2D" if is_depthwise else "Conv2D", (source,), settings,
                      (kernel,) if bias is None else (kernel, bias))
        return _Value(self._put(layer, (height, width, outputs)), (height, width, outputs))

    def _padding(self, value: _Value, kernel: tuple[int, ...], stride: int,
                 padding: str) -> tuple[tuple[tuple[int, int], tuple[int, int]] | None, str]:
        """The ZeroPadding2D that a convolution needs in front, and its own padding."""
        top, bottom, left, right = value.pads
        if not any(value.pads):
            return None, padding
        if padding != "valid":
            raise NotTranslated("pads a map that is padded already")
        if value.pads == same_pads(value.shape[:2], kernel, stride):
            return None, "same"
        if value.pads != (kernel[0] // 2,) * 2 + (kernel[1] // 2,) * 2 or not (kernel[0] % 2 and kernel[1] % 2):
            raise NotTranslated(f"is padded by {value.pads} (top, bottom, left, right); only TensorFlow's SAME and "
                                "(kernel - 1) / 2 on every side have an integer form here")
        return ((top, bottom), (left, right)), "valid"

    def _rescale(self, value: _Value) -> _Value:
        """The picture as the network sees it; a Rescaling is the first layer."""
        scale, offset = (np.broadcast_to(amount, (3,)).astype(np.float64) for amount in (value.scale, value.offset))
        if (scale <= 0).any():
            raise NotTranslated("takes pixels that are turned negative")
        if self._rescaled is not None and not np.array_equal(self._rescaled, (scale, offset)):
            raise NotTranslated("takes the picture in another scale than the first convolution")
        self._rescaled = scale, offset
        self._rescaling = self._rescaled if value.is_scaled else None
        return _Value("", value.shape, pads=value.pads)

    def _batchnorm(self, call: Call, value: _Value) -> _Value:
        layer = call.layer
        if tuple(np.ravel(layer.axis)) not in ((-1,), (len(call.shape),)):
            raise NotTranslated("normalizes along another axis than the channels")
        gamma = _array(layer.gamma) if layer.scale else None
        beta = _array(layer.beta) if layer.center else None
        mean, variance = _array(layer.moving_mean), _array(layer.moving_variance)
        made_by = self._layers.get(value.layer)
        if value.is_bare and made_by is not None and made_by.is_convolution and value.layer not in self._shared:
            weights = [one for one in (gamma, beta, mean, variance) if one is not None]
            settings = {"epsilon": layer.epsilon, "momentum": layer.momentum, "scale": layer.scale, "center": layer.center}
            normalization = Plain(call.name, "BatchNormalization", (value.layer,), settings, tuple(weights))
            return _Value(self._put(normalization, value.shape), value.shape)
        factor = (1.0 if gamma is None else gamma) / np.sqrt(variance + layer.epsilon)
        return self._scaled(value, factor, (0.0 if beta is None else beta) - mean * factor)

    # Activations.

    def _relu(self, call: Call, value: _Value) -> _Value:
        layer = call.layer
        if layer.negative_slope or layer.threshold or layer.max_value not in (None, 6):
            raise NotTranslated("only a plain ReLU or ReLU6 has an integer form here")
        return self._apply(call.name, value, "relu" if layer.max_value is None else "relu6")

    def _operator(self, call: Call, value: _Value) -> _Value:
        return self._apply(call.name, value, _ACTIVATIONS[call.kind])

    def _activate(self, name: str, value: _Value, function: Any) -> _Value:
        """An activation by Keras's function; tf_keras's hard_sigmoid is 0.2x + 0.5 between 0 and 1."""
        kind = getattr(function, "__name__", str(function))
        if kind == "hard_sigmoid" and function.__module__.startswith("tf_keras"):
            value = self._scaled(value, 1.2, 0.0)
        return self._apply(name, value, _ACTIVATIONS.get(kind, kind))

    def _apply(self, name: str, value: _Value, kind: str) -> _Value:
        if kind == "linear":
            return value
        if kind in _ENDS:
            return self._end(kind, value)
        if kind == "relu6" and not value.form and np.all(value.offset == 3.0) and np.all(value.scale == 1.0):
            return dataclasses.replace(value, form="hard_sigmoid", scale=np.asarray(6.0), offset=np.asarray(0.0))
        if kind not in ("relu", "relu6", "hard_swish", "hard_sigmoid"):
            raise NotTranslated(f"the activation {kind} has no integer form here")
        source = self._settled(value)
        if kind != "hard_swish" and not self._is_fresh(source):
            raise NotTranslated(f"a {kind} must follow a convolution, or its BatchNormalization, whose result nothing else "
                                "takes")
        if kind in ("hard_swish", "hard_sigmoid"):
            return _Value(source, value.shape, kind)
        settings = {} if kind == "relu" else {"max_value": 6.0}
        name = f"{name}_{kind}" if name in self._layers else name
        return _Value(self._put(Plain(name, "ReLU", (source,), settings), value.shape), value.shape)

    def _end(self, kind: str, value: _Value) -> _Value:
        return dataclasses.replace(value, end=kind)

    # Operations without weights.

    def _pool(self, call: Call, value: _Value) -> _Value:
        if value.layer == "" or any(value.pads):
            raise NotTranslated("averages something that is no feature map")
        height, width, channels = value.shape
        if (height, width) == (1, 1):
            return value
        source = self._formed_layer(value)
        layer = Plain(call.name, "GlobalAveragePooling2D", (source,), {"keepdims": True})
        return _Value(self._put(layer, (1, 1, channels)), (1, 1, channels), scale=value.scale, offset=value.offset)

    def _average(self, call: Call, value: _Value) -> _Value:
        if tuple(call.layer.pool_size) != value.shape[:2]:
            raise NotTranslated("only the average of the whole map has an integer form here")
        return self._pool(call, value)

    def _reshape(self, call: Call, value: _Value) -> _Value:
        if value.shape[:2] != (1, 1) and tuple(call.shape) != value.shape:
            raise NotTranslated("reorders a map that is not pooled")
        return value

    def _pad(self, call: Call, value: _Value) -> _Value:
        if any(value.pads):
            raise NotTranslated("pads a map that is padded already")
        (top, bottom), (left, right) = call.layer.padding
        return dataclasses.replace(value, pads=(top, bottom, left, right))

    def _normalization(self, call: Call, value: _Value) -> _Value:
        if call.layer.invert:
            raise NotTranslated("undoes a normalization")
        mean, variance = (_array(amount).reshape(-1) for amount in (call.layer.mean, call.layer.variance))
        factor = 1 / np.maximum(np.sqrt(variance), 1e-7)
        return self._scaled(value, factor, -mean * factor)

    def _resizing(self, call: Call, value: _Value) -> _Value:
        if value.layer != "" or value.is_scaled or any(value.pads):
            raise NotTranslated("only the picture itself can be resized")
        self._size = call.layer.height, call.layer.width
        self._notes.append(f"the model's own resizing ({call.name}) is left to the preparation of pictures, which have "
                           f"{self._size[0]}x{self._size[1]} pixels here")
        return _Value("", (*self._size, 3))

    def _add(self, call: Call, value: _Value) -> _Value:
        one, *others = self._operands(call)
        for other in others:
            if isinstance(other, _Value) and isinstance(one, _Value):
                if not (np.all(one.scale == other.scale) and not np.any(one.offset) and not np.any(other.offset)):
                    one, other = self._bare(one), self._bare(other)
                one = self._merged(call, "Add", one, other, one.scale)
            else:
                value, constant = (one, other) if isinstance(one, _Value) else (other, one)
                one = self._scaled(value, 1.0, constant)
        return one

    def _multiply(self, call: Call, value: _Value) -> _Value:
        one, *others = self._operands(call)
        for other in others:
            if not (isinstance(other, _Value) and isinstance(one, _Value)):
                value, constant = (one, other) if isinstance(one, _Value) else (other, one)
                one = self._scaled(value, constant, 0.0)
                continue
            for plain, gate in ((one, other), (other, one)):
                if plain.is_bare and gate.form == "hard_sigmoid" and gate.layer == plain.layer and not np.any(gate.offset):
                    one = dataclasses.replace(gate, form="hard_swish")
                    break
            else:
                if np.any(one.offset) or np.any(other.offset):
                    one, other = self._bare(one), self._bare(other)
                one = self._merged(call, "Multiply", one, other, one.scale * other.scale)
        return one

    def _subtract(self, call: Call, value: _Value) -> _Value:
        one, other = self._operands(call)
        if not isinstance(one, _Value) or isinstance(other, _Value):
            raise NotTranslated("only a constant can be subtracted")
        return self._scaled(one, 1.0, -np.asarray(other, np.float64))

    def _divide(self, call: Call, value: _Value) -> _Value:
        one, other = self._operands(call)
        if not isinstance(one, _Value) or isinstance(other, _Value):
            raise NotTranslated("only division by a constant has a form here")
        return self._scaled(one, 1 / np.asarray(other, np.float64), 0.0)

    def _merged(self, call: Call, kind: str, one: _Value, other: _Value, scale: np.ndarray) -> _Value:
        """A sum or product of two maps, whose common factor is left to what follows."""
        if "" in (one.layer, other.layer) or any(one.pads) or any(other.pads):
            raise NotTranslated("takes the picture, or a padded map")
        inputs = self._formed_layer(one), self._formed_layer(other)
        shape = one.shape if one.shape[:2] >= other.shape[:2] else other.shape
        return _Value(self._put(Plain(call.name, kind, inputs, {}), shape), shape, scale=scale)

    # Tools.

    def _operands(self, call: Call) -> list[Any]:
        return [self._values[value] if isinstance(value, Tensor) else value for value in call.operands]

    def _scaled(self, value: _Value, factor: Any, amount: Any) -> _Value:
        """Multiplied by a factor and then moved by an amount, each a number or one for each channel."""
        factor, amount = self._by_channel(value, factor), self._by_channel(value, amount)
        if any(value.pads) and np.any(amount):
            raise NotTranslated("adds a constant to a padded map")
        return dataclasses.replace(value, scale=value.scale * factor, offset=value.offset * factor + amount)

    def _by_channel(self, value: _Value, amount: Any) -> np.ndarray:
        try:
            array = _array(amount)
        except (TypeError, ValueError):
            raise NotTranslated("takes something that is no constant") from None
        if array.size == 1:
            return array.reshape(())
        if array.size != value.shape[2] or array.shape[-1] != array.size:
            raise NotTranslated(f"takes a constant of shape {array.shape} that is not one number for each channel")
        return array.reshape(-1)

    def _formed_layer(self, value: _Value) -> str:
        """The layer whose result is the value's form, without scale, offset and padding."""
        if not value.form:
            return value.layer
        key = value.layer, value.form
        if key not in self._formed:
            layer = Plain(f"{value.layer}_{value.form}", "Activation", (value.layer,), {"activation": value.form})
            self._formed[key] = self._put(layer, value.shape)
        return self._formed[key]

    def _settled(self, value: _Value) -> str:
        """The layer that makes the value itself; a factor and a constant go back into the convolution before it."""
        if any(value.pads):
            raise NotTranslated("takes a padded map")
        if value.layer == "":
            raise NotTranslated("takes the picture itself; a convolution must come first")
        made_by = self._layers[value.layer]
        if not value.is_scaled or made_by.kind == _UNKNOWN:
            return self._formed_layer(value)
        if value.form or not made_by.is_convolution or value.layer in self._shared:
            raise NotTranslated("takes a map with a factor or a constant that no convolution can take on")
        kernel, *bias = made_by.weights
        along = value.scale[:, None] if made_by.kind == "DepthwiseConv2D" and value.scale.ndim else value.scale
        shift = (bias[0] if bias else 0.0) * value.scale + value.offset
        made_by.weights = kernel * along, np.broadcast_to(shift, value.shape[2:])
        made_by.settings["use_bias"] = True
        return value.layer

    def _is_fresh(self, name: str) -> bool:
        """Whether a layer is a convolution, perhaps with its BatchNormalization, that nothing but the next layer takes."""
        layer = self._layers[name]
        if layer.kind == "BatchNormalization" and name not in self._shared:
            layer = self._layers[layer.inputs[0]]
        return layer.kind == _UNKNOWN or (layer.is_convolution and layer.name not in self._shared)

    def _bare(self, value: _Value) -> _Value:
        return _Value(self._settled(value), value.shape)

    def _put(self, layer: Plain, shape: tuple[int, int, int]) -> str:
        layer.name = layer.name.replace("/", "_")
        taken = self._layers.keys() | _OWN
        if layer.name in taken:
            layer.name = next(name for number in itertools.count(1) if (name := f"{layer.name}_{number}") not in taken)
        layer.shape = shape
        self._layers[layer.name] = layer
        return layer.name

    def finish(self, output: Tensor) -> Translation | list[str]:
        """The whole network; afterwards its last layer makes logits."""
        value = self._values[output]
        last = ""
        try:
            last = self._settled(dataclasses.replace(value, end=""))
        except NotTranslated as refusal:
            self._refused.append(f"the output: {refusal}")
        if self._refused:
            return self._refused
        if self._left:
            self._notes.append(f"augmentation does nothing when the network predicts: left out {', '.join(self._left)}")
        if self._rescaling is not None and (np.ptp(255 * self._rescaling[0]) > 50 or (255 * self._rescaling[0] < 0.1).any()):
            self._notes.append("pixels 0..255 reach the first convolution within "
                               f"{self._rescaling[1].min():.4g}..{(255 * self._rescaling[0] + self._rescaling[1]).max():.4g}: "
                               "they may be rescaled twice, as where a network with its own Rescaling is put behind another; the "
                               "answers are the model's all the same")
        return Translation(list(self._needed(last)), last, self._rescaling, value.end, *self._size, self._dropout,
                           tuple(self._notes))

    def _needed(self, last: str) -> Iterable[Plain]:
        """The layers that the output depends on."""
        wanted, found = {last}, []
        for layer in reversed(self._layers.values()):
            if layer.name in wanted:
                wanted.update(layer.inputs)
                found.append(layer)
        return reversed(found)


def _weights(layer: Any) -> list[np.ndarray]:
    return [_array(value) for value in layer.get_weights()]


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value, np.float64)
