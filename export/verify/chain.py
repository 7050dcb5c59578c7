"""What belongs together: a `.tflite` file, the quantized run it was converted from, and that run's float run."""

from dataclasses import dataclass, field
from pathlib import Path

from mnv3_tf.artefacts.run_folder import RunFolder, open_run
from mnv3_tf.data import Preprocessing, read_labels
from mnv3_tf.errors import InputError
from mnv3_tf.export.verify.stages import QUANTIZED
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
        missing: form -> why it cannot be looked at.
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
    missing: dict[str, str] = field(default_factory=dict)


def open_chain(subject: str | Path, *, against: str | Path | None = None, quantized: str | Path | None = None) -> Chain:
    """Finds what a file or a quantized run was made from.

    Args:
        subject: a `.tflite` file or a quantized run.
        against: the float run; None: found through the run cards.
        quantized: the quantized run of a `.tflite` file; None: found through its card.

    Raises:
        InputError: the subject is of another kind, or the float run cannot be found.
    """
    subject = Path(subject)
    if subject.suffix == ".tflite" and not subject.is_dir():
        return _chain_of_file(subject, against, quantized)
    run = open_run(subject)
    if not run.is_quantized:
        raise InputError(f"{subject}: is a float run. Give a quantized run (mnv3 quantize {subject} --data PATH --out QRUN) or "
                         "a .tflite file.")
    if quantized is not None:
        raise InputError(f"{subject}: is a quantized run itself; --quantized goes with a .tflite file.")
    return _chain(subject, _float_run(subject, run, against), run, None, run.contract(), run.labels(), {})


def _chain_of_file(file: Path, against: str | Path | None, quantized: str | Path | None) -> Chain:
    from mnv3_tf.export.convert.convert import sidecar

    if not file.exists():
        raise InputError(f"{file}: there is no such file.")
    missing: dict[str, str] = {}
    parent, why = (open_run(quantized), "") if quantized is not None else _parent_run(file)
    run = parent if parent is not None and parent.is_quantized else None
    if parent is not None and run is None and against is None:
        against = parent.path
    if run is None:
        missing[QUANTIZED] = why or "the file was converted from a float model"
    contract, labels = sidecar(file, "preprocessing.json"), sidecar(file, "labels.txt")
    return _chain(file, _float_run(file, run, against, why), run, file,
                  Preprocessing.read(contract) if contract.exists() else None,
                  read_labels(labels) if labels.exists() else None, missing)


def _chain(subject: Path, float_run: RunFolder, run: RunFolder | None, tflite: Path | None,
           contract: Preprocessing | None, labels: tuple[str, ...] | None, missing: dict[str, str]) -> Chain:
    graph, ranges = load_graph(run.quantized) if run is not None else (None, None)
    return Chain(subject, float_run, run, graph, ranges, tflite, float_run.contract(), float_run.labels(), contract, labels,
                 missing)


def _parent_run(artefact: Path) -> tuple[RunFolder | None, str]:
    """The run that an artefact was made from, or why it cannot be found."""
    from mnv3_tf.artefacts.card import find_parent

    try:
        found = find_parent(artefact)
    except InputError as error:
        return None, str(error)
    if found is None:
        return None, f"{artefact}: has no card that names what it was made from"
    return RunFolder(found if found.is_dir() else found.parent), ""


def _float_run(subject: Path, run: RunFolder | None, against: str | Path | None, why: str = "") -> RunFolder:
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
