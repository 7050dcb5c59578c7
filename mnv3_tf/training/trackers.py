"""What follows a run as it trains, beside TensorBoard's file: Weights & Biases, MLflow, or an object of your own."""

import secrets
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json, write_json


class Tracker(Protocol):
    """Is told of a run. What it raises while training is said once, and training goes on without it."""

    def begin(self, run: Path, settings: Mapping[str, Any]) -> None:
        """A sitting of a run begins; one that was stopped begins again.

        Args:
            run: its folder.
            settings: by "section.key".
        """

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """An epoch is done; they count from 1. The figures are those of the row in `log.csv`."""

    def end(self, scores: Mapping[str, float] | None) -> None:
        """The run is finished, with scores such as "test_top1"; or stopped, with None."""


class WeightsAndBiases:
    """A run on Weights & Biases. Its environment variables say which project, whose account, and whether there is a network."""

    def __init__(self) -> None:
        self._wandb = _package("wandb")

    def begin(self, run: Path, settings: Mapping[str, Any]) -> None:
        name = _kept(run, "wandb") or secrets.token_hex(4)
        _keep(run, "wandb", name)
        self._run = self._wandb.init(id=name, name=run.name, dir=str(run), resume="allow", config=dict(settings))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=number)

    def end(self, scores: Mapping[str, float] | None) -> None:
        self._run.summary.update(dict(scores or {}))
        self._run.finish(exit_code=0 if scores is not None else 1)


class MLflow:
    """A run of MLflow, in the place and experiment that its environment variables name."""

    def __init__(self) -> None:
        self._mlflow = _package("mlflow")

    def begin(self, run: Path, settings: Mapping[str, Any]) -> None:
        known = _kept(run, "mlflow")
        started = self._mlflow.start_run(run_id=known) if known else self._mlflow.start_run(run_name=run.name)
        if not known:
            _keep(run, "mlflow", started.info.run_id)
            self._mlflow.log_params(dict(settings))  # which cannot change later

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(figures), step=number)

    def end(self, scores: Mapping[str, float] | None) -> None:
        self._mlflow.log_metrics(dict(scores or {}))
        self._mlflow.end_run("FINISHED" if scores is not None else "KILLED")


class Guarded:
    """A tracker whose errors do not stop a run.

    Args:
        tracker: what is told.
        say: told of the first error.
    """

    def __init__(self, tracker: Tracker, say: Callable[[str], None]):
        self._tracker, self._say, self._works = tracker, say, True

    def begin(self, run: Path, settings: Mapping[str, Any]) -> None:
        self._tell(lambda: self._tracker.begin(run, settings))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        self._tell(lambda: self._tracker.epoch(number, figures))

    def end(self, scores: Mapping[str, float] | None) -> None:
        self._tell(lambda: self._tracker.end(scores))

    def _tell(self, call: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            call()
        except Exception as error:  # whatever a service or its package may raise
            self._works = False
            self._say(f"{type(self._tracker).__name__}: {' '.join(str(error).split()) or type(error).__name__}. Training goes on "
                      "without it.")


def tracker_named(name: str) -> Tracker:
    """The tracker that `train.tracker` names.

    Raises:
        InputError: its package is not installed.
    """
    return WeightsAndBiases() if name == "wandb" else MLflow()


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"train.tracker is {name}: the package {name} is not there ({error}). Install it: "
                         f"pip install {name}.") from error


def _kept(run: Path, name: str) -> str | None:
    """What a service calls this run."""
    path = run / "tracker.json"
    return read_json(path).get(name) if path.exists() else None


def _keep(run: Path, name: str, value: str) -> None:
    path = run / "tracker.json"
    write_json(path, {**(read_json(path) if path.exists() else {}), name: value})
