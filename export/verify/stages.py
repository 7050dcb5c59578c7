"""The parity stages: the same pictures through every form of the network, each compared with the one before."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv3_tf.config import VerifyConfig
from mnv3_tf.files import plain_fields
from mnv3_tf.metrics import Scores, score

FLOAT = "float Keras"
DEPLOY = "deploy form"
QUANTIZED = "quantized Keras"
REFERENCE = "TFLite, reference kernels"
XNNPACK = "TFLite, XNNPACK"
ARM = "TFLite, emulated ARM"
PHONE = "TFLite, device"
AS_REFERENCE = "quantized Keras, rounded as these kernels do"
STAGES = (FLOAT, DEPLOY, QUANTIZED, REFERENCE, XNNPACK, ARM, PHONE)
# Names that are printed differently from what JSON holds.
_PRINTED = {DEPLOY: "folded network"}
# Logits of 8 bits that differ by less than this are the same number, scaled twice.
_EQUAL_STEPS = 1e-3


def printed(name: str) -> str:
    """A stage's name for people; in JSON it stays as it is."""
    return _PRINTED.get(name, name)


@dataclass(frozen=True)
class Check:
    """One limit and what was found.

    Attributes:
        setting: the key that sets the limit, such as "verify.agreement".
        passed: whether it holds.
        text: value and limit in words.
    """

    setting: str
    passed: bool
    text: str


@dataclass(frozen=True)
class LogitComparison:
    """The logits of one stage beside those of another, on the same pictures.

    Attributes:
        against: the other stage.
        agreement: share of pictures with the same best class, in 0..1.
        equal: pictures with every logit equal.
        disagreements: pictures with another best class.
        ties: of these, pictures whose two best classes lie too close together in the other stage to call it another answer.
        mean_steps, largest_steps: difference of a logit in steps of the 8-bit output.
        share_of_range: the largest difference of a logit as a share of the other stage's logits' range.
    """

    against: str
    agreement: float
    equal: int
    disagreements: int
    ties: int
    mean_steps: float
    largest_steps: float
    share_of_range: float


@dataclass(frozen=True)
class Stage:
    """One form of the network.

    Attributes:
        name: one of :data:`STAGES`.
        source: the file that it was made from.
        scores: accuracy on the pictures; None where they have no labels, or the stage is absent.
        previous: comparison with the stage before (of both TFLite stages: with quantized Keras, where there is one);
            None on the first and where absent.
        to_float: comparison with the first.
        checks: what decided.
        absent: why there is no such stage, or "".
    """

    name: str
    source: str
    scores: Scores | None
    previous: LogitComparison | None = None
    to_float: LogitComparison | None = None
    checks: tuple[Check, ...] = ()
    absent: str = ""

    @property
    def status(self) -> str:
        """ "holds", "broken" or "absent"."""
        if self.absent:
            return "absent"
        return "holds" if all(check.passed for check in self.checks) else "broken"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**plain_fields(self), "status": self.status}


@dataclass(frozen=True)
class Form:
    """One form of the network and its answers: what a stage is made of.

    Attributes:
        name: one of :data:`STAGES`.
        source: the file.
        logits: float (n, classes), None where the form is absent.
        quantized: whether it computes in 8 bits.
        absent: why it is absent.
        checks: already made, of things that logits do not show.
        expected: the logits that it should have, where they are known better than from the form before; see `expected_from`.
        expected_from: what computed them.
    """

    name: str
    source: str
    logits: np.ndarray | None
    quantized: bool = False
    absent: str = ""
    checks: tuple[Check, ...] = ()
    expected: np.ndarray | None = None
    expected_from: str = ""


def compare(own: np.ndarray, other: np.ndarray, against: str, step: float, tie_steps: float) -> LogitComparison:
    """Compares logits.

    Args:
        own, other: float (n, classes).
        against: the other's name.
        step: of the 8-bit output, in logits.
        tie_steps: see :class:`mnv3_tf.config.VerifyConfig`.
    """
    other = np.asarray(other, np.float64)
    difference = np.abs(np.asarray(own, np.float64) - other)
    differs = own.argmax(axis=1) != other.argmax(axis=1)
    best = np.sort(other, axis=1)
    margin = best[:, -1] - best[:, -2] if other.shape[1] > 1 else np.full(len(other), np.inf)
    ties = differs & (margin <= tie_steps * step)
    return LogitComparison(
        against=against, agreement=float(1 - differs.mean()),
        equal=int((difference <= _EQUAL_STEPS * step).all(axis=1).sum()), disagreements=int(differs.sum()), ties=int(ties.sum()),
        mean_steps=float(difference.mean() / step), largest_steps=float(difference.max() / step),
        share_of_range=float(difference.max() / max(float(np.ptp(other)), 1e-12)))


