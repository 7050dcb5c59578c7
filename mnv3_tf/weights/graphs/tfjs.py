"""Reads a TensorFlow.js graph model: the topology in a JSON file, the weights in `.bin` files beside it.

Source: the format as tfjs-converter writes it (`modelTopology`, `weightsManifest`; weights optionally stored as float16, or as
uint8 or uint16 with a scale and a minimum).
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.files import read_bytes, read_json
from mnv3_tf.weights.graphs.graph import Constant, Graph, Operator, Tensor, zero_pads

_DTYPES = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "bool": "u1", "uint8": "u1", "uint16": "<u2"}
_ARITHMETIC = {"Add": "add", "AddV2": "add", "BiasAdd": "add", "Sub": "sub", "Mul": "mul", "RealDiv": "div", "Div": "div",
               "Neg": "neg", "Rsqrt": "rsqrt", "Relu": "relu"}
_SAME_VALUES = {"Identity": "identity", "StopGradient": "identity", "Cast": "identity", "Snapshot": "identity",
                "Reshape": "reshape", "Squeeze": "reshape", "ExpandDims": "reshape"}
_CONVOLUTIONS = {"Conv2D": "conv", "_FusedConv2D": "conv", "DepthwiseConv2dNative": "depthwise",
                 "FusedDepthwiseConv2dNative": "depthwise", "_FusedDepthwiseConv2dNative": "depthwise",
                 "MatMul": "fully_connected", "_FusedMatMul": "fully_connected"}
_BATCHNORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")


def is_tfjs(path: str | Path) -> bool:
    """Whether a path looks like a TensorFlow.js model: a `.json` file, or a folder that holds a `model.json`."""
    return Path(path).suffix == ".json" or (Path(path) / "model.json").is_file()


def weight_files(path: str | Path) -> dict[str, Path]:
    """The files of a graph model's weights, by the names that its manifest gives them; for one that :func:`read_tfjs` reads."""
    path = _document_path(path)
    return {name: path.parent / name for group in read_json(path)["weightsManifest"] for name in group["paths"]}


def _document_path(path: str | Path) -> Path:
    return Path(path) / "model.json" if Path(path).is_dir() else Path(path)


