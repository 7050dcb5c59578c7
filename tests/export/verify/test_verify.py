"""The whole verification: sound files hold, planted faults are named."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shared import HERE

from mnv3_tf.artefacts.card import sidecar
from mnv3_tf.data import Sample, Samples, read_labels, write_labels
from mnv3_tf.data.sample_list import Member
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.export.convert.convert import convert, open_source
from mnv3_tf.export.verify import Verification, open_chain, verify
from mnv3_tf.export.verify.reference_kernels import ReferenceKernels
from mnv3_tf.export.verify.report import write_report
from mnv3_tf.export.verify.stages import AS_REFERENCE, DEPLOY, FLOAT, QUANTIZED, REFERENCE, XNNPACK
from mnv3_tf.files import read_json
from mnv3_tf.models import MobileNetV3
from mnv3_tf.network.keras_io import save_keras
from mnv3_tf.network.spec import read_block_table
from mnv3_tf.progress import Silent
from mnv3_tf.quantization.graph import FoldedGraph, Op, load_graph, save_graph

pytestmark = pytest.mark.usefixtures("loaded_once")

Ranges = dict[str, tuple[float, float]]


def check(subject: Path, pictures: Path, **options) -> Verification:
    return verify(open_chain(subject, **options), pictures, progress=Silent())


@pytest.fixture(scope="module")
def sound(small_file: Path, pictures: Path) -> Verification:
    return check(small_file, pictures)


@pytest.mark.slow
def test_every_stage_of_a_sound_file_holds(sound: Verification, small_runs: Path) -> None:
    assert sound.passed, sound.verdict()
    assert [stage.status for stage in sound.stages] == ["holds"] * 5
    assert [stage.scores.samples for stage in sound.stages] == [36] * 5
    assert sound.stages[1].previous.share_of_range < 1e-5
    assert [stage.previous.against for stage in sound.stages[2:]] == [DEPLOY, AS_REFERENCE, QUANTIZED]
    # Not only close: every logit of every picture is the same number, on both kinds of kernels.
    assert [(stage.previous.equal, stage.previous.largest_steps < 1e-3) for stage in sound.stages[3:]] == [(36, True)] * 2
    assert sound.verdict().startswith("Every stage holds on 36 pictures")
    assert sound.float_run == small_runs / "float"


def test_every_tensor_has_a_row_under_the_networks_name(sound: Verification, small_runs: Path) -> None:
    graph, ranges = load_graph(small_runs / "ptq" / "quantized.npz")
    names = [layer.name for layer in sound.layers.layers]
    assert set(ranges) <= set(names)
    assert "block_03_depthwise_hard_swish/gate" in names or "block_03_expand_hard_swish/gate" in names
    stem = sound.layers["stem_conv"]
    low, high = ranges["stem_conv"]
    assert stem.low == pytest.approx(low, abs=0.05) and stem.high == pytest.approx(high, rel=0.02)
    assert stem.own_sqnr_db > 20 and stem.sqnr_db == pytest.approx(stem.own_sqnr_db, abs=0.5)
    assert stem.seen_high >= stem.needed_high > 0 and stem.needed_low >= -3
    assert 40 < stem.channels.sqnr_db < 60  # 8 bits by channel
    assert sound.layers.worst_first()[0].sqnr_db == min(layer.sqnr_db for layer in sound.layers.layers)
    assert graph.classes == 3


def kernel_of(graph: FoldedGraph, name: str, change: Callable[[Op], dict]) -> FoldedGraph:
    return dataclasses.replace(graph, ops=tuple(
        dataclasses.replace(op, **change(op)) if op.name == name else op for op in graph.ops))


def without_a_channel(op: Op) -> dict:
    assert op.kernel is not None
    kernel = op.kernel.copy()
    axes = (0, 1, 3) if op.kind == "depthwise" else (0, 1, 2)
    channel = int(np.abs(kernel).sum(axis=axes).argmax())
    kernel[(slice(None), slice(None), channel) if op.kind == "depthwise" else (..., channel)] = 0
    return {"kernel": kernel}


def plant(fault: str, graph: FoldedGraph, ranges: Ranges) -> tuple[FoldedGraph, Ranges]:
    """A folded network with one fault in it."""
    if fault == "wide range":
        low, high = ranges["block_03_depthwise"]
        return graph, {**ranges, "block_03_depthwise": (10 * low, 10 * high)}
    if fault == "dead channel":
        return kernel_of(graph, "block_03_expand", without_a_channel), ranges
    if fault == "dead depthwise channel":
        return kernel_of(graph, "block_02_depthwise", without_a_channel), ranges
    if fault == "gate range":
        assert ranges["block_04_se_expand_hard_sigmoid"] == (0.0, 1.0)
        return graph, {**ranges, "block_04_se_expand_hard_sigmoid": (0.0, 0.4)}
    if fault == "input off":
        return dataclasses.replace(graph, offset=tuple(offset + 1.0 for offset in graph.offset)), ranges
    if fault == "BGR":
        return kernel_of(graph, "stem_conv", lambda op: {"kernel": np.ascontiguousarray(op.kernel[:, :, ::-1])}), ranges
    assert fault == "class order"
    order = [1, 2, 0]
    return kernel_of(graph, "classifier", lambda op: {"kernel": np.ascontiguousarray(op.kernel[..., order]),
                                                      "bias": op.bias[order]}), ranges


FAULTS = {
    "wide range": ("range", "block_03/depthwise", "times wider than what the pictures need"),
    "dead channel": ("kernel", "block_03/expand", "of its kernel is zero"),
    "dead depthwise channel": ("kernel", "block_02/depthwise", "of its kernel is zero"),
    "gate range": ("gate range", "block_04/se_expand_hard_sigmoid", "a gate's is 0 to 1"),
    "input off": ("input", "input", "off by 127.5"),
    "BGR": ("input", "input", "red and blue are swapped"),
    "class order": ("class order", "output", "output 0 ('blue') answers 'green'"),
}


def assert_named(result: Verification, fault: str, stage: str) -> None:
    kind, where, text = FAULTS[fault]
    first = result.findings[0]
    assert not result.passed
    assert (first.kind, first.where, first.stage) == (kind, where, stage), result.findings
    assert text in first.text and text in result.verdict()
    assert result.broken_stages()[0] == stage and result.verdict().startswith(f"The first broken stage is {stage}.")
    assert {finding.kind for finding in result.findings if finding.broken} == {kind}, result.findings


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_conversion_is_named(fault: str, small_runs: Path, pictures: Path, tmp_path: Path) -> None:
    source = open_source(small_runs / "ptq")
    graph, ranges = plant(fault, source.graph, source.ranges or {})
    file = convert(dataclasses.replace(source, graph=graph, ranges=ranges), tmp_path / "faulty.tflite").path
    assert_named(check(file, pictures), fault, REFERENCE)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_quantization_is_named(fault: str, small_runs: Path, pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "faulty"
    shutil.copytree(small_runs / "ptq", run)
    save_graph(run / "quantized.npz", *plant(fault, *load_graph(run / "quantized.npz")))
    (run / "run.json").unlink()  # its hash would be the first thing to be noticed
    assert_named(check(run, pictures, against=small_runs / "float"), fault, QUANTIZED)


@pytest.fixture
def copied(small_file: Path, tmp_path: Path) -> Path:
    """The file with what lies beside it, in a folder of its own."""
    for file in small_file.parent.glob("small.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / small_file.name


@pytest.mark.slow
def test_class_names_in_another_order_are_named(copied: Path, small_runs: Path, pictures: Path) -> None:
    labels = sidecar(copied, "labels.txt")
    write_labels(labels, read_labels(labels)[::-1])
    result = check(copied, pictures, against=small_runs / "float", quantized=small_runs / "ptq")
    assert not result.passed and result.broken_stages() == [REFERENCE]
    assert (result.findings[0].kind, result.findings[0].where) == ("class order", str(labels))


@pytest.mark.slow
def test_another_contract_is_named(copied: Path, small_runs: Path, pictures: Path) -> None:
    contract = sidecar(copied, "preprocessing.json")
    contract.write_text(contract.read_text().replace('"stretch"', '"crop"'))
    result = check(copied, pictures, against=small_runs / "float", quantized=small_runs / "ptq")
    assert not result.passed and result.findings[0].kind == "preprocessing"
    assert "resize is 'crop' instead of 'stretch'" in result.findings[0].text


@pytest.mark.slow
def test_a_file_that_was_changed_afterwards_is_named(copied: Path, small_runs: Path, pictures: Path) -> None:
    """Bytes at the end change no answer, and still it is not the file that the card is about."""
    copied.write_bytes(copied.read_bytes() + b"tail")
    result = check(copied, pictures, against=small_runs / "float", quantized=small_runs / "ptq")
    assert not result.passed and [stage.status for stage in result.stages] == ["holds"] * 5
    assert (result.findings[0].kind, result.findings[0].where, result.findings[0].stage) == ("card", str(copied), REFERENCE)


@pytest.mark.slow
def test_an_accuracy_that_no_longer_holds_is_named(small_runs: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(small_runs / "ptq", tmp_path / "ptq")
    card = read_json(tmp_path / "ptq" / "run.json")
    before = card["metrics"]["test"]["top1"]
    card["metrics"]["test"]["top1"] = before - 0.25
    (tmp_path / "ptq" / "run.json").write_text(json.dumps(card))
    result = check(tmp_path / "ptq", pictures)
    assert not result.passed
    found, = (finding for finding in result.findings if finding.broken)
    assert (found.kind, found.stage) == ("card", QUANTIZED)
    assert f"the card says {before - 0.25:.4f}, now it is {before:.4f}" in found.text and "at least 9 of them" in found.text


@pytest.mark.slow
def test_without_the_quantized_run_its_stage_is_absent(copied: Path, small_runs: Path, pictures: Path) -> None:
    sidecar(copied, "card.json").unlink()
    result = check(copied, pictures, against=small_runs / "float")
    assert [stage.status for stage in result.stages] == ["holds", "holds", "absent", "holds", "holds"]
    assert result.stages[-1].previous.against != QUANTIZED
    with pytest.raises(InputError, match="Give it with --against RUN"):
        open_chain(copied)


@pytest.mark.slow
def test_a_float_file_is_compared_with_the_float_model(small_runs: Path, pictures: Path, tmp_path: Path) -> None:
    file = convert(open_source(small_runs / "float"), tmp_path / "half.tflite", format="float16").path
    result = check(file, pictures)
    assert result.passed, result.verdict()
    assert [stage.status for stage in result.stages] == ["holds", "holds", "absent", "holds", "holds"]
    assert result.stages[-1].previous.mean_steps < 0.5 and result.layers["stem_conv"].low is None
    assert result.layers["stem_conv"].own_sqnr_db > 50


@pytest.mark.slow
def test_a_file_whose_rounding_is_not_known_is_said_to_be_one(small_runs: Path, pictures: Path, tmp_path: Path) -> None:
    fused = convert(open_source(small_runs / "ptq"), tmp_path / "fused.tflite", lowering="native", io="int8").path
    result = check(fused, pictures)
    assert any("native hard-swishes" in note and "verify.reference_steps" in note for note in result.notes)
    reference = next(stage for stage in result.stages if stage.name == REFERENCE)
    assert reference.previous.against == QUANTIZED
    assert "verify.reference_steps" in [check.setting for check in reference.checks]


def test_wrong_subjects_are_refused(small_runs: Path, small_file: Path, float_run: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a float run\. Give a quantized run"):
        open_chain(small_runs / "float")
    with pytest.raises(InputError, match="there is no such file"):
        open_chain(tmp_path / "none.tflite")
    with pytest.raises(InputError, match=r"goes with a \.tflite file"):
        open_chain(small_runs / "ptq", quantized=small_runs / "ptq")
    with pytest.raises(InputError, match="is not a float run"):
        open_chain(small_file, against=small_runs / "ptq")


@pytest.mark.slow
def test_a_foreign_structure_is_said(small_file: Path, float_run: Path, pictures: Path, tmp_path: Path) -> None:
    """Another network of the same classes and size: answers are compared, tensors cannot be."""
    shutil.copytree(float_run, tmp_path / "other")
    table = tmp_path / "blocks.yaml"
    table.write_text((HERE / "four_blocks.yaml").read_text().replace("[3, 32, 24", "[3, 40, 24"))
    save_keras(MobileNetV3(read_block_table(table), input_shape=(32, 48, 3), classes=3), tmp_path / "other" / "model.keras")
    result = check(small_file, pictures, against=tmp_path / "other")
    assert not result.layers.layers and "is another network than" in result.layers.refused
    assert any("no tensors are compared" in note for note in result.notes)


def test_the_reference_kernels_fail_as_one_line(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"m: the reference kernels ended their process \(exit code 1\): .*TFLite"), \
            ReferenceKernels(b"no file at all", np.zeros((2, 8, 8, 3), np.uint8), "m") as reference:
        reference.logits()


def test_the_reference_kernels_run_in_parts(small_file: Path, sound: Verification, pictures: Path) -> None:
    pixels = np.stack([open_chain(small_file).contract.load(sample.path) for sample in sound.samples])
    many = np.concatenate([pixels, pixels])
    with ReferenceKernels(small_file.read_bytes(), many, "m") as reference:
        found = reference.logits()
    np.testing.assert_array_equal(found[:36], sound.logits[REFERENCE])
    np.testing.assert_array_equal(found[36:], sound.logits[REFERENCE])


def test_the_report_is_one_offline_page(sound: Verification, tmp_path: Path) -> None:
    import html.parser
    import re

    after = sound.logits[XNNPACK].copy()
    after[0] = -after[0]  # one changed answer to show
    changed = dataclasses.replace(sound, logits={**sound.logits, XNNPACK: after}, subject=Path("<b>&.tflite"))
    page = write_report(changed, tmp_path / "report")
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", text) and "<script" not in text and "@import" not in text
    assert "&lt;b&gt;&amp;.tflite" in text and "<b>" not in text
    assert text.count("data:image/jpeg;base64,") == 1 and sound.samples[0].path.name in text
    assert "block_03/depthwise" in text and "McNemar" in text and "prefers-color-scheme: dark" in text
    assert text.count("<svg") >= 2 and "currentColor" in text

    class Balance(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img", "br", "path", "use"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("path", "use"):
                assert self.open.pop() == tag

    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    facts = read_json(tmp_path / "report" / "verification.json")
    assert facts["passed"] and len(facts["flips"]) == 1 and facts["flips"][0]["file"] == str(sound.samples[0].path)
    assert len(facts["rungs"]) == 5 and facts["rungs"][0]["name"] == FLOAT

    shard = Samples.of([Sample(Member(tmp_path / "test-0.tar", f"{number}.png", 0, sample.path.stat().st_size), sample.label)
                        for number, sample in enumerate(sound.samples)])  # type: ignore[union-attr]
    (tmp_path / "test-0.tar").write_bytes(sound.samples[0].path.read_bytes())  # type: ignore[union-attr]
    text = write_report(dataclasses.replace(changed, samples=shard), tmp_path / "other").read_text()
    assert '<span class="quiet">0.png</span>' in text and text.count("data:image/jpeg;base64,") == 1
    facts = read_json(tmp_path / "other" / "verification.json")
    assert facts["flips"][0]["file"] == f"{tmp_path / 'test-0.tar'}: 0.png"
    assert (tmp_path / "report" / "layers.png").stat().st_size > 5000
    json.dumps(facts, allow_nan=False)


@pytest.mark.slow
def test_without_the_quantized_run_the_card_says_how_channels_were_divided(small_runs: Path, small_file: Path, pictures: Path,
                                                                           tmp_path: Path) -> None:
    """The same tensors are compared; without the card they are not judged rather than called broken."""
    for kind in ("tflite", "card.json", "labels.txt", "preprocessing.json"):
        source = small_file.with_name(f"{small_file.stem}.{kind}")
        (tmp_path / source.name).write_bytes(source.read_bytes())
    card = json.loads((tmp_path / "small.card.json").read_text())
    assert card["form"]["channel_sizes"], "a form that divides channels is what this is about"
    card["parent"] = None
    (tmp_path / "small.card.json").write_text(json.dumps(card))
    result = check(tmp_path / "small.tflite", pictures, against=small_runs / "float")
    assert result.layers.refused == "" and result.layers.layers
    assert not any(finding.broken for finding in result.findings if finding.kind in ("kernel", "noise"))
    del card["form"]
    (tmp_path / "small.card.json").write_text(json.dumps(card))
    result = check(tmp_path / "small.tflite", pictures, against=small_runs / "float")
    assert "says whether its channels were divided" in result.layers.refused