def compare_stages(forms: list[Form], labels: np.ndarray | None, class_names: tuple[str, ...], step: float,
                   limits: VerifyConfig) -> tuple[Stage, ...]:
    """Compares every form with the one before it, absent ones left out, and applies the limits.

    Args:
        forms: in the order of :data:`STAGES`; the first is present.
        labels: int (n,); None where the pictures have none, and nothing is scored.
        class_names: of the logits.
        step: of the 8-bit output, in logits.
        limits: what is allowed.
    """
    stages: list[Stage] = []
    before: Form | None = None
    quantized = next((form for form in forms if form.name == QUANTIZED and form.logits is not None), None)
    first = forms[0].logits
    assert first is not None
    for form in forms:
        if form.logits is None:
            stages.append(Stage(form.name, form.source, None, absent=form.absent))
            continue
        scores = None if labels is None else score(form.logits, labels, class_names)
        checks = form.checks
        previous = to_float = None
        if form.name == XNNPACK and quantized is not None:
            before = quantized
        if before is not None and before.logits is not None:
            other, against = (before.logits, before.name) if form.expected is None else (form.expected, form.expected_from)
            previous = compare(form.logits, other, against, step, limits.tie_steps)
            to_float = compare(form.logits, first, forms[0].name, step, limits.tie_steps)
            checks = (*_checks(form, before, scores, stages[0].scores, previous, to_float, limits), *checks)
        stages.append(Stage(form.name, form.source, scores, previous, to_float, checks))
        before = form
    return tuple(stages)


def _checks(form: Form, before: Form, scores: Scores | None, first: Scores | None, previous: LogitComparison,
            to_float: LogitComparison, limits: VerifyConfig) -> list[Check]:
    assert form.logits is not None
    total, checks = len(form.logits), []
    if form.quantized and scores is not None and first is not None:
        lost = round((first.top1 - scores.top1) * total)
        checks.append(_pictures("verify.accuracy_drop", lost, limits.accuracy_drop, total,
                                f"it loses {max(lost, 0)} of {total} right answers against {to_float.against}"))
    if form.quantized and not before.quantized:
        return [*checks, _agreement("verify.quantized_agreement", to_float, limits.quantized_agreement, total)]
    checks.append(_agreement("verify.agreement", previous, limits.agreement, total))
    if form.name == DEPLOY:
        share = previous.share_of_range
        return [*checks, Check("verify.deploy_difference", share <= limits.deploy_difference,
                               f"the largest difference of a logit is {share:.1e} of the logits' range; allowed is "
                               f"{limits.deploy_difference:g} (deploy_difference)")]
    setting = "reference_steps" if form.name == REFERENCE and form.expected is None else "mean_steps"
    mean, limit = previous.mean_steps, getattr(limits, setting)
    return [*checks, Check(f"verify.{setting}", mean <= limit,
                           f"a logit differs from {printed(previous.against)} by {mean:.2f} steps on average, and on "
                           f"{previous.equal} of {total} pictures not at all; allowed are {limit:g} ({setting})")]


def _agreement(setting: str, comparison: LogitComparison, limit: float, total: int) -> Check:
    differing = comparison.disagreements - comparison.ties
    ties = f" ({comparison.ties} more are ties)" if comparison.ties else ""
    return _pictures(setting, differing, 1 - limit, total,
                     f"it answers {differing} of {total} pictures differently from {printed(comparison.against)}{ties}")


def _pictures(setting: str, count: int, share: float, total: int, text: str) -> Check:
    """A limit on a number of pictures; one picture alone never decides."""
    allowed = max(1, int(share * total + 1e-9))
    return Check(setting, count <= allowed, f"{text}; allowed are {allowed} ({setting.partition('.')[2]})")
