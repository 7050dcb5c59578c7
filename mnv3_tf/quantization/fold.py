"""Folds a trained Keras model into the folded network: BatchNorm and activations go into the convolutions."""

import dataclasses
from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from mnv3_tf.backend import keras
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.quantization.graph import FoldedGraph, Kind, Op
from mnv3_tf.text import few


def trace(model: keras.Model) -> FoldedGraph:
    """Folds a trained model into the folded network.

    Args:
        model: flat functional Keras model of built-in layers, from pixels 0..255 to logits.

    Raises:
        InputError: the model has layers or shapes that the folded network has no operation for; the message names all of them.
    """
    return _Tracer(model).graph()


class _Refused(Exception):
    """A layer has no operation; the text says why."""


class _Tracer:
    """Walks the layers in order and folds each into the operations so far."""

    def __init__(self, model: keras.Model):
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise InputError(f"{model.name}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of each is "
                             "needed. Build it with include_top=True and without `outputs`.")
        self._model = model
        self._ops: dict[str, Op] = {}
        self._alias: dict[str, str] = {}
        self._rescale: tuple[float, tuple[float, float, float]] | None = None
        self._channel_scales: np.ndarray | None = None
        self._padded: dict[str, keras.Layer] = {}
        self._refused: dict[str, str] = {}
        self._uses = Counter(parent for layer in model.layers for parent in self._parents(layer))

    @staticmethod
    def _parents(layer: keras.Layer) -> list[str]:
        if isinstance(layer, keras.layers.InputLayer):
            return []
        tensors = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
        return [tensor._keras_history.operation.name for tensor in tensors]

    def graph(self) -> FoldedGraph:
        height, width, channels = self._model.inputs[0].shape[1:]
        if not height or not width or channels != 3:
            raise InputError(f"{self._model.name}: the input is {self._model.inputs[0].shape}; a fixed size and 3 channels "
                             "are needed to deploy it.")
        foreign = [operation.name for operation in self._model.operations if not isinstance(operation, keras.layers.Layer)
                   or isinstance(operation, keras.Model)]
        if foreign:
            raise InputError(f"{self._model.name}: holds models or operators among its layers ({few(foreign)}). Take it over "
                             "first, which makes plain layers of them: mnv3 import-weights MODEL.keras --labels FILE --out RUN.")
        for layer in self._model.layers:
            try:
                self._add(layer, [self._alias.get(name, name) for name in self._parents(layer)])
            except _Refused as refusal:
                self._refused[layer.name] = f"\n- layer {layer.name!r} ({type(layer).__name__}): {refusal}"
                self._put("flatten", layer, [])  # in its place, so that what follows can be judged
        if self._refused:
            raise InputError(f"{self._model.name}: not every layer can be computed in 8 bits.{''.join(self._refused.values())}\n"
                             "What can be is convolutions with BatchNormalization, ReLU, ReLU6 or hard-swish behind them, "
                             "squeeze-and-excite, additions and a global average pooling, from one Rescaling to logits; "
                             "`mnv3 import-weights` makes that of many models.")
        if self._rescale is None:
            raise InputError(f"{self._model.name}: takes no pixels 0..255 (it has no Rescaling layer at its input). Build it "
                             "with include_preprocessing=True.")
        output = self._model.outputs[0]._keras_history.operation.name
        if list(self._ops)[-1] != self._alias.get(output, output):
            raise KitError(f"{self._model.name}: the last layer is not the output.")
        scale, offset = self._rescale
        return FoldedGraph(tuple(self._ops.values()), height, width, scale, offset)

    def _add(self, layer: keras.Layer, inputs: list[str]) -> None:
        kinds: list[tuple[type, Any]] = [
            (keras.layers.InputLayer, partial(self._put, "input")), (keras.layers.Rescaling, self._rescaling),
            (keras.layers.DepthwiseConv2D, self._conv), (keras.layers.Conv2D, self._conv),
            (keras.layers.ZeroPadding2D, self._pad), (keras.layers.BatchNormalization, self._batchnorm),
            (keras.layers.ReLU, self._relu),
            (keras.layers.Activation, self._activation), (keras.layers.Dropout, self._identity),
            (keras.layers.GlobalAveragePooling2D, self._pool), (keras.layers.Multiply, self._merge),
            (keras.layers.Add, self._merge), (keras.layers.Flatten, partial(self._put, "flatten"))]
        for kind, fold in kinds:
            if isinstance(layer, kind):
                # What only shapes the result of a refused layer cannot be judged.
                if self._refused.keys() & set(inputs) and not isinstance(layer, keras.layers.Conv2D):
                    self._identity(layer, inputs)
                else:
                    fold(layer, inputs)
                return
        raise _Refused("this kind of layer has no integer form here")

    def _put(self, kind: Kind, layer: keras.Layer, inputs: list[str], *details: Any) -> None:
        self._ops[layer.name] = Op(layer.name, kind, tuple(inputs), *details)

    def _rescaling(self, layer: Any, inputs: list[str]) -> None:
        scales, offsets = (np.atleast_1d(np.asarray(value, np.float64)) for value in (layer.scale, layer.offset))
        fits = all(value.shape in ((1,), (3,)) for value in (scales, offsets)) and (scales > 0).all()
        if self._ops[inputs[0]].kind != "input" or self._rescale is not None or not fits:
            raise _Refused("only one Rescaling, by a positive number or one for each channel, right after the input, can be "
                           "folded")
        # One scale for all channels; how much more or less each has goes into the first kernel.
        common = float(scales.mean())
        low, middle, high = np.broadcast_to(common * offsets / scales, 3)
        self._rescale = common, (float(low), float(middle), float(high))
        if np.ptp(scales):
            self._channel_scales = (scales / common).astype(np.float32)
        self._alias[layer.name] = inputs[0]

    def _pad(self, layer: Any, inputs: list[str]) -> None:
        """Leaves it to the convolution behind."""
        self._padded[layer.name] = layer
        self._alias[layer.name] = inputs[0]

    def _padding(self, layer: Any) -> str:
        """How a convolution is padded, with the padding layer before it, if any."""
        before = self._padded.get(self._parents(layer)[0])
        if before is None:
            return str(layer.padding)
        height, width = layer.kernel_size
        expected = ((height // 2, height // 2), (width // 2, width // 2))
        if layer.padding != "valid" or tuple(map(tuple, before.padding)) != expected or self._uses[before.name] != 1 \
                or height % 2 == 0 or width % 2 == 0:
            raise _Refused(f"only (kernel - 1) / 2 zeros on every side ({before.name}), before a single convolution without "
                           "padding of its own, can be deployed")
        return "symmetric"

    def _conv(self, layer: Any, inputs: list[str]) -> None:
        kind: Kind = "depthwise" if isinstance(layer, keras.layers.DepthwiseConv2D) else "conv"
        if layer.strides[0] != layer.strides[1] or tuple(layer.dilation_rate) != (1, 1) or \
                layer.data_format != "channels_last" or layer.activation is not keras.activations.linear:
            raise _Refused("needs equal strides, no dilation, channels_last and its activation as a layer")
        if kind == "conv" and layer.groups != 1:
            raise _Refused("grouped convolutions have no integer form here")
        if kind == "depthwise" and layer.depth_multiplier != 1:
            raise _Refused("needs depth_multiplier 1")
        kernel = _float32(layer.kernel)
        bias = _float32(layer.bias) if layer.use_bias else np.zeros(kernel.shape[2 if kind == "depthwise" else 3], np.float32)
        if self._ops[inputs[0]].kind == "input":
            if kind == "depthwise":
                raise _Refused("the first convolution must not be a depthwise one")
            if self._channel_scales is not None:
                kernel = kernel * self._channel_scales[:, None]
        self._put(kind, layer, inputs, kernel, bias, layer.strides[0], self._padding(layer))

    def _fold_into(self, layer: keras.Layer, name: str, **changes: Any) -> None:
        """Changes a convolution that only this layer uses, and lets this layer's name stand for it."""
        self._ops[name] = dataclasses.replace(self._ops[name], **changes)
        self._alias[layer.name] = name

    def _single(self, layer: keras.Layer, name: str) -> Op | None:
        """The convolution before this layer, if nothing else takes its output and nothing was fused behind it."""
        raw = self._parents(layer)[0]
        op = self._ops[name]
        fine = op.kind in ("conv", "depthwise") and op.activation is None and self._uses[raw] == 1
        return op if fine else None

    def _batchnorm(self, layer: Any, inputs: list[str]) -> None:
        op = self._single(layer, inputs[0])
        if op is None or op.kernel is None or op.bias is None:
            raise _Refused("can only be folded into a convolution whose output nothing else takes")
        mean, variance = (np.asarray(v, np.float64) for v in (layer.moving_mean, layer.moving_variance))
        gamma = np.asarray(layer.gamma, np.float64) if layer.scale else np.ones_like(mean)
        beta = np.asarray(layer.beta, np.float64) if layer.center else np.zeros_like(mean)
        factor = gamma / np.sqrt(variance + layer.epsilon)
        per_kernel = factor[:, None] if op.kind == "depthwise" else factor
        self._fold_into(layer, op.name, kernel=(op.kernel * per_kernel).astype(np.float32),
                        bias=(beta + (op.bias - mean) * factor).astype(np.float32))

    def _relu(self, layer: Any, inputs: list[str]) -> None:
        op = self._single(layer, inputs[0])
        if op is None or layer.max_value not in (None, 6) or layer.negative_slope or layer.threshold:
            raise _Refused("only a plain ReLU or ReLU6 right after a convolution can be folded")
        self._fold_into(layer, op.name, activation="relu" if layer.max_value is None else "relu6")

    def _activation(self, layer: Any, inputs: list[str]) -> None:
        function = layer.activation
        if function is keras.activations.linear:
            self._identity(layer, inputs)
        elif function in (keras.activations.relu, keras.activations.relu6):
            op = self._single(layer, inputs[0])
            if op is None:
                raise _Refused("only a ReLU or ReLU6 right after a convolution can be folded")
            self._fold_into(layer, op.name, activation=function.__name__)
        elif function in (keras.activations.hard_silu, keras.activations.hard_swish):
            self._put("hard_swish", layer, inputs)
        elif function is keras.activations.hard_sigmoid:
            if self._single(layer, inputs[0]) is None:
                raise _Refused("a hard-sigmoid must follow a convolution whose output nothing else takes")
            self._put("hard_sigmoid", layer, inputs)
        else:
            name = getattr(function, "__name__", str(function))
            hint = "; the folded network ends in logits" if name == "softmax" else ""
            raise _Refused(f"the activation {name} has no integer form here{hint}")

    def _identity(self, layer: keras.Layer, inputs: list[str]) -> None:
        self._alias[layer.name] = inputs[0]

    def _pool(self, layer: Any, inputs: list[str]) -> None:
        if not layer.keepdims:
            raise _Refused("needs keepdims=True")
        if tuple(layer.input.shape[1:3]) == (1, 1):  # the mean of one place; the converter leaves it out as well
            self._identity(layer, inputs)
            return
        self._put("pool", layer, inputs)

    def _merge(self, layer: keras.Layer, inputs: list[str]) -> None:
        if len(inputs) != 2:
            raise _Refused("needs exactly two inputs")
        self._put("multiply" if isinstance(layer, keras.layers.Multiply) else "add", layer, inputs)


def _float32(value: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(keras.ops.cast(value, "float32")), np.float32)
