"""What is wrong, and where: every check here names a fault by the layer, the input or the output that has it.

A finding enters at a parity stage: what the quantized run already has comes from quantization, what only the file has
from its conversion.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from mnv3_tf.config import VerifyConfig
from mnv3_tf.export.convert.placement import Placed
from mnv3_tf.export.verify.layers import LayerRow, LayerTable, by_channel, power, ratio_db
from mnv3_tf.export.verify.stages import FLOAT, QUANTIZED, REFERENCE, STAGES, Form
from mnv3_tf.files import plain_fields
from mnv3_tf.metrics import Scores
from mnv3_tf.network.layer_names import display_name
from mnv3_tf.quantization.fake_quantized import LoweredNetwork, Ranges, input_units, shifted_bias
from mnv3_tf.quantization.graph import FoldedGraph
from mnv3_tf.quantization.lowering import GATE_RANGE, LoweredGraph, lower
from mnv3_tf.quantization.range_check import judge_range
from mnv3_tf.text import few
from mnv3_tf.tflite.file import TfliteFile

# A channel is called lost where the file keeps less of its weights' direction or size than this.
_LEAST_COSINE = 0.5
_LEAST_SIZE = 0.2
# ... and where it mattered: its weights are at least so large, as a share of the kernel's median channel.
_MATTERS = 0.02
# Decibels by which another reading of the input must explain the file better than the right one.
_CLEARLY_BETTER = 6.0
_GOOD_FIT = 10.0
_ENOUGH_PICTURES = 8
# Outputs that are compared each with each.
_MANY_CLASSES = 2000


@dataclass(frozen=True)
class Finding:
    """A fault that has a name.

    Attributes:
        kind: "input", "class order", "labels", "preprocessing", "range", "gate range", "kernel", "bias", "noise", "constant
            answer", "card" or "calibration".
        where: a layer as reports print it, "input", "output" or a file.
        stage: the stage that has it first.
        text: what is wrong, in a sentence or two.
        broken: whether it fails the verification; else it is worth knowing.
        score: to order findings of one kind by, the worst highest.
    """

    kind: str
    where: str
    stage: str
    text: str
    broken: bool = True
    score: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which says "rung" for the stage."""
        return {"rung" if key == "stage" else key: value for key, value in plain_fields(self).items()}


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What fails first, by stage, then the worst."""
    order = {name: place for place, name in enumerate(STAGES)}
    return tuple(sorted(findings, key=lambda f: (not f.broken, order.get(f.stage, len(order)), -f.score)))


def range_findings(table: LayerTable, quantized: Ranges | None, limits: VerifyConfig) -> list[Finding]:
    """Ranges much wider than the pictures need, ranges that cut values off, and gates whose range is not theirs."""
    found = []
    for layer in table.layers:
        if layer.low is None or layer.high is None or layer.kind == "flatten":
            continue
        where, stage, top = display_name(layer.name), _where_range_enters(layer, quantized), _gate_top(layer)
        if top is not None:
            wrong = max(abs(layer.low), abs(layer.high - top)) / top
            if wrong > 0.02:
                found.append(Finding("gate range", where, stage, f"its range is {layer.low:.3g} to {layer.high:.3g}, and a "
                                     f"gate's is 0 to {top:g}: every value is off, or cut off at the top", score=wrong))
            continue
        found += [Finding("range", where, stage, problem.text, score=problem.score) for problem in judge_range(
            layer.name, (layer.low, layer.high), (layer.needed_low, layer.needed_high), layer.saturated, limits)]
    return found


def _gate_top(layer: LayerRow) -> float | None:
    """The upper end that a gate's range must have, None for what is no gate."""
    if layer.kind == "gate":
        return GATE_RANGE[1]
    return 1.0 if layer.name.endswith("hard_sigmoid") else None


def _where_range_enters(layer: LayerRow, quantized: Ranges | None) -> str:
    if quantized is None or layer.name not in quantized or layer.low is None or layer.high is None:
        return REFERENCE
    low, high = quantized[layer.name]
    span = max(high - low, 1e-12)
    same = abs((layer.high - layer.low) - span) <= 0.05 * span
    return QUANTIZED if same else REFERENCE


