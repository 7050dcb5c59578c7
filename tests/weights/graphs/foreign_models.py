"""Small networks, and the files that other converters make of them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mnv3_tf.network.spec import Block, NetworkSpec

# Four blocks with everything that matters to a walk: a residual on the stem's hard-swish, a gate, both activations, strides.
SPEC = NetworkSpec("four", (Block(3, 16, 16, False, "relu", 1), Block(5, 48, 24, True, "relu", 2),
                            Block(3, 72, 24, True, "hard_swish", 1), Block(5, 96, 32, False, "hard_swish", 2)),
                   "hard_swish", class_expand=64)
SIDE = 32


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives BatchNorms and biases numbers that a trained network could have."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            width = layer.gamma.shape[0]
            layer.set_weights([rng.uniform(0.6, 1.6, width), rng.normal(0, 0.3, width), rng.normal(0, 0.3, width),
                               rng.uniform(0.5, 1.5, width)])
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
    return model


def build(**arguments: Any) -> keras.Model:
    """The four blocks in Keras."""
    from mnv3_tf import MobileNetV3

    keras.utils.set_random_seed(1)
    return randomize(MobileNetV3(SPEC, **{"input_shape": (SIDE, SIDE, 3), "classes": 5, **arguments}))


def folded_network(model: keras.Model) -> keras.Model:
    """The same function without a BatchNorm: every convolution has a bias."""
    weights = iter(folded(model))

    def layer(old: Any) -> Any:
        settings = old.get_config()
        return old.__class__.from_config({**settings, "use_bias": True} if "use_bias" in settings else settings)

    def call(new: Any, *inputs: Any, **_: Any) -> Any:
        return inputs[0] if isinstance(new, keras.layers.BatchNormalization) else new(*inputs)

    copy = keras.models.clone_model(model, clone_function=layer, call_function=call)
    for new in copy.layers:
        if hasattr(new, "use_bias"):
            new.set_weights(next(weights))
    return copy


def noise(count: int = 4, side: int = SIDE) -> np.ndarray:
    """Pictures of random pixels."""
    return np.random.default_rng(7).integers(0, 256, (count, side, side, 3)).astype(np.float32)


def folded(model: keras.Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of every convolution in order, with the BatchNorm after it folded in."""
    norms = {layer.input._keras_history.operation.name: layer for layer in model.layers
             if isinstance(layer, keras.layers.BatchNormalization)}
    pairs = []
    for layer in model.layers:
        if not isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
            continue
        kernel = np.asarray(layer.kernel, np.float64)
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        bias = np.zeros(kernel.shape[2 if depthwise else 3]) if layer.bias is None else np.asarray(layer.bias, np.float64)
        if layer.name in norms:
            norm = norms[layer.name]
            gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in norm.get_weights())
            factor = gamma / np.sqrt(variance + norm.epsilon)
            kernel, bias = kernel * (factor[:, None] if depthwise else factor), beta + (bias - mean) * factor
        pairs.append((kernel, bias))
    return pairs


def answers(model: keras.Model, pixels: np.ndarray | None = None) -> np.ndarray:
    """What a model says of :func:`noise`, or of other pictures."""
    return np.asarray(model(noise() if pixels is None else pixels, training=False))


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference as a share of the largest value."""
    wanted = np.reshape(wanted, np.shape(found))
    return float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))


def frozen(model: Callable[[Any], Any], shape: tuple[int | None, ...]) -> Any:
    """The GraphDef of a model with its variables as constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(lambda x: tf.identity(model(x), name="answer")).get_concrete_function(tf.TensorSpec(shape, tf.float32))
    return convert_variables_to_constants_v2(function).graph.as_graph_def()


def fused(graph: Any) -> Any:
    """The same with a bias and a ReLU fused into every convolution that has them, as the TensorFlow.js converter does."""
    uses: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    for conv in list(graph.node):
        if conv.op not in ("Conv2D", "DepthwiseConv2dNative") or len(uses[conv.name]) != 1:
            continue
        last, ops = uses[conv.name][0], [b"BiasAdd"]
        if last.op != "BiasAdd":
            continue
        bias = last.input[1]
        if len(uses[last.name]) == 1 and uses[last.name][0].op in ("Relu", "Relu6"):
            graph.node.remove(last)
            last = uses[last.name][0]
            ops.append(last.op.encode())
        last.op = "_FusedConv2D" if conv.op == "Conv2D" else "FusedDepthwiseConv2dNative"
        del last.input[:]
        last.input.extend([*conv.input, bias])
        for key in ("strides", "padding", "data_format", "dilations"):
            last.attr[key].CopyFrom(conv.attr[key])
        last.attr["fused_ops"].list.s.extend(ops)
        graph.node.remove(conv)
    return graph


def write_tfjs(graph: Any, path: Path, *, storage: str = "float32", shards: int = 1) -> Path:
    """Writes a graph as a TensorFlow.js graph model: weights in `.bin` files beside the JSON.

    `storage` is what kernels are stored as: "float32", "float16", or "uint8" or "uint16" with a scale and a minimum.
    """
    from google.protobuf import json_format
    from tensorflow import make_ndarray

    weights, content = [], b""
    for node in graph.node:
        if node.op == "Const":
            value = np.asarray(make_ndarray(node.attr["value"].tensor))
            if value.dtype.kind not in "fi":
                continue
            entry: dict[str, Any] = {"name": node.name, "shape": list(value.shape),
                                     "dtype": "float32" if value.dtype.kind == "f" else "int32"}
            stored = value.astype("<f4" if value.dtype.kind == "f" else "<i4")
            if storage == "float16" and stored.dtype.kind == "f":
                stored = stored.astype("<f2")
                entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
            elif storage.startswith("uint") and stored.dtype.kind == "f" and stored.ndim == 4:
                low, span = float(stored.min()), float(stored.max() - stored.min())
                step = span / np.iinfo(storage).max
                stored = np.round((stored - low) / step).astype(np.dtype(storage).newbyteorder("<"))
                entry["quantization"] = {"dtype": storage, "scale": step, "min": low, "original_dtype": "float32"}
            weights.append(entry)
            content += stored.tobytes()
            node.attr["value"].tensor.tensor_content = b""
    size = math.ceil(len(content) / shards)
    names = [f"{path.stem}.bin" if shards == 1 else f"group1-shard{i + 1}of{shards}.bin" for i in range(shards)]
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (path.parent / name).write_bytes(content[number * size:(number + 1) * size])
    topology = json_format.MessageToDict(graph)
    path.write_text(json.dumps({"format": "graph-model", "modelTopology": {"node": topology["node"]},
                                "weightsManifest": [{"paths": names, "weights": weights}]}))
    return path
