"""Single checks, on small numbers."""

from pathlib import Path

import numpy as np
import pytest

from mnv3_tf.export.verify.findings import (
    Finding,
    constant_findings,
    data_findings,
    in_order,
    label_findings,
    matching_outputs,
    without_echoes,
)
from mnv3_tf.export.verify.flips import flips, mcnemar, reliability
from mnv3_tf.export.verify.stages import FLOAT, QUANTIZED, REFERENCE, Form
from mnv3_tf.metrics import score

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 4)) * 3
NAMES = ("ant", "bee", "cat", "dog")


def test_outputs_in_another_order_are_matched() -> None:
    order = [2, 0, 1, 3]
    moved = LOGITS[:, order] + RNG.normal(size=LOGITS.shape) * 0.1
    assert matching_outputs(moved, LOGITS) == order
    assert matching_outputs(LOGITS + RNG.normal(size=LOGITS.shape), LOGITS) is None
    assert matching_outputs(RNG.normal(size=LOGITS.shape), LOGITS) is None


def test_two_classes_swapped_are_seen() -> None:
    assert matching_outputs(LOGITS[:, [1, 0]], LOGITS[:, :2]) == [1, 0]


def test_class_names_in_another_order_and_other_names() -> None:
    assert label_findings(NAMES, NAMES, REFERENCE, "m.labels.txt") == []
    assert label_findings(NAMES, None, REFERENCE, "m.labels.txt") == []
    found, = label_findings(NAMES, ("bee", "ant", "cat", "dog"), REFERENCE, "m.labels.txt")
    assert found.kind == "class order" and "line 1 is 'bee' where the model answers 'ant'" in found.text
    found, = label_findings(NAMES, ("ant", "bee", "cat"), REFERENCE, "m.labels.txt")
    assert found.kind == "labels"


def test_a_model_whose_classes_are_not_the_datas() -> None:
    labels = LOGITS.argmax(axis=1)
    assert data_findings(score(LOGITS, labels, NAMES), NAMES) == []
    found, = data_findings(score(LOGITS[:, [1, 2, 3, 0]], labels, NAMES), NAMES)
    assert found.kind == "class order" and found.stage == FLOAT and "100% would be right" in found.text
    # A model that is simply bad is not in another order.
    assert data_findings(score(RNG.normal(size=LOGITS.shape), labels, NAMES), NAMES) == []


def test_a_constant_answer_is_named_with_its_stage() -> None:
    labels = LOGITS.argmax(axis=1)
    constant = np.tile([0.0, 0.0, 9.0, 0.0], (40, 1))
    forms = [Form(FLOAT, "f", LOGITS), Form(QUANTIZED, "q", constant, True), Form(REFERENCE, "t", constant, True)]
    found, = constant_findings(forms, labels, NAMES)
    assert (found.kind, found.stage) == ("constant answer", QUANTIZED)
    assert "'cat' to all 40 pictures, with the same scores each time" in found.text
    assert constant_findings(forms[:1], labels, NAMES) == []
    # Where every picture is of one class, one answer is right.
    assert constant_findings(forms, np.full(40, 2), NAMES) == []


def test_what_another_fault_explains_is_left_out() -> None:
    swapped = Finding("input", "input", REFERENCE, "")
    stem, noise = Finding("kernel", "stem/conv", REFERENCE, ""), Finding("noise", "block_01/expand", REFERENCE, "")
    other = Finding("kernel", "block_02/expand", REFERENCE, "")
    assert without_echoes([swapped, stem, noise, other]) == [swapped, other]
    assert without_echoes([stem, noise, other]) == [stem, noise, other]
    # Red and blue swapped look like red and blue classes swapped; a labels file in another order has nothing to do with it.
    output, file = Finding("class order", "output", REFERENCE, ""), Finding("class order", "m.labels.txt", REFERENCE, "")
    assert without_echoes([swapped, output, file]) == [swapped, file]


def test_the_first_stage_and_the_worst_come_first() -> None:
    late, early = Finding("range", "x", REFERENCE, "", score=9), Finding("range", "y", QUANTIZED, "", score=1)
    worse, note = Finding("range", "z", QUANTIZED, "", score=5), Finding("card", "c", FLOAT, "", broken=False)
    assert in_order([note, late, early, worse]) == (worse, early, late, note)


@pytest.mark.parametrize(("lost", "gained", "p_value"), [(3, 1, 0.625), (10, 0, 2 / 1024), (0, 0, 1.0)])
def test_mcnemar_against_hand_computed_values(lost: int, gained: int, p_value: float) -> None:
    labels = np.zeros(20, int)
    right, wrong = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    before = np.array([right] * lost + [wrong] * gained + [right] * (20 - lost - gained))
    after = np.array([wrong] * lost + [right] * gained + [right] * (20 - lost - gained))
    found = mcnemar(labels, before, after)
    assert (found.lost, found.gained) == (lost, gained) and found.p_value == pytest.approx(p_value)
    assert ("really better" in found.sentence()) == (p_value < 0.05)


def test_flips_say_what_they_did() -> None:
    before = np.array([[2.0, 0, 0], [2, 0, 0], [2, 0, 0], [0, 0, 2]])
    after = np.array([[0, 2.0, 0], [0, 2, 0], [0, 2, 0], [0, 0, 1]])
    found = flips(map(Path, "abcd"), np.array([0, 1, 2, 2]), before, after, NAMES)
    assert [(flip.path.name, flip.effect) for flip in found] == [("a", "lost"), ("b", "gained"), ("c", "other")]
    assert found[0].before == "ant" and found[0].after == "bee"
    assert found[0].before_score == pytest.approx(np.exp(2) / (np.exp(2) + 2))


def test_reliability_by_hand() -> None:
    # Ten answers given with probability 0.9, of which six are right.
    logits = np.tile([np.log(9.0), 0.0], (10, 1))
    found = reliability(np.array([0] * 6 + [1] * 4), logits)
    assert found.bins == ((pytest.approx(0.9), pytest.approx(0.6), 10),)
    assert found.error == pytest.approx(0.3)
