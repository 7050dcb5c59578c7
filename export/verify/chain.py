"""What belongs together: a `.tflite` file, the quantized run it was converted from, and that run's float run."""

from dataclasses import dataclass
from pathlib import Path

from mnv3_tf.artefacts.card import find_parent
from mnv3_tf.artefacts.open import open_artefact
from mnv3_tf.artefacts.run_folder import RunFolder, open_run
from mnv3_tf.data import Preprocessing
from mnv3_tf.errors import InputError
from mnv3_tf.quantization.fake_quantized import Ranges
from mnv3_tf.quantization.graph import FoldedGraph, load_graph


@dataclass(frozen=True)
class Chain:
    """The artefacts to verify.

    Attributes:
        subject: what the user named.
        float_run: the float run.
        quantized_run: the quantized run, None for a file of float weights.
        graph, ranges: of the quantized run.
        tflite: the file, None where it is to be converted from the quantized run.
        contract, labels: of the float run; the pictures are prepared and named by these.
        own_contract, own_labels: those beside the subject, None where they are missing.
        missing: why there is no quantized run, or "".
    """

    subject: Path
    float_run: RunFolder
    quantized_run: RunFolder | None
    graph: FoldedGraph | None
    ranges: Ranges | None
    tflite: Path | None
    contract: Preprocessing
    labels: tuple[str, ...]
    own_contract: Preprocessing | None
    own_labels: tuple[str, ...] | None
    missing: str = ""


def open_chain(subject: str | Path, *, against: str | Path | None = None, quantized: str | Path | None = None) -> Chain:
    """Finds what a file or a quantized run was made from.

    Args:
        subject: a `.tflite` file or a quantized run.
        against: the float run; None: found through the run cards.
        quantized: the quantized run of a `.tflite` file; None: found through its card.

    Raises:
        InputError: the subject is of another kind, or the float run cannot be found.
    """
    own = open_artefact(subject)
    subject = own.run.path if own.form == "quantized" else own.path
    run: RunFolder | None = own.run
    why = missing = ""
    if own.form == "tflite":
        parent, why = (open_run(quantized), "") if quantized is not None else _parent_run(subject)
        run = parent if parent is not None and parent.is_quantized else None
        if parent is not None and run is None and against is None:
            against = parent.path
        if run is None:
            missing = why or "the file was converted from a float model"
    elif own.form != "quantized":
        raise InputError(f"{subject}: is a {own.kind}. Give a quantized run (mnv3 quantize {subject} --data PATH --out QRUN) or "
                         "a .tflite file.")
    elif quantized is not None:
        raise InputError(f"{subject}: is a quantized run itself; --quantized goes with a .tflite file.")
    float_run = _float_run(subject, run, against, why)
    graph, ranges = load_graph(run.quantized) if run is not None else (None, None)
    return Chain(subject, float_run, run, graph, ranges, subject if own.form == "tflite" else None, float_run.contract(),
                 float_run.labels(), own.contract, own.labels, missing)


def _parent_run(artefact: Path) -> tuple[RunFolder | None, str]:
    """The run that an artefact was made from, or why it cannot be found."""
    try:
        found = find_parent(artefact)
    except InputError as error:
        return None, str(error)
    if found is None:
        return None, f"{artefact}: has no card that names what it was made from"
    return RunFolder(found if found.is_dir() else found.parent), ""


def _float_run(subject: Path, run: RunFolder | None, against: str | Path | None, why: str) -> RunFolder:
    if against is not None:
        found = open_run(against)
    else:
        parent, reason = _parent_run(run.path) if run is not None else (None, why)
        if parent is None:
            raise InputError(f"{subject}: the float run to compare with is not known ({reason}). Give it with --against RUN.")
        found = open_run(parent.path)
    if not found.model.exists():
        raise InputError(f"{found.path}: is not a float run (it holds no model.keras). Give the run that `mnv3 train` wrote with "
                         "--against.")
    return found
