"""The resumable state of a training run: weights, optimizer, averages, random state and counters in one atomic file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mnv3_tf.errors import InputError
from mnv3_tf.files import json_text, save_arrays


@dataclass
class Counters:
    """Where a run stands.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch under way.
        best: validation scores of the best epoch so far (:meth:`mnv3_tf.metrics.Scores.summary`), its number (epoch), and which
            weights ("raw" or "ema").
        history: one row of logged figures per finished epoch.
        running: training loss and accuracy of the epoch under way, over `step` steps.
        seconds: spent training, over all sittings.
        pictures: trained on, over all sittings.
        stage: of the freezing plan, that the saved optimizer belongs to.
        start: what the run started from, for its card; empty for random numbers.
        origin: what must be the same when the run goes on: pictures by split ("data"), and the teacher's hash.
        mixed_precision: "float16" or "bfloat16", in which it computes, or False; None where that is not decided. Earlier versions
            wrote true for float16.
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
    origin: dict[str, Any] = field(default_factory=dict)
    mixed_precision: bool | Literal["float16", "bfloat16"] | None = None


def save_state(path: Path, variables: list[Any], counters: Counters) -> None:
    """Writes the state.

    Args:
        path: an ``.npz``.
        variables: Keras variables of the model (averages and random seeds included) and of its optimizer, in a fixed order.
        counters: where the run stands.
    """
    arrays: dict[str, Any] = {f"variable_{i:04d}": np.asarray(v) for i, v in enumerate(variables)}
    arrays["counters"] = np.frombuffer(json_text(counters, None).encode(), np.uint8)
    save_arrays(path, arrays)


@dataclass(frozen=True)
class SavedState:
    """What :func:`save_state` wrote: values of the variables, and where the run stands."""

    path: Path
    variables: list[np.ndarray]
    counters: Counters

    @classmethod
    def read(cls, path: Path) -> "SavedState":
        """Reads a state.

        Raises:
            InputError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                variables = [archive[name] for name in sorted(archive.files) if name.startswith("variable_")]
                return cls(path, variables, Counters(**json.loads(archive["counters"].tobytes())))
        except Exception as error:  # numpy, zipfile and json raise nearly anything over a damaged file
            raise InputError(f"{path}: the saved training state cannot be read ({error}). Start again with another "
                             "--out.") from error

    def restore(self, variables: list[Any]) -> None:
        """Gives the variables their values.

        Raises:
            InputError: the state belongs to another network or optimizer.
        """
        if [value.shape for value in self.variables] != [tuple(v.shape) for v in variables]:
            raise InputError(f"{self.path}: the saved state belongs to another network or optimizer. "
                             "Resume with the configuration that the run was started with, or start again with another --out; "
                             "a run that an earlier version of the kit stopped cannot be resumed.")
        for variable, value in zip(variables, self.variables, strict=True):
            variable.assign(value)
