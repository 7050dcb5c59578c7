"""What follows a run is told of it, also after a stop; what it raises does not stop the run."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shared import Told

from mnv3_tf.config import load_config
from mnv3_tf.data import open_dataset
from mnv3_tf.errors import InputError
from mnv3_tf.files import read_json
from mnv3_tf.progress import Silent
from mnv3_tf.training.trackers import Guarded, MLflow, WeightsAndBiases
from mnv3_tf.training.trainer import train


@pytest.mark.slow
def test_a_run_tells_a_tracker_of_every_epoch(resumed_student: Path) -> None:
    """Stopped in the second epoch of six, and gone on."""
    calls, run = read_json(resumed_student / "told.json"), resumed_student / "run"
    assert [call[0] for call in calls] == ["begin", "epoch", "end", "begin", *["epoch"] * 5, "end"]
    assert calls[0][1] == str(run) and calls[0][2]["train.epochs"] == 6
    rows = list(csv.DictReader((run / "log.csv").open()))
    told = [call[1:] for call in calls if call[0] == "epoch"]
    assert [number for number, _ in told] == [1, 2, 3, 4, 5, 6]
    for row, (_, figures) in zip(rows, told, strict=True):
        assert {key: str(value) for key, value in figures.items()} == {key: row[key] for key in figures} and len(figures) > 8
    assert calls[2][1] is None and calls[-1][1]["test_top1"] == read_json(run / "metrics.json")["test"]["top1"]


def test_what_a_tracker_raises_is_said_once() -> None:
    class Failing(Told):
        def epoch(self, *given: Any) -> None:
            super().epoch(*given)
            raise RuntimeError("no network\nhere")

    inner, said = Failing(), list[str]()
    guarded = Guarded(inner, said.append)
    guarded.begin(Path("run"), {})
    for number in (1, 2):
        guarded.epoch(number, {"loss": 1.0})
    guarded.end({})
    assert said == ["Failing: no network here. Training goes on without it."]
    assert [call[0] for call in inner.calls] == ["begin", "epoch"]


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sitting that goes on has the first one's id."""
    calls: list[tuple[Any, ...]] = []

    def init(**given: Any) -> Any:
        calls.append(("init", given))
        return SimpleNamespace(log=lambda figures, step: calls.append(("log", figures, step)), summary={},
                               finish=lambda exit_code: calls.append(("finish", exit_code)))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for scores in (None, {"test_top1": 0.5}):
        tracker = WeightsAndBiases()
        tracker.begin(tmp_path, {"train.epochs": 3})
        tracker.epoch(1, {"train_loss": 0.25})
        tracker.end(scores)
    first, second = (given for name, given, *_ in calls if name == "init")
    assert first == second and first["resume"] == "allow" and first["config"] == {"train.epochs": 3}
    assert first["id"] == read_json(tmp_path / "tracker.json")["wandb"] and first["name"] == tmp_path.name
    assert ("log", {"train_loss": 0.25}, 1) in calls and [call[1] for call in calls if call[0] == "finish"] == [1, 0]
    assert tracker._run.summary == {"test_top1": 0.5}


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are given once, since MLflow's cannot change."""
    calls: list[tuple[Any, ...]] = []

    def start_run(**given: Any) -> Any:
        calls.append(("start_run", given))
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(
        start_run=start_run, log_params=lambda params: calls.append(("params", params)),
        log_metrics=lambda figures, step=None: calls.append(("metrics", figures, step)),
        end_run=lambda status: calls.append(("end", status))))
    for scores in (None, {"test_top1": 0.5}):
        tracker = MLflow()
        tracker.begin(tmp_path, {"train.epochs": 3})
        tracker.epoch(2, {"train_loss": 0.25})
        tracker.end(scores)
    assert [given for name, given, *_ in calls if name == "start_run"] == [{"run_name": tmp_path.name}, {"run_id": "abc"}]
    assert [name for name, *_ in calls].count("params") == 1 and ("metrics", {"train_loss": 0.25}, 2) in calls
    assert ("metrics", {"test_top1": 0.5}, None) in calls
    assert [call[1] for call in calls if call[0] == "end"] == ["KILLED", "FINISHED"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_there_is_named_before_anything_is_made(name: str, pictures: Path, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"train.tracker is {name}.*pip install {name}"):
        train(open_dataset(pictures), load_config(None, [f"train.tracker={name}"]), tmp_path / "run", progress=Silent())
    assert not (tmp_path / "run").exists()
