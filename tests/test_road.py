"""The road in Python: README's lines, and what they show while they work."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from shared import ONE_BLOCK, QUANTIZE

import mnv3_tf
from mnv3_tf.config import as_overrides, load_config
from mnv3_tf.errors import InputError
from mnv3_tf.progress import Silent, Terminal, shown

README = Path(__file__).parents[1] / "README.md"
SETTINGS = {key: yaml.safe_load(value)
            for key, value in (text.split("=", 1) for text in (*ONE_BLOCK, *QUANTIZE, "quantize.epochs=1"))}


@pytest.mark.slow
def test_the_lines_of_the_readme(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    lines = re.search(r"## In Python\n\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len(lines.splitlines()) <= 10
    small, count = re.subn(r"settings=\{.*?\}", "settings=SETTINGS", lines)
    assert count == 1
    (tmp_path / "photos").symlink_to(pictures)
    shutil.copy(pictures / "test" / "red" / "red_0.png", tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    names = {"SETTINGS": SETTINGS}
    exec(compile(small, "README.md", "exec"), names)
    run, quantized, file, proof, answer = (names[name] for name in ("run", "quantized", "file", "proof", "answer"))
    printed, shown_on_the_way = capsys.readouterr()
    assert run.metrics["test"]["top1"] >= 0.9 and run.config().train.epochs == 10
    assert quantized.metrics["test"]["top1"] >= 0.9 and quantized.as_float["test"]["top1"] >= 0.9
    assert (file.partitions, file.size_bytes) == (1, Path("flowers.tflite").stat().st_size)
    assert proof.passed and proof.verdict() in printed and answer.label == "red" and 0.5 < answer.score <= 1
    assert "validation top-1" in shown_on_the_way and "validation top-1" not in printed


def test_progress_as_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    own = Silent()
    assert isinstance(shown(None), Silent) and isinstance(shown(False), Silent) and shown(own) is own
    assert isinstance(shown(True), Terminal)


@pytest.mark.parametrize(("console", "found"), [
    ({"force_jupyter": True}, r"\rTraining +0/4 half .*\rTraining ━{15} +2/4 .*\rTraining ━{30} 4/4 .*\nsaid"),
    ({"force_terminal": True, "width": 100}, r"Training .*━.*4/4.*said"),
    ({"force_terminal": False, "force_jupyter": False}, r"^said\n$"),
])
def test_a_bar_in_a_notebook_and_in_a_terminal(console: dict, found: str) -> None:
    """In a notebook it is one line that is written again and again: rich would need ipywidgets."""
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        progress = Terminal()
        progress.console = Console(stderr=True, highlight=False, **console)
        with progress.task("Training", 4) as advance:
            for done, note in ((0, "half of it"), (2, ""), (4, "")):
                advance(done, note)
        progress.say("said")
    assert re.search(found, stream.getvalue(), re.DOTALL), stream.getvalue()


def test_settings_as_python_has_them() -> None:
    wanted = load_config(None, ["train.epochs=3", "data.image_size=[32,48]", "model.dropout=0.5", "quantize.freeze=null"])
    assert load_config(None, as_overrides({"train.epochs": 3, "data.image_size": (32, 48), "model": {"dropout": 0.5},
                                           "quantize.freeze": None})) == wanted
    assert as_overrides(["train.epochs=3"]) == ["train.epochs=3"]
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        load_config(None, as_overrides({"train": {"epoch": 3}}))


def test_mistakes_are_said_before_tensorflow_is_asked_for(float_run: Path, tmp_path: Path) -> None:
    def never() -> None:
        raise AssertionError

    with pytest.raises(InputError, match="nowhere: no such folder"):
        mnv3_tf.train(tmp_path / "nowhere", tmp_path / "run", before_tensorflow=never)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        mnv3_tf.quantize(float_run, tmp_path / "nowhere", tmp_path / "run", before_tensorflow=never)
    with pytest.raises(InputError, match="no key 'epoch'"):
        mnv3_tf.train(tmp_path, tmp_path / "run", mnv3_tf.Config(), settings={"train.epoch": 1}, before_tensorflow=never)
    with pytest.raises(InputError, match="no key 'epoch'"):
        mnv3_tf.quantize(float_run, tmp_path, tmp_path / "run", settings={"train.epoch": 1}, before_tensorflow=never)