def read_tfjs(path: str | Path) -> Graph:
    """Reads a graph model.

    Args:
        path: the `.json` file, or the folder of a `model.json`; the `.bin` files lie beside it under the names that it gives.

    Raises:
        InputError: a file is missing, cut or of another kind; the message names it and what to do.
    """
    path = _document_path(path)
    document = read_json(path)
    if not isinstance(document, Mapping) or "modelTopology" not in document:
        raise InputError(f"{path}: is not a TensorFlow.js model (it has no modelTopology). Give the model.json of a graph model.")
    topology = document["modelTopology"]
    if not isinstance(topology, Mapping) or not isinstance(topology.get("node"), list):
        raise InputError(f"{path}: is a TensorFlow.js layers model; only graph models can be read. Convert it with "
                         "tensorflowjs_converter --output_format=tfjs_graph_model.")
    try:
        return _read(path, topology["node"], document.get("weightsManifest"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: the graph model is damaged ({type(error).__name__}: {error}). Download it again.") from error


def _read(path: Path, listed: list[Any], manifest: Any) -> Graph:
    """The graph of a topology and its weights."""
    weights = _read_weights(path, manifest)
    nodes = {str(node["name"]): node for node in listed}
    order = _execution_order(path, nodes)
    constants: dict[Tensor, Constant] = {}
    for name in order:
        if nodes[name]["op"] == "Const":
            if name not in weights:
                raise InputError(f"{path}: the weights lack {name!r}, which the topology needs. Download both files again.")
            constants[name] = weights[name]
    inputs = [name for name in order if nodes[name]["op"] == "Placeholder"]
    if len(inputs) != 1:
        raise InputError(f"{path}: has {len(inputs)} inputs ({', '.join(inputs)}); a network with one picture is needed.")
    shape = _shape(nodes[inputs[0]])
    operators = [_operator(path, number, nodes[name], constants) for number, name in enumerate(order)
                 if nodes[name]["op"] not in ("Const", "Placeholder", "NoOp")]
    used = {tensor for operator in operators for tensor in operator.inputs}
    outputs = tuple(tensor for operator in operators for tensor in operator.outputs if tensor not in used)
    height, width, channels = shape[1:] if len(shape) == 4 else (None, None, None)
    return Graph(str(path), "tfjs", operators, constants, inputs[0], outputs, height, width, channels)


def _read_weights(path: Path, manifest: Any) -> dict[str, Constant]:
    """All weights by name, in real numbers."""
    if not isinstance(manifest, list):
        raise InputError(f"{path}: has no weightsManifest, so its weights cannot be read.")
    weights: dict[str, Constant] = {}
    for group in manifest:
        files = [_beside(path, name) for name in group["paths"]]
        content = b"".join(read_bytes(file) for file in files)
        offset = 0
        for entry in group["weights"]:
            stored = entry.get("quantization", {}).get("dtype", entry["dtype"])
            if stored not in _DTYPES:
                raise InputError(f"{path}: weight {entry['name']!r} is stored as {stored}; allowed: {', '.join(_DTYPES)}.")
            dtype, count = np.dtype(_DTYPES[stored]), math.prod(entry["shape"])
            if offset + count * dtype.itemsize > len(content):
                raise InputError(f"{files[-1]}: ends within weight {entry['name']!r} ({len(content)} bytes). "
                                 "Download the file again.")
            raw = np.frombuffer(content, dtype, count, offset).reshape(entry["shape"])
            offset += count * dtype.itemsize
            weights[entry["name"]] = _constant(raw, entry)
        if offset != len(content):
            raise InputError(f"{files[-1]}: holds {len(content)} bytes where {path.name} describes {offset}; "
                             "the two do not belong together.")
    return weights


def _beside(path: Path, name: Any) -> Path:
    """A file of weights, which lies in the folder of the JSON file or below it."""
    if not isinstance(name, str) or not name or name.startswith(("/", "\\")) or PureWindowsPath(name).drive \
            or ".." in re.split(r"[/\\]", name):
        raise InputError(f"{path}: its weightsManifest names the file {name!r}; only files beside it are read. Put the weights "
                         "there and name them so.")
    return path.parent / name


def _constant(raw: np.ndarray, entry: Mapping[str, Any]) -> Constant:
    quantization = entry.get("quantization")
    if quantization and quantization["dtype"] != "float16":
        value = raw.astype(np.float64) * quantization["scale"] + quantization["min"]
        return Constant(value.astype(np.float32), np.full((1,) * raw.ndim, quantization["scale"], np.float32))
    return Constant(raw.astype(np.float32 if entry["dtype"] == "float32" else np.int64))


def _execution_order(path: Path, nodes: Mapping[str, Any]) -> list[str]:
    """Names so that every node comes after its inputs; the file's own order where that leaves a choice."""
    order: list[str] = []
    state: dict[str, bool] = {}  # False: being visited, True: done
    for first in nodes:
        stack = [first]
        while stack:
            name = stack[-1]
            if state.get(name):
                stack.pop()
                continue
            state[name] = False
            waiting = [source for source in map(_source, nodes[name].get("input", ())) if not state.get(source)]
            for source in waiting:
                if source not in nodes:
                    raise InputError(f"{path}: node {name!r} takes {source!r}, which is not in the file; it is corrupt.")
                if source in state:
                    raise InputError(f"{path}: node {name!r} depends on itself; graphs with loops cannot be read.")
            if not waiting:
                state[name] = True
                order.append(name)
                stack.pop()
            stack.extend(reversed(waiting))
    return order


def _source(name: str) -> str:
    """The node that makes a tensor: ``^node`` is a control dependency, ``node:1`` a second result."""
    return name.removeprefix("^").partition(":")[0]


def _operator(path: Path, number: int, node: Mapping[str, Any], constants: Mapping[Tensor, Constant]) -> Operator:
    """A node as a neutral operator."""
    name, op = str(node["name"]), str(node["op"])
    inputs = tuple(source.removesuffix(":0") for source in node.get("input", ()) if not source.startswith("^"))
    place = f"node {number} {op} {name!r}"
    attributes = node.get("attr", {})

    def made(kind: str, *, take: int | None = None, activation: str | None = None, **values: Any) -> Operator:
        return Operator(place, kind, inputs[:take], (name,), name, values, activation)

    def value(index: int) -> np.ndarray | None:
        constant = constants.get(inputs[index]) if len(inputs) > index else None
        return None if constant is None else constant.value

    def whole(index: int) -> list[int]:
        constant = value(index)
        return [] if constant is None else [int(number) for number in np.ravel(constant)]

    if _text(attributes, "data_format", "NHWC") != "NHWC":
        return made("other", reason="its data format is NCHW; only NHWC is read")
    if op in _ARITHMETIC or (op == "AddN" and len(inputs) == 2):
        return made(_ARITHMETIC.get(op, "add"))
    if op in _SAME_VALUES:
        shape: dict[str, Any] = {"shape": tuple(whole(1))} if op == "Reshape" and whole(1) else {}
        return made(_SAME_VALUES[op], take=1, **shape)
    if op in _CONVOLUTIONS:
        return _convolution(made, op, attributes)
    if op == "Relu6":
        return made("clip", low=0.0, high=6.0)
    if op in ("Minimum", "Maximum"):
        return made("minimum" if op == "Minimum" else "maximum")
    if op == "ClipByValue" and value(1) is not None and value(2) is not None:
        return made("clip", take=1, low=float(value(1)), high=float(value(2)))  # type: ignore[arg-type]
    if op in _BATCHNORMS:
        return made("batchnorm", epsilon=float(attributes.get("epsilon", {}).get("f", 1e-4)))
    if op == "Mean" and value(1) is not None:
        return made("mean", take=1, axes=tuple(whole(1)))
    if op == "AvgPool":
        return made("average_pool", window=_pair(attributes, "ksize"), stride=_pair(attributes, "strides"),
                    padding=_text(attributes, "padding", "VALID").lower())
    if op in ("Pad", "PadV2") and (pads := zero_pads(whole(1), np.zeros(()) if op == "Pad" else value(2))):
        return made("pad", take=1, pads=pads)
    return made("other")


def _convolution(made: Callable[..., Operator], op: str, attributes: Mapping[str, Any]) -> Operator:
    """A convolution or matrix product, with what is fused after it."""
    fused = _texts(attributes, "fused_ops")
    has_bias = bool(fused) and fused[0] == "BiasAdd"
    fused = fused[has_bias:]
    if len(fused) > 1 or (fused and not has_bias and op.startswith(("_Fused", "Fused"))):
        return made("other", reason=f"it fuses {' and '.join(fused)}")
    activation = {"Relu": "relu", "Relu6": "relu6"}.get(fused[0], fused[0]) if fused else None
    if _CONVOLUTIONS[op] == "fully_connected":
        if attributes.get("transpose_a", {}).get("b"):
            return made("other", reason="its first factor is transposed")
        return made("fully_connected", take=3, activation=activation,
                    transposed=bool(attributes.get("transpose_b", {}).get("b")))
    padding: Any = _text(attributes, "padding", "VALID").lower()
    if padding == "explicit":
        padding = tuple(_integers(attributes, "explicit_paddings")[2:6])
    return made(_CONVOLUTIONS[op], take=3, activation=activation, stride=_pair(attributes, "strides"),
                dilation=_pair(attributes, "dilations"), padding=padding)


def _decoded(value: Any) -> str:
    """An attribute's text, which the format stores in base64."""
    try:
        return base64.b64decode(str(value), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return str(value)


def _text(attributes: Mapping[str, Any], key: str, default: str) -> str:
    value = attributes.get(key, {}).get("s")
    return default if value is None else _decoded(value)


def _texts(attributes: Mapping[str, Any], key: str) -> list[str]:
    return [_decoded(value) for value in (attributes.get(key, {}).get("list") or {}).get("s", [])]


def _integers(attributes: Mapping[str, Any], key: str) -> list[int]:
    return [int(value) for value in (attributes.get(key, {}).get("list") or {}).get("i", [])]


def _pair(attributes: Mapping[str, Any], key: str) -> tuple[int, int]:
    """The vertical and horizontal of four values (batch, height, width, channels)."""
    values = _integers(attributes, key)
    return (values[1], values[2]) if len(values) == 4 else (1, 1)


def _shape(node: Mapping[str, Any]) -> list[int | None]:
    dims = node.get("attr", {}).get("shape", {}).get("shape", {}).get("dim", [])
    sizes = [int(dim.get("size", -1)) for dim in dims]
    return [size if size > 0 else None for size in sizes]