def kernel_findings(placed: Iterable[Placed], lowered: LoweredGraph, own: LoweredGraph | None, file: TfliteFile,
                    shift: np.ndarray | None) -> list[Finding]:
    """Channels whose weights were lost, and kernels and biases of the file that are not those that it was made from.

    Args:
        placed: the network's operations in the file.
        lowered: the float model.
        own: what the file was made from, None where that is not known.
        file: that they are in.
        shift: what the file's input lacks of the float model's, (3,), which its first bias makes up for; None for nothing.
    """
    found = []
    for item in placed:
        if item.op.kind not in ("conv", "depthwise"):
            continue
        kernel, bias = item.kernel_and_bias(file)
        scales = np.asarray(file.stored(item.operator.inputs[1]).scales)
        expected = lowered.weights(item.op)[0]
        lost = _lost_channels(kernel, expected, item.op.kind, scales)
        carried = own is not None and not _lost_channels(own.weights(item.op)[0], expected, item.op.kind, scales)
        if lost:
            found.append(_lost(item, lost, REFERENCE if own is None or carried else QUANTIZED))
        elif own is not None:
            found += _conversion_differences(item, kernel, bias, scales, own, shift)
    return found


def _lost_channels(kernel: np.ndarray, expected: np.ndarray, kind: str, steps: np.ndarray) -> list[tuple[int, float, float]]:
    """(channel, cosine, ratio of sizes) of the channels that do not carry what they should, by what they carried.

    A channel whose largest weight should be less than a step is none: beside its bias it is next to nothing.
    """
    ours, theirs = (by_channel(np.asarray(k, np.float64), kind) for k in (kernel, expected))
    size, wanted = np.linalg.norm(ours, axis=1), np.linalg.norm(theirs, axis=1)
    cosine = (ours * theirs).sum(axis=1) / np.maximum(size * wanted, 1e-30)
    ratio = size / np.maximum(wanted, 1e-30)
    bad = ((cosine < _LEAST_COSINE) | (ratio < _LEAST_SIZE) | (ratio > 1 / _LEAST_SIZE)) & (wanted > _MATTERS * np.median(wanted))
    if len(steps) == len(bad):
        bad &= np.abs(theirs).max(axis=1) > steps
    return [(int(i), float(cosine[i]), float(ratio[i])) for i in np.argsort(-wanted) if bad[i]]


def _lost(item: Placed, lost: list[tuple[int, float, float]], stage: str) -> Finding:
    channel, cosine, ratio = lost[0]
    what = "is zero" if ratio < 1e-6 else f"has {ratio:.2g} times the size and a cosine of {cosine:.2f}"
    more = f"; so are or do {len(lost) - 1} other channels" if len(lost) > 1 else ""
    return Finding("kernel", display_name(item.op.name), stage,
                   f"channel {channel} of its kernel {what}, against the float model's{more}", score=float(len(lost)))


def _conversion_differences(item: Placed, kernel: np.ndarray, bias: np.ndarray, scales: np.ndarray, own: LoweredGraph,
                            shift: np.ndarray | None) -> list[Finding]:
    """Where a file's numbers are further from what it was made from than rounding explains."""
    expected, expected_bias = own.weights(item.op)
    if shift is not None and item.op.inputs == (own.ops[0].name,):
        expected_bias = expected_bias + shifted_bias(expected, shift)
    found = []
    step = scales if len(scales) else np.full(1, max(float(np.abs(expected).max()) * 2e-3, 1e-12))
    off = np.abs(by_channel(kernel - expected, item.op.kind)).max(axis=1) / step
    if float(off.max()) > 1.01:
        channels = np.nonzero(off > 1.01)[0]
        found.append(Finding("kernel", display_name(item.op.name), REFERENCE,
                             f"its kernel is up to {off.max():.0f} steps from the quantized run's, in {len(channels)} channels "
                             f"(first: {channels[0]})", score=float(off.max())))
    spread = max(float(np.abs(expected_bias).max()), 1e-6)
    wrong = np.abs(bias - expected_bias) / spread
    if float(wrong.max()) > 0.02:
        channel = int(wrong.argmax())
        found.append(Finding("bias", display_name(item.op.name), REFERENCE,
                             f"the bias of channel {channel} is {bias[channel]:.4g}, and the quantized run's is "
                             f"{expected_bias[channel]:.4g}", score=float(wrong.max())))
    return found


def noise_findings(table: LayerTable, limits: VerifyConfig) -> list[Finding]:
    """Operations that by themselves add more noise than 8 bits need."""
    return [Finding("noise", display_name(layer.name), REFERENCE,
                    f"this operation alone, given the file's own inputs, reaches {layer.own_sqnr_db:.1f} dB of signal to noise; "
                    f"{limits.layer_sqnr_db:g} are needed (verify.layer_sqnr_db)", score=limits.layer_sqnr_db - layer.own_sqnr_db)
            for layer in table.layers if layer.own_sqnr_db < limits.layer_sqnr_db]


