"""What `verify` has proved."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.config import VerifyConfig
from mnv3_tf.data import Samples
from mnv3_tf.export.verify.findings import Finding
from mnv3_tf.export.verify.layers import LayerTable
from mnv3_tf.export.verify.stages import Stage, printed
from mnv3_tf.files import plain
from mnv3_tf.tflite.file import TfliteFile


@dataclass(frozen=True)
class Verification:
    """What was proved, and what was not.

    Attributes:
        subject: the file or run that was verified.
        float_run: the run that it was compared with.
        data, split: the pictures.
        samples: the pictures that were looked at, in order.
        labels: class names.
        stages: the stages, in order.
        findings: faults with a name, the first to look at first.
        layers: every tensor of the file.
        step: of the 8-bit output, in logits.
        limits: what was allowed.
        logits: stage -> float (n, classes).
        file: the structure of the `.tflite` file.
        partitions: XNNPACK partitions of the file on this machine.
        calibration: what calibrated the quantized run (its calibration.json), None where that is not known.
        notes: what a reader should know of how it was done.
    """

    subject: Path
    float_run: Path
    data: Path
    split: str
    samples: Samples
    labels: tuple[str, ...]
    stages: tuple[Stage, ...]
    findings: tuple[Finding, ...]
    layers: LayerTable
    step: float
    limits: VerifyConfig
    file: TfliteFile
    partitions: int
    calibration: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    logits: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def passed(self) -> bool:
        """Whether every stage holds and nothing was found that fails."""
        return not self.broken_stages() and not any(finding.broken for finding in self.findings)

    def broken_stages(self) -> list[str]:
        """Stages that do not hold, or that a named fault enters at, in order."""
        faulty = {finding.stage for finding in self.findings if finding.broken}
        return [stage.name for stage in self.stages if stage.status == "broken" or stage.name in faulty]

    def verdict(self) -> str:
        """The result in one sentence."""
        if self.passed:
            present = [printed(stage.name) for stage in self.stages if stage.status != "absent"]
            return f"Every stage holds on {len(self.samples)} pictures: {' → '.join(present)}."
        where = self.broken_stages()
        first = (f"The first broken stage is {printed(where[0])}" if where
                 else "Every stage holds, but a check of the artefacts fails")
        named = [finding for finding in self.findings if finding.broken]
        if named:
            return f"{first}. {named[0].kind.capitalize()}, {named[0].where}: {named[0].text}."
        failed = next(check for stage in self.stages for check in stage.checks if not check.passed)
        return f"{first}: {failed.text}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; logits are left out."""
        return plain({
            "subject": self.subject, "float_run": self.float_run, "data": self.data, "split": self.split,
            "samples": len(self.samples), "passed": self.passed, "first_broken": next(iter(self.broken_stages()), None),
            "verdict": self.verdict(), "step": self.step, "partitions": self.partitions, "rungs": self.stages,
            "findings": self.findings, "layers": self.layers.layers, "layers_refused": self.layers.refused,
            "limits": self.limits, "calibration": self.calibration, "notes": self.notes})
