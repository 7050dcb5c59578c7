"""The resumable state of a training run: weights, optimizer, averages, random state and counters in one atomic file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.files import atomic_path


@dataclass
class Counters:
    """Where a run stands.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch under way.
        best: validation scores of the best epoch so far: top1, loss, epoch, which ("raw" or "ema").
        history: one row of logged figures per finished epoch.
        running: training loss and accuracy of the epoch under way, over `step` steps.
        seconds: spent training, over all sittings.
        pictures: trained on, over all sittings.
        stage: of the freezing plan, that the saved optimizer belongs to.
        start: what the run started from, for its card; empty for random numbers.
    """

    epoch: int = 0
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    running: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    pictures: int = 0
    stage: int = 0
    start: dict[str, Any] = field(default_factory=dict)


def save_state(path: Path, variables: list[Any], ema: list[np.ndarray] | None, counters: Counters) -> None:
    """Writes the state.

    Args:
        path: an ``.npz``.
        variables: Keras variables of the model (random seeds included) and of its optimizer, in a fixed order.
        ema: averaged weights, or None.
        counters: where the run stands.
    """
    arrays: dict[str, Any] = {f"variable_{i:04d}": np.asarray(v) for i, v in enumerate(variables)}
    arrays.update({f"ema_{i:04d}": value for i, value in enumerate(ema or [])})
    arrays["counters"] = np.frombuffer(json.dumps(asdict(counters)).encode(), np.uint8)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_counters(path: Path) -> Counters:
    """Where a saved run stands.

    Raises:
        InputError: the file is damaged.
    """
    return _read(path)[2]


def load_state(path: Path, variables: list[Any]) -> list[np.ndarray] | None:
    """Reads the state into `variables`.

    Returns:
        The averaged weights, if any.

    Raises:
        InputError: the file is damaged or belongs to another network or optimizer.
    """
    saved, ema, _ = _read(path)
    if [value.shape for value in saved] != [tuple(v.shape) for v in variables]:
        raise InputError(f"{path}: the saved state belongs to another network or optimizer. "
                         "Resume with the configuration that the run was started with, or start again with another --out; "
                         "a float16 run of version 0.1 cannot be resumed.")
    for variable, value in zip(variables, saved, strict=True):
        variable.assign(value)
    return ema or None


def _read(path: Path) -> tuple[list[np.ndarray], list[np.ndarray], Counters]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            saved = [archive[name] for name in sorted(archive.files) if name.startswith("variable_")]
            ema = [archive[name] for name in sorted(archive.files) if name.startswith("ema_")]
            counters = Counters(**json.loads(archive["counters"].tobytes()))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(f"{path}: the saved training state cannot be read ({error}). Start again with another --out.") from error
    except Exception as error:  # zipfile.BadZipFile is not an OSError
        raise InputError(f"{path}: the saved training state is damaged ({error}). Start again with another --out.") from error
    return saved, ema, counters
