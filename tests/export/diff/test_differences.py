"""What differs between two artefacts, with right values."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.config import load_config
from mnv3_tf.data import write_labels
from mnv3_tf.errors import InputError
from mnv3_tf.export.convert.convert import convert, open_source
from mnv3_tf.export.diff.compare import compare
from mnv3_tf.export.diff.files import match_tensors
from mnv3_tf.export.diff.networks import Layer, ranges, relative_distance, structure, weights
from mnv3_tf.export.diff.result import Differences, Group
from mnv3_tf.files import read_json, write_json
from mnv3_tf.quantization.graph import load_graph, save_graph
from mnv3_tf.tflite.file import read_tflite

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def files(ptq_run: Path, qat_run: Path) -> dict[str, Path]:
    folder = ptq_run.parent / "compared"
    made = {name: convert(open_source(run), folder / f"{name}.tflite", io=io).path for name, run, io in (
        ("int8", ptq_run, "int8"), ("uint8", ptq_run, "uint8"), ("qat", qat_run, "int8"))}
    shutil.copy(made["int8"], folder / "lone.tflite")
    return {**made, "lone": folder / "lone.tflite"}


@pytest.fixture
def copy(float_run: Path, ptq_run: Path, tmp_path: Path) -> Path:
    for run in (float_run, ptq_run):
        shutil.copytree(run, tmp_path / run.name)
    return tmp_path


def group(found: Differences, heading: str) -> tuple[str, ...]:
    return next((group.sentences for group in found.groups if group.heading.startswith(heading)), ())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float", "quantized", "keras", "tflite"])
def test_a_copy_is_identical_in_everything(kind: str, copy: Path, float_run: Path, ptq_run: Path, files: dict[str, Path]) -> None:
    a, b = {"float": (float_run, copy / "float"), "quantized": (ptq_run, copy / "ptq"),
            "keras": (float_run / "model.keras", copy / "float" / "model.keras"), "tflite": (files["int8"], files["int8"])}[kind]
    found = compare(a, b)
    assert found.identical and found.not_compared == []
    assert {"class names", "preprocessing", "library versions"} <= set(found.compared)
    if kind != "tflite":
        assert {"metrics", "pictures", "network structure", "weights", "configuration", "seeds"} <= set(found.compared)
    assert any("identical in everything compared: kind, class names" in line for line in found.lines())


def test_two_quantized_runs_of_one_parent(ptq_run: Path, qat_run: Path) -> None:
    found = compare(ptq_run, qat_run)
    (before, old), (after, new) = (load_graph(run / "quantized.npz") for run in (ptq_run, qat_run))
    assert len(found.relations) == 1 and found.relations[0].startswith("Both come from ") and "model.keras" in found.relations[0]
    assert group(found, "Kind") == ("method: ptq -> qat",)
    assert {"class names", "preprocessing", "parentage", "pictures", "calibration pictures"} <= set(found.compared)
    assert {g.heading for g in found.groups} <= {"Kind", "Metrics", "Weights", "Activation ranges"}
    head, first, *rest = group(found, "Weights")
    kernels = [op.name for op in before.ops if op.kernel is not None]
    assert head.startswith(f"{len(kernels)} of {len(kernels)} layers differ") and len(rest) == len(kernels) - 1
    distances = {}
    for name in kernels:
        one, two = (np.concatenate([graph[name].kernel.ravel(), graph[name].bias]).astype(float) for graph in (before, after))
        distances[name] = np.linalg.norm(two - one) / np.linalg.norm(one)
    worst = max(distances, key=distances.get)
    kernel = np.linalg.norm(after[worst].kernel.astype(float) - before[worst].kernel) / np.linalg.norm(before[worst].kernel)
    assert first.replace("/", "_").startswith(f"{worst}: kernel {kernel:.2%}")
    moved = {name: max(abs(new[name][0] - low), abs(new[name][1] - high)) / (high - low) for name, (low, high) in old.items()}
    head, first, *rest = group(found, "Activation ranges")
    worst = max(moved, key=moved.get)
    assert first.replace("/", "_").startswith(f"{worst}: ") and first.endswith(f"({moved[worst]:.2%} of its span)")
    assert head == f"{sum(change > 0 for change in moved.values())} of {len(old)} ranges differ"


def test_a_run_and_what_was_quantized_from_it(float_run: Path, ptq_run: Path) -> None:
    found = compare(float_run, ptq_run)
    assert found.relations == ["B was quantized from A."]
    assert compare(ptq_run, float_run).relations == ["A was quantized from B."]
    assert group(found, "Kind") == ("A is a float run, B is a quantized run",)
    assert group(found, "Network structure") == ()
    # Kernels are fitted to 8 bits, which moves them a little; channels that were divided are compared as they are there.
    moved = [float(share) for sentence in group(found, "Weights of the folded networks")[1:]
             for share in re.findall(r"kernel ([\d.]+)%", sentence)]
    assert len(moved) == 19 and 0 < max(moved) < 60
    assert found.not_compared == ["activation ranges, which A lacks"]


def test_a_lowering_may_have_its_former_name(small_file: Path, tmp_path: Path) -> None:
    files = [tmp_path / name / small_file.name for name in ("fused", "native")]
    for file in files:
        file.parent.mkdir()
        shutil.copy(small_file, file)
        card = read_json(small_file.with_suffix(".card.json"))
        write_json(file.with_suffix(".card.json"), {**card, "lowering": file.parent.name})
    assert compare(*files).identical


def test_settings_labels_contract_and_scores(copy: Path, float_run: Path) -> None:
    other = copy / "float"
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("epochs: 12", "epochs: 13"))
    write_labels(other / "labels.txt", ("green", "blue", "pink"))
    contract = (other / "preprocessing.json").read_text()
    (other / "preprocessing.json").write_text(contract.replace('"bilinear"', '"area"'))
    card = read_json(other / "run.json")
    top1 = card["metrics"]["test"]["top1"]
    card["metrics"]["test"].update(top1=top1 - 1 / 36, loss=2.0)
    card["data"]["train"].update(fingerprint="0" * 64, pictures=95)
    card["seeds"], card["versions"]["numpy"] = {"train": 7}, "0.1"
    write_json(other / "run.json", card)
    found = compare(float_run, other)
    assert [g.heading for g in found.groups] == ["Class names", "Preprocessing", "Metrics", "Pictures", "Configuration", "Seeds",
                                                 "Library versions"]
    assert group(found, "Class names") == ("the order differs: output 0 of A is 'blue', which is output 1 of B",
                                           "'red' is only in A", "'pink' is only in B")
    assert group(found, "Preprocessing") == ("interpolation: bilinear -> area",)
    sentence, = group(found, "Metrics")
    assert sentence.startswith(f"test: top-1 {top1:.4f} -> {top1 - 1 / 36:.4f} (-2.78 points), loss ")
    assert sentence.endswith("-> 2.0000, on 36 pictures")
    assert group(found, "Pictures") == ("train: other pictures or class names (96 pictures in A, 95 in B)",)
    assert group(found, "Configuration") == ("train.epochs: 12 -> 13",)
    assert group(found, "Seeds") == ("train: 0 -> 7",)
    assert group(found, "Library versions")[0].endswith("-> 0.1")
    assert not found.identical and load_config(other / "config.yaml").train.epochs == 13


@pytest.mark.slow
def test_cards_that_are_old_or_missing(copy: Path, float_run: Path) -> None:
    write_json(copy / "float" / "run.json", {"kind": "float run", "metrics": "none", "versions": {}})
    found = compare(float_run, copy / "float")
    assert {"metrics, which B lacks", "pictures, which B lacks", "seeds, which B lacks"} <= set(found.not_compared)
    (copy / "float" / "run.json").unlink()
    assert compare(float_run, copy / "float").identical


def test_structure_weights_and_ranges_by_hand() -> None:
    def layer(*kernel: float, what: str = "conv") -> Layer:
        return Layer(what, {"kernel": np.float32(kernel)})

    old = {"stem": layer(3, 4), "a": layer(1, 1), "b": layer(1, 1), "gone": layer(1), "wide": layer(1, 2)}
    new = {"stem": layer(3, 4), "a": layer(1, 1.5), "b": layer(1, 3), "come": layer(1, what="depthwise"), "wide": layer(1, 2, 3)}
    assert list(structure(old, new)) == ["gone (conv) is only in A", "come (depthwise) is only in B",
                                         "wide: weights kernel 2 -> kernel 3"]
    head, *rest = weights(old, new)
    assert head.startswith("2 of 3 layers differ, 1 are equal bit for bit")
    assert rest == ["b: kernel 141.42%", "a: kernel 35.36%"]
    assert ranges({"x": (0, 4), "y": (-1, 1), "z": (0, 1)}, {"x": (0, 5), "y": (-2, 1), "w": (0, 1)}) == [
        "z: quantized only in A", "w: quantized only in B", "2 of 2 ranges differ",
        "y: -1..1 -> -2..1 (50.00% of its span)", "x: 0..4 -> 0..5 (25.00% of its span)"]
    zero = np.zeros(2)
    assert relative_distance(zero, zero) == 0 and np.isinf(relative_distance(zero, np.ones(2)))


def test_a_changed_layer_is_named(copy: Path, ptq_run: Path) -> None:
    path = copy / "ptq" / "quantized.npz"
    graph, spans = load_graph(path)
    name = next(op.name for op in graph.ops if op.kind == "depthwise")
    graph[name].kernel[...] *= np.float32(1.5)
    save_graph(path, graph, spans)
    found = compare(ptq_run, copy / "ptq")
    head, only = group(found, "Weights")
    assert head.startswith("1 of ") and only.replace("/", "_") == f"{name}: kernel 50.00%".replace("/", "_")
    assert [g.heading for g in found.groups] == ["Weights"]


def test_files_of_other_input_types(files: dict[str, Path]) -> None:
    found = compare(files["int8"], files["uint8"])
    assert len(found.relations) == 1 and "quantized.npz" in found.relations[0]
    assert group(found, "Kind") == ("io: int8 -> uint8",)
    assert group(found, "Input and output")[0] == ("input: int8 1x32x48x3, scale 0.00784314, zero point 0 -> "
                                                   "uint8 1x32x48x3, scale 0.00784314, zero point 128")
    assert set(group(found, "Operators")) == {"QUANTIZE (uint8->int8): +1 (0 -> 1)", "QUANTIZE (int8->uint8): +1 (0 -> 1)"}
    assert group(found, "Constants") == () and group(found, "Scales") == ()
    difference = files["uint8"].stat().st_size - files["int8"].stat().st_size
    assert f"({difference:+,}, " in group(found, "Size")[0]


def test_files_of_two_quantized_runs(files: dict[str, Path], ptq_run: Path) -> None:
    found = compare(files["int8"], files["qat"])
    assert found.relations == [f"Both come from {(ptq_run.parent / 'float' / 'model.keras').resolve()}."]
    sentence, = group(found, "Parentage")
    assert f"A was converted from {(ptq_run / 'quantized.npz').resolve()} (" in sentence and "qat/quantized.npz" in sentence
    assert group(found, "Operators") == ()
    ours, theirs = (read_tflite(files[name]) for name in ("int8", "qat"))
    pairs, by = match_tensors(ours, theirs)
    assert by == "operator order" and len(pairs) == len({i for op in ours.operators for i in (*op.inputs, *op.outputs) if i >= 0})
    quantized = [(a, b) for a, b in pairs if a.scales and a.dtype != "int32"]
    changes = [max(abs(y / x - 1) for x, y in zip(a.scales, b.scales, strict=True)) for a, b in quantized]
    head, first, *_ = group(found, "Scales")
    moved = sum((a.scales, a.zero_points) != (b.scales, b.zero_points) for a, b in quantized)
    assert head.startswith(f"{moved} of {len(changes)} ")
    assert f"{max(changes):.2%}" in first
    assert group(found, "Constants")[1].endswith("of its bytes differ")


def test_one_changed_byte_of_a_kernel(files: dict[str, Path], tmp_path: Path) -> None:
    content = bytearray(files["lone"].read_bytes())
    tensors = read_tflite(files["lone"]).tensors
    tensor = max((t for t in tensors if t.dtype == "int8" and t.is_constant), key=lambda t: t.buffer_bytes)
    content[content.index(tensor.data.tobytes())] ^= 1
    (tmp_path / "b.tflite").write_bytes(content)
    found = compare(files["lone"], tmp_path / "b.tflite")
    assert [g.heading.split(" (")[0] for g in found.groups] == ["Constants"]
    assert group(found, "Constants")[1].endswith(f": {1 / len(tensor.data):.2%} of its bytes differ")
    assert "class names, which A and B lack" in found.not_compared


def test_a_run_and_a_file(files: dict[str, Path], ptq_run: Path, float_run: Path, qat_run: Path) -> None:
    found = compare(ptq_run, files["int8"])
    assert found.relations == ["B was converted from A."]
    assert [g.heading for g in found.groups] == ["Kind"] and {"class names", "preprocessing"} <= set(found.compared)
    assert found.not_compared == [
        "weights, because a .tflite file holds them in another form; `mnv3 verify` compares the answers"]
    assert compare(files["int8"], float_run).relations == ["A was converted from a quantized run of B."]
    assert compare(files["int8"], qat_run).relations[0].startswith("Both come from ")
    assert compare(files["int8"], qat_run).not_compared[0].startswith("weights")


def test_long_groups_are_cut_in_text_only(float_run: Path) -> None:
    found = compare(float_run, float_run)
    found.groups = [Group("Weights", tuple(f"layer {number}" for number in range(13)))]
    assert "  layer 9" in found.lines() and "  layer 10" not in found.lines() and "  ... and 3 more" in found.lines()
    assert len(found.to_dict()["groups"][0]["sentences"]) == 13


@pytest.mark.parametrize(("name", "message"), [("none", "there is no such"),
                                               ("notes.txt", "is not a run folder, .keras or .tflite"),
                                               ("empty", "neither model.keras nor"), ("broken.tflite", "not a TFLite file")])
def test_what_is_no_artefact(name: str, message: str, tmp_path: Path, files: dict[str, Path]) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "broken.tflite").write_text("no model, just words")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        compare(files["int8"], tmp_path / name)