# How a file may read its input wrongly: what is said of it, and the pixels for which the float model computes the same.
_READINGS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("red and blue are swapped (BGR where RGB belongs)", lambda p: p[..., ::-1]),
    ("the input is off by 127.5: its zero stands for black instead of mid grey", lambda p: p + 127.5),
    ("the input is off by -127.5: 127.5 is taken away twice", lambda p: p - 127.5),
    ("pixels are divided by 255 before they enter, and the network scales them again", lambda p: p / 255),
    ("pixels are scaled to -1..1 before they enter, and the network scales them again", lambda p: p / 127.5 - 1),
    ("pixels are normalised by ImageNet's mean and deviation before they enter",
     lambda p: (p / 255 - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)),
    ("pictures are upside down", lambda p: p[:, ::-1]),
    ("pictures are mirrored", lambda p: p[:, :, ::-1]),
)


def input_findings(table: LayerTable, float_graph: FoldedGraph, own_graph: FoldedGraph | None, pixels: np.ndarray,
                   logits: np.ndarray) -> list[Finding]:
    """A file that computes what the float model would compute for other pixels than it is given.

    Args:
        table: of the file on `pixels`; where it is empty, the logits are compared instead of the first layer.
        float_graph: the float model.
        own_graph: of the quantized run.
        pixels: uint8 (n, h, w, 3), those of the table.
        logits: the file's, float (n, classes).
    """
    network = LoweredNetwork(lower(float_graph, "native"))
    if table.stem is not None:
        name = table.layers[0].name
        low, high = table.layers[0].low, table.layers[0].high
        ours = table.stem
    else:
        name, low, high, ours = network.lowered.ops[-1].name, None, None, logits

    def fit(given: np.ndarray, with_network: LoweredNetwork, target: np.ndarray) -> float:
        tensor = with_network.tensors([name], input_units(float_graph, given))[0]
        return _fit(np.clip(tensor, low, high) if low is not None else tensor, target)

    given = pixels.astype(np.float32)
    right = fit(given, network, ours)
    fits = [(fit(read(given), network, ours), text) for text, read in _READINGS]
    best, text = max(fits)
    if best < right + _CLEARLY_BETTER or best < _GOOD_FIT:
        return []
    stage = REFERENCE
    if own_graph is not None and table.stem is not None:
        own = LoweredNetwork(lower(own_graph, "native")).tensors([name], input_units(own_graph, given))[0]
        expected = network.tensors([name], input_units(float_graph, given))[0]
        stage = QUANTIZED if _fit(own, expected) < _GOOD_FIT else REFERENCE
    return [Finding("input", "input", stage, f"{text}. So read, the file's {display_name(name)} fits the float model's with "
                    f"{best:.0f} dB, against {right:.0f} dB as it should be", score=1000.0)]


def _fit(found: np.ndarray, wanted: np.ndarray) -> float:
    """Signal to noise in decibels, finite for equal tensors too."""
    return ratio_db(power(wanted), max(power(found - wanted), 1e-30))


def order_findings(forms: list[Form], class_names: tuple[str, ...]) -> list[Finding]:
    """Outputs that answer another class than the same outputs of the form before."""
    found: list[Finding] = []
    present = [form for form in forms if form.logits is not None]
    for before, form in itertools.pairwise(present):
        assert before.logits is not None and form.logits is not None
        if len(form.logits) < _ENOUGH_PICTURES:
            continue
        order = matching_outputs(form.logits, before.logits)
        if order is None:
            continue
        pairs = [f"output {i} ({class_names[i]!r}) answers {class_names[j]!r}" for i, j in enumerate(order) if i != j]
        found.append(Finding("class order", "output", form.name, f"the classes are in another order than in {before.name}: "
                             f"{few(pairs)}", score=1000.0))
    return found


def matching_outputs(ours: np.ndarray, theirs: np.ndarray) -> list[int] | None:
    """For each of our outputs the one of theirs that it follows, where that is clearly another order; else None."""
    def centred(logits: np.ndarray) -> np.ndarray:
        values = logits - logits.mean(axis=1, keepdims=True)
        values = values - values.mean(axis=0)
        return values / np.maximum(np.linalg.norm(values, axis=0), 1e-12)

    places = np.arange(ours.shape[1])
    if len(places) > _MANY_CLASSES:  # of so many, only those that are answered
        places = np.unique([ours.argmax(axis=1), theirs.argmax(axis=1)])
    likeness = centred(np.asarray(ours[:, places], np.float64)).T @ centred(np.asarray(theirs[:, places], np.float64))
    rows, columns = linear_sum_assignment(-likeness)
    moved = [i for i, j in zip(rows, columns, strict=True) if i != j]
    if not moved:
        return None
    as_matched, as_is = likeness[moved, columns[moved]], likeness[moved, moved]
    clear = as_matched.min() > 0.8 and (as_matched - as_is).min() > 0.2
    if not clear:
        return None
    order = list(range(ours.shape[1]))
    for i, j in zip(rows, columns, strict=True):
        order[places[i]] = int(places[j])
    return order


