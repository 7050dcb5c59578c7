"""The arithmetic of the stages, by hand."""

import numpy as np
import pytest

from mnv3_tf.config import VerifyConfig
from mnv3_tf.export.verify.stages import AS_REFERENCE, DEPLOY, FLOAT, QUANTIZED, REFERENCE, XNNPACK, Form, compare, compare_stages

LABELS = np.array([0, 1, 0, 1])
LOGITS = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.05]])
NAMES = ("a", "b")


def test_compare_counts_answers_ties_and_steps() -> None:
    own = LOGITS + np.array([[0.1, -0.1], [0.0, 0.0], [-2.0, 0.0], [0.1, 0.0]])
    found = compare(own, LOGITS, "before", step=0.1, tie_steps=1.0)
    # Picture 2 changes its answer from a margin of 1.0, picture 3 from one of half a step: a tie.
    assert (found.agreement, found.disagreements, found.ties) == (0.5, 2, 1)
    assert found.mean_steps == pytest.approx((1 + 1 + 20 + 1) / 8)
    assert found.largest_steps == pytest.approx(20)
    assert found.equal == 1 and compare(own, own, "itself", step=0.1, tie_steps=1.0).equal == 4
    assert compare(own, np.vstack([own[:3], own[3:] + 0.1]), "others", step=0.1, tie_steps=1.0).equal == 3
    assert found.share_of_range == pytest.approx(2.0 / 2.0)


def stages(limits: VerifyConfig | None = None, labels: np.ndarray | None = LABELS, **logits: np.ndarray):
    limits = limits or VerifyConfig()
    quantized = {QUANTIZED, REFERENCE, XNNPACK}
    forms = [Form(name, f"{name}.file", logits.get(key, LOGITS), name in quantized)
             for name, key in ((FLOAT, "float_"), (DEPLOY, "deploy"), (QUANTIZED, "fake"), (REFERENCE, "reference"),
                               (XNNPACK, "xnnpack"))]
    return {stage.name: stage for stage in compare_stages(forms, labels, NAMES, 0.1, limits)}


def test_equal_forms_hold() -> None:
    found = stages()
    assert [stage.status for stage in found.values()] == ["holds"] * 5
    assert found[FLOAT].previous is None and found[XNNPACK].scores.top1 == 1.0
    assert [found[name].previous.against for name in (DEPLOY, QUANTIZED, REFERENCE, XNNPACK)] == [
        FLOAT, DEPLOY, QUANTIZED, QUANTIZED]


def test_one_picture_alone_never_decides_and_two_do() -> None:
    one, two = LOGITS.copy(), LOGITS.copy()
    one[0] = [0.0, 0.1]
    two[:2] = [[0.0, 0.1], [0.1, 0.0]]
    generous = VerifyConfig(mean_steps=1000, reference_steps=1000)
    assert stages(generous, xnnpack=one)[XNNPACK].status == "holds"
    broken = stages(generous, xnnpack=two)[XNNPACK]
    assert broken.status == "broken"
    assert [check.setting for check in broken.checks if not check.passed] == ["verify.accuracy_drop", "verify.agreement"]
    assert "2 of 4 pictures differently from quantized Keras" in broken.checks[1].text


def test_without_labels_answers_are_compared_and_not_scored() -> None:
    other = LOGITS[:, ::-1]
    found = stages(labels=None, xnnpack=other)
    assert [stage.status for stage in found.values()] == ["holds"] * 4 + ["broken"]
    assert [stage.scores for stage in found.values()] == [None] * 5 and found[XNNPACK].to_float.agreement == 0.0
    settings = {check.setting for stage in found.values() for check in stage.checks}
    assert "verify.accuracy_drop" not in settings and {"verify.quantized_agreement", "verify.agreement"} <= settings


@pytest.mark.parametrize(("form", "logits", "setting"), [
    ("deploy", LOGITS + 1e-3, "verify.deploy_difference"),
    ("fake", LOGITS[:, ::-1], "verify.accuracy_drop"),
    ("fake", LOGITS[:, ::-1], "verify.quantized_agreement"),
    ("reference", LOGITS + 0.9, "verify.reference_steps"),
    ("xnnpack", LOGITS + 0.21, "verify.mean_steps"),
])
def test_the_limit_that_decided_is_said(form: str, logits: np.ndarray, setting: str) -> None:
    name = {"deploy": DEPLOY, "fake": QUANTIZED, "reference": REFERENCE, "xnnpack": XNNPACK}[form]
    found = stages(**{form: logits})
    assert setting in [check.setting for check in found[name].checks if not check.passed]


def test_a_stage_is_compared_with_what_it_should_be_where_that_is_known() -> None:
    """The reference kernels round in their own way: that is no fault, and what differs from it is one."""
    low = LOGITS - 0.35
    forms = [Form(FLOAT, "f", LOGITS), Form(QUANTIZED, "q", LOGITS, True),
             Form(REFERENCE, "t", low, True, expected=low, expected_from=AS_REFERENCE), Form(XNNPACK, "t", LOGITS, True)]
    *_, reference, delegated = compare_stages(forms, LABELS, NAMES, 0.1, VerifyConfig())
    assert (reference.status, reference.previous.against, reference.previous.equal) == ("holds", AS_REFERENCE, 4)
    assert reference.to_float.mean_steps == pytest.approx(3.5)
    assert (delegated.previous.against, delegated.previous.equal) == (QUANTIZED, 4)
    forms[2] = Form(REFERENCE, "t", LOGITS, True, expected=low, expected_from=AS_REFERENCE)
    broken = compare_stages(forms, LABELS, NAMES, 0.1, VerifyConfig())[2]
    assert [check.setting for check in broken.checks if not check.passed] == ["verify.mean_steps"]
    assert AS_REFERENCE in broken.checks[-1].text and "on 0 of 4 pictures not at all" in broken.checks[-1].text


def test_a_file_must_be_right_too() -> None:
    """The quantized network loses nothing, and its file one answer more than allowed, with two that it may differ in."""
    off = LOGITS.copy()
    off[:2] = [[0.0, 0.1], [0.1, 0.0]]
    found = stages(VerifyConfig(agreement=0.5, mean_steps=1000), xnnpack=off)[XNNPACK]
    assert [check.setting for check in found.checks if not check.passed] == ["verify.accuracy_drop"]


def test_limits_are_settings() -> None:
    assert stages(VerifyConfig(mean_steps=3.0), xnnpack=LOGITS + 0.21)[XNNPACK].status == "holds"


def test_an_absent_stage_is_stepped_over() -> None:
    forms = [Form(FLOAT, "f", LOGITS), Form(QUANTIZED, "", None, absent="the run was deleted"),
             Form(XNNPACK, "x", LOGITS[:, ::-1], True)]
    _, absent, last = compare_stages(forms, LABELS, NAMES, 0.1, VerifyConfig())
    assert absent.status == "absent" and absent.absent == "the run was deleted"
    assert last.previous.against == FLOAT and last.status == "broken"
    assert "verify.accuracy_drop" in [check.setting for check in last.checks if not check.passed]
