"""TensorFlow.js graph models: what is stored, what is fused, and what is wrong with a file."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from foreign_models import SIDE, SPEC, answers, folded, folded_network, frozen, fused, relative, write_tfjs

from mnv3_tf.errors import InputError
from mnv3_tf.weights.graphs import read_convolutions
from mnv3_tf.weights.graphs.assign import to_keras
from mnv3_tf.weights.graphs.match import require_match
from mnv3_tf.weights.graphs.tfjs import read_tfjs


def test_unfused_graph_gives_the_same_logits(network: keras.Model, tfjs: Path) -> None:
    found = read_convolutions(tfjs)
    kinds = {node["op"] for node in json.loads(tfjs.read_text())["modelTopology"]["node"]}
    assert {"Rsqrt", "DepthwiseConv2dNative", "BiasAdd", "Relu6"} <= kinds
    assert (found.height, found.width, found.residual_adds) == (SIDE, SIDE, (1, 3))
    assert found.stopped is None and found.classes == 5
    assert found.pixel_scale == pytest.approx((1 / 127.5,) * 3) and found.pixel_offset == pytest.approx((-1,) * 3)
    assigned = to_keras(found, require_match(found, specs=[SPEC]))
    assert relative(answers(assigned.model), answers(network)) < 1e-5


@pytest.mark.slow
def test_fused_graph_in_a_folder_with_shards(network: keras.Model, tmp_path: Path) -> None:
    graph = fused(frozen(folded_network(network), (1, SIDE, SIDE, 3)))
    assert {"_FusedConv2D", "FusedDepthwiseConv2dNative"} <= {node.op for node in graph.node}
    assert not {"Conv2D", "Rsqrt", "BiasAdd"} & {node.op for node in graph.node}
    write_tfjs(graph, tmp_path / "model.json", shards=3)
    found = read_convolutions(tmp_path)
    assigned = to_keras(found, require_match(found, specs=[SPEC]))
    assert relative(answers(assigned.model), answers(network)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "limit"), [("float16", 1e-2), ("uint16", 1e-3)])
def test_smaller_storage(network: keras.Model, tmp_path: Path, storage: str, limit: float) -> None:
    """The older layout too: the files share a base name of their own."""
    found = read_convolutions(write_tfjs(frozen(network, (1, SIDE, SIDE, 3)), tmp_path / "net.json", storage=storage))
    assigned = to_keras(found, require_match(found, specs=[SPEC]))
    assert relative(answers(assigned.model), answers(network)) < limit


def test_uint8_kernels_are_within_half_a_step(network: keras.Model, tmp_path: Path) -> None:
    found = read_convolutions(write_tfjs(frozen(network, (1, SIDE, SIDE, 3)), tmp_path / "net.json", storage="uint8"))
    quantized = 0
    for conv, (kernel, _) in zip(found.convolutions, folded(network), strict=True):
        if conv.kernel_step is not None:
            step = conv.kernel_step[:, None] if conv.kind == "depthwise" else conv.kernel_step
            assert np.all(np.abs(conv.kernel - kernel) <= 0.501 * step + 1e-6), conv.layer
            quantized += 1
    assert quantized > 8


def test_numbers_are_read_as_the_format_says(tmp_path: Path) -> None:
    """By hand: uint8 with scale 0.5 and minimum -1, float16, int32, across two files."""
    node = [{"name": "x", "op": "Placeholder", "attr": {"shape": {"shape": {"dim": [{"size": "-1"}, {"size": "-1"}]}}}},
            *({"name": name, "op": "Const"} for name in "abc"),
            {"name": "y", "op": "Mul", "input": ["z", "a"]}, {"name": "z", "op": "AddV2", "input": ["x:0", "b", "^c"]}]
    weights = [{"name": "a", "shape": [3], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1}},
               {"name": "b", "shape": [], "dtype": "float32", "quantization": {"dtype": "float16"}},
               {"name": "c", "shape": [1], "dtype": "int32"}]
    (tmp_path / "1.bin").write_bytes(bytes([0, 2, 255]) + b"\x00")
    (tmp_path / "2.bin").write_bytes(b"\x42" + b"\xff\xff\xff\xff")
    (tmp_path / "m.json").write_text(json.dumps({"modelTopology": {"node": node},
                                                 "weightsManifest": [{"paths": ["1.bin", "2.bin"], "weights": weights}]}))
    graph = read_tfjs(tmp_path / "m.json")
    assert graph.constants["a"].value.tolist() == [-1.0, 0.0, 126.5]
    assert graph.constants["b"].value == 3.0 and graph.constants["c"].value.tolist() == [-1]
    assert [operator.name for operator in graph.operators] == ["z", "y"]
    assert (graph.height, graph.input, graph.outputs) == (None, "x", ("y",))


def _damaged(tfjs: Path, tmp_path: Path, change: str) -> Path:
    for file in tfjs.parent.iterdir():
        shutil.copy(file, tmp_path)
    path = tmp_path / tfjs.name
    document = json.loads(path.read_text())
    nodes = document["modelTopology"]["node"]
    if change == "cut":
        (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:-8])
    elif change == "long":
        (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes() + b"12345678")
    elif change == "gone":
        (tmp_path / "model.bin").unlink()
    elif change in ("/model.bin", "../model.bin", "a\\..\\model.bin", "C:model.bin"):
        document["weightsManifest"][0]["paths"] = [change]
    elif change == "layers":
        document["modelTopology"] = {"model_config": {}}
    elif change == "loop":
        nodes[-1]["input"] = [nodes[-1]["name"]]
    elif change == "lost":
        nodes[-1]["input"] = ["nowhere"]
    elif change == "two inputs":
        nodes.append({"name": "second", "op": "Placeholder"})
    elif change == "nameless":
        del nodes[3]["name"]
    elif change == "nchw":
        conv = next(node for node in nodes if node["op"] == "Conv2D")
        conv["attr"]["data_format"] = {"s": "TkNIVw=="}
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(("change", "message"), [
    ("cut", "model.bin: ends within weight"), ("long", "do not belong together"), ("gone", "model.bin: cannot be read"),
    ("layers", "layers model; only graph models"), ("loop", "depends on itself"), ("lost", "'nowhere', which is not in the file"),
    ("two inputs", "has 2 inputs"), ("nameless", "is damaged .KeyError: 'name'"), ("nchw", "its data format is NCHW"),
    *((name, "only files beside it are read") for name in ("/model.bin", "../model.bin", "a\\..\\model.bin", "C:model.bin"))])
def test_damage_is_named(tfjs: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_convolutions(_damaged(tfjs, tmp_path, change))