def label_findings(labels: tuple[str, ...], own: tuple[str, ...] | None, stage: str, file: str) -> list[Finding]:
    """Class names beside the file that are not the float run's."""
    if own is None or own == labels:
        return []
    if sorted(own) == sorted(labels):
        pairs = [f"line {i + 1} is {mine!r} where the model answers {theirs!r}"
                 for i, (mine, theirs) in enumerate(zip(own, labels, strict=True)) if mine != theirs]
        return [Finding("class order", file, stage, f"the class names are in another order than the model's: {few(pairs)}",
                        score=1000.0)]
    return [Finding("labels", file, stage, f"names other classes ({few(own)}) than the float run ({few(labels)})",
                    score=1000.0)]


def data_findings(scores: Scores, class_names: tuple[str, ...]) -> list[Finding]:
    """A float model that is right about most pictures once its classes are put in another order."""
    right = [(place, place, round(own.samples * (own.recall or 0.0)))
             for place, own in enumerate(scores.per_class) if own.samples]
    labels, answers, counts = np.array([*right, *scores.mistakes]).T
    # Of the classes that have pictures, and those that are answered: there may be thousands of others.
    present, row = np.unique(labels, return_inverse=True)
    given, column = np.unique(answers, return_inverse=True)
    confusion = np.zeros((len(present), len(given)), np.int64)
    confusion[row, column] = counts
    rows, columns = linear_sum_assignment(-confusion)
    as_matched = confusion[rows, columns].sum() / max(scores.samples, 1)
    if scores.samples < _ENOUGH_PICTURES or as_matched < 0.5 or scores.top1 > 0.5 * as_matched:
        return []
    pairs = [f"pictures of {class_names[present[i]]!r} are answered {class_names[given[j]]!r}"
             for i, j in zip(rows, columns, strict=True) if present[i] != given[j] and confusion[i, j]]
    return [Finding("class order", "labels", FLOAT, f"the float model's classes are in another order than the data's: "
                    f"{few(pairs)}. In that order {as_matched:.0%} would be right instead of {scores.top1:.0%}", score=1000.0)]


def constant_findings(forms: list[Form], labels: np.ndarray, class_names: tuple[str, ...]) -> list[Finding]:
    """A form that answers one class whatever it is shown."""
    if len(labels) < _ENOUGH_PICTURES or len(set(labels.tolist())) < 2:
        return []
    for form in forms:
        if form.logits is None:
            continue
        answers = set(form.logits.argmax(axis=1).tolist())
        if len(answers) == 1:
            name = class_names[answers.pop()]
            spread = float(np.ptp(form.logits, axis=0).max())
            same = ", with the same scores each time" if spread == 0.0 else ""
            return [Finding("constant answer", "output", form.name,
                            f"answers {name!r} to all {len(labels)} pictures{same}", score=500.0)]
    return []


def without_echoes(findings: list[Finding]) -> list[Finding]:
    """Leaves out what another finding already explains.

    A wrong input shows in the stem's weights too, in tensors far from what their ranges were made for, and, where colours tell
    the classes apart, in answers that look like another order of classes; an order of classes shows in the classifier's weights;
    a wrong range in the noise.
    """
    kinds = {finding.kind for finding in findings}
    named = {finding.where for finding in findings if finding.kind not in ("noise", "kernel", "bias")}

    def explained(finding: Finding) -> bool:
        if finding.kind == "class order" and finding.where == "output":
            return "input" in kinds
        if finding.kind in ("kernel", "bias"):
            stem, last = finding.where.startswith("stem"), finding.where.startswith("classifier")
            return ("input" in kinds and stem) or ("class order" in kinds and last)
        if finding.kind == "noise":
            others = {f.where for f in findings if f.kind in ("kernel", "bias")}
            return finding.where in named | others or "input" in kinds or \
                ("class order" in kinds and finding.where in ("classifier", "logits"))
        return False

    return [finding for finding in findings if not explained(finding)]
