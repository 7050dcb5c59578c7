"""What lies beside a file and its runs (class names, preprocessing, calibration, cards) against what was found true."""

import contextlib
from pathlib import Path
from typing import Any

from mnv3_tf.artefacts.card import read_card, sidecar
from mnv3_tf.artefacts.card_check import CardRemark, check_cards, check_metrics
from mnv3_tf.errors import InputError
from mnv3_tf.export.verify import findings as checks
from mnv3_tf.export.verify.chain import Chain
from mnv3_tf.export.verify.findings import Finding
from mnv3_tf.export.verify.stages import FLOAT, QUANTIZED, REFERENCE, Stage
from mnv3_tf.files import plain, read_json


def calibration_of(chain: Chain) -> dict[str, Any] | None:
    """What calibrated the quantized run, None where that is not known."""
    run = chain.quantized_run
    return read_json(run.calibration) if run is not None and run.calibration.exists() else None


def claim_findings(chain: Chain, calibration: dict[str, Any] | None, stages: tuple[Stage, ...], split: str,
                   fingerprint: str) -> list[Finding]:
    """Class names, preprocessing, calibration and cards, and what these say of the accuracy.

    Args:
        chain: what belongs together.
        calibration: from :func:`calibration_of`.
        stages: the stages, with the scores that were measured.
        split, fingerprint: of the pictures that they were measured on.
    """
    stage = _own_stage(chain)
    labels_file = str(sidecar(chain.subject, "labels.txt"))
    found = checks.label_findings(chain.labels, chain.own_labels, stage, labels_file)
    if chain.own_contract is not None and chain.own_contract != chain.contract:
        ours, theirs = plain(chain.own_contract), plain(chain.contract)
        differing = [f"{key} is {ours[key]!r} instead of {theirs[key]!r}" for key in ours if ours[key] != theirs[key]]
        found.append(Finding("preprocessing", labels_file.replace("labels.txt", "preprocessing.json"), stage,
                             f"prepares pictures differently from the training of the float model: {', '.join(differing)}",
                             score=900.0))
    for line in (calibration or {}).get("remarks", []):
        found.append(Finding("calibration", str(chain.quantized_run.path if chain.quantized_run else chain.subject),
                             QUANTIZED, line, broken=line.startswith("calibrated for a smoke test")))
    named = {finding.where for finding in found}
    cards = [_card_finding(chain, remark) for remark in _card_remarks(chain, stages, split, fingerprint)]
    return found + [finding for finding in cards if finding.where not in named]


def _own_stage(chain: Chain) -> str:
    """The stage of what was verified."""
    return REFERENCE if chain.tflite is not None else QUANTIZED


def _card_remarks(chain: Chain, stages: tuple[Stage, ...], split: str, fingerprint: str) -> list[CardRemark]:
    given = [chain.subject, *([chain.quantized_run.path] if chain.quantized_run else []), chain.float_run.path]
    remarks = list(dict.fromkeys(remark for path in given for remark in check_cards(path)))
    runs = {FLOAT: chain.float_run, QUANTIZED: chain.quantized_run}
    for stage in stages:
        run, card = runs.get(stage.name), None
        with contextlib.suppress(InputError):  # named by the check of the cards
            card = read_card(run.path) if run is not None else None
        # Other pictures, or a part of them, say nothing about what the card claims.
        measured = card is not None and card.get("data", {}).get(split, {}).get("fingerprint") == fingerprint
        if card is not None and measured and stage.scores is not None and run is not None:
            remarks += [CardRemark(remark.severity, str(run.path), f"{remark.subject}: {remark.text}")
                        for remark in check_metrics(card, split, stage.scores, fingerprint)]
    return remarks


def _card_finding(chain: Chain, remark: CardRemark) -> Finding:
    """A remark about a card as a finding at the stage whose artefact it is about."""
    stage = _own_stage(chain)
    for name, run in ((QUANTIZED, chain.quantized_run), (FLOAT, chain.float_run)):
        if run is not None and Path(remark.subject).absolute().is_relative_to(run.path.absolute()):
            stage = name
    return Finding("card", remark.subject, stage, remark.text, broken=remark.severity == "broken")
