"""The command line as a user and a script meet it."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from shared import ONE_BLOCK, Shared, without_folders

from mnv3_tf.cli.main import COMMANDS, cli, main

pytestmark = pytest.mark.usefixtures("loaded_once")

TINY_TRAIN = ("-o", "train.epochs=1")


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_neither_tensorflow_nor_keras(command: str) -> None:
    script = ("import sys; from mnv3_tf.cli.main import main\n"
              "try: main([*sys.argv[1:], '--help'])\n"
              "except SystemExit as stopped: assert not stopped.code\n"
              "heavy = {'tensorflow', 'keras', 'tf_keras', 'jax', 'matplotlib', 'numpy'} & set(sys.modules)\n"
              "assert not heavy, heavy")
    done = subprocess.run([sys.executable, "-c", script, *([command] if command else [])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: mnv3" in done.stdout


def test_commands_have_the_help_line_that_the_overview_shows() -> None:
    overview = CliRunner().invoke(cli, ["--help"]).output
    for name in COMMANDS:
        assert f"  {name} " in overview


def test_version() -> None:
    assert CliRunner().invoke(cli, ["--version"]).output.startswith("mnv3, version ")


@pytest.mark.parametrize(("arguments", "message"), [
    (["trian"], "did you mean 'train'"), (["train"], "--data"), (["evaluate", "x"], "--data"),
    (["quantize", "x", "--data", "y", "--out", "z", "--method", "best"], "best"),
    (["predict", "x"], "PICTURE"), (["convert", "x", "--out", "y.tflite", "--format", "int4"], "int4"),
])
def test_wrong_usage_exits_with_2(arguments: list[str], message: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2 and message in err


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "--data", "/nowhere", "--out", "{tmp}/run"], "/nowhere: no such folder"),
    (["train", "--data", "{data}", "--out", "{tmp}/run", "-o", "train.epoch=3"], "did you mean 'epochs'"),
    (["train", "--data", "{data}", "--out", "{tmp}/run", "-c", "{tmp}/none.yaml"], "none.yaml: cannot be read"),
    (["evaluate", "{tmp}/none", "--data", "{data}"], "there is no such run folder or file"),
    (["quantize", "{tmp}/none", "--data", "{data}", "--out", "{tmp}/q"], "there is no such run folder"),
    (["convert", "{run}", "--out", "{tmp}/m.tflite"], "Make a quantized run first"),
    (["summary", "{tmp}/none.tflite"], "none.tflite"),
    (["benchmark", "{run}/model.keras"], "mnv3 convert"),
])
def test_mistakes_are_one_clear_line(arguments: list[str], message: str, pictures: Path, float_run: Path, tmp_path: Path) -> None:
    code, out, err = run(*(a.format(tmp=tmp_path, data=pictures, run=float_run) for a in arguments))
    assert code == 2 and message in err and err.startswith("Error: ")
    assert "Traceback" not in err and out == ""


@pytest.fixture(scope="module")
def tflite(qat_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "model.tflite"
    code, text, err = run("convert", qat_run, "--out", out)
    assert code == 0, err
    assert "1 XNNPACK partition" in text
    return out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "keras", "quantized", "tflite"])
def test_evaluate_and_predict_take_every_kind_of_model(kind: str, float_run: Path, qat_run: Path, tflite: Path,
                                                       pictures: Path) -> None:
    model = {"run": float_run, "keras": float_run / "model.keras", "quantized": qat_run, "tflite": tflite}[kind]
    code, text, err = run("evaluate", model, "--data", pictures, "--json")
    assert code == 0, err
    result = json.loads(text)
    assert result["samples"] == 36 and 0.9 <= result["top1"] <= 1.0 and result["split"] == "test"
    red, blue = (pictures / "test" / name / f"{name}_0.png" for name in ("red", "blue"))
    code, text, err = run("predict", model, red, blue, "--top-k", "2", "--json")
    assert code == 0, err
    answers = json.loads(text)
    assert [answer["file"] for answer in answers] == [str(red), str(blue)]
    assert [answer["predictions"][0]["label"] for answer in answers] == ["red", "blue"]
    for answer in answers:
        scores = [prediction["score"] for prediction in answer["predictions"]]
        assert len(scores) == 2 and scores == sorted(scores, reverse=True) and 0 <= scores[1] <= scores[0] <= 1
        assert all(prediction["index"] == ["blue", "green", "red"].index(prediction["label"])
                   for prediction in answer["predictions"])


def test_predict_names_a_broken_picture_and_answers_the_rest(float_run: Path, pictures: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    code, out, err = run("predict", float_run, broken, pictures / "test" / "red" / "red_1.png")
    assert code == 1 and "broken.jpg" in err and "red_1.png" in out


@pytest.mark.slow
def test_predict_clamps_top_k_and_says_so(float_run: Path, pictures: Path) -> None:
    code, out, err = run("predict", float_run, pictures / "test" / "red" / "red_1.png", "--top-k", "5")
    assert code == 0 and "3" in err and out.count("%") == 3


def test_predict_takes_a_folder(float_run: Path, pictures: Path) -> None:
    code, text, _ = run("predict", float_run, pictures / "test" / "green", "--json")
    files = [Path(answer["file"]).name for answer in json.loads(text)]
    assert code == 0 and files[:3] == ["green_0.png", "green_1.png", "green_2.png"] and len(files) == 12


def test_predict_writes_a_row_for_each_picture_of_a_folder(small_file: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "test" / "green", tmp_path / "day" / "one")
    shutil.copy(pictures / "test" / "red" / "red_3.png", tmp_path / "day" / "Größe, 2.png")
    (tmp_path / "day" / "note.txt").write_text("no picture")
    (tmp_path / "day" / "broken.jpg").write_bytes(b"x")
    code, out, err = run("predict", small_file, tmp_path / "day", "--out", tmp_path / "answers.csv", "--top-k", 2)
    assert code == 1 and "broken.jpg" in err and "note.txt" not in err and "answers.csv, 13 pictures" in out
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label_1", "score_1", "label_2", "score_2"] and len(rows) == 13
    assert {Path(row["file"]).name: row["label_1"] for row in rows}["Größe, 2.png"] == "red"
    assert all(1 >= float(row["score_1"]) >= float(row["score_2"]) >= 0 for row in rows)
    (tmp_path / "day" / "broken.jpg").unlink()
    code, out, err = run("predict", small_file, tmp_path / "day", "--out", tmp_path / "answers.jsonl", "--json")
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert code == 0 and [json.loads(line) for line in lines] == json.loads(out)
    assert [json.loads(line)["predictions"][0]["label"] for line in lines].count("green") >= 11


@pytest.mark.parametrize(("words", "message"), [
    (["{tmp}", "--out", "{tmp}/a.xlsx"], "a.xlsx: answers are written as .csv or .jsonl"),
    (["{tmp}"], "no pictures in this folder"),
])
def test_predict_refuses(words: list[str], message: str, small_file: Path, tmp_path: Path) -> None:
    code, _, err = run("predict", small_file, *(word.format(tmp=tmp_path) for word in words))
    assert code == 2 and message in err


def test_shards_are_scored_and_classified_as_their_pictures(small_file: Path, pictures: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    code, out, err = run("pack", pictures, "--out", shards)
    assert code == 0 and out == f"Packed: {shards}, 168 pictures in 3 shards. Next: mnv3 train --data {shards} --out run\n", err
    scores = [json.loads(run("evaluate", small_file, "--data", data, "--json")[1]) for data in (pictures, shards)]
    assert scores[0] == scores[1]
    (shards / "val-000000.tar").unlink()
    assert run("evaluate", small_file, "--data", shards)[0] == 2
    (shards / "pack.json").unlink()
    answers = [json.loads(run("predict", small_file, data, "--json")[1]) for data in (shards, pictures / "test")]
    assert [answer["predictions"] for answer in answers[0]][96:] == [answer["predictions"] for answer in answers[1]]
    assert answers[0][131]["file"] == f"{shards / 'test-000000.tar'}: 00000035.png"


def test_evaluate_needs_labels(small_file: Path, pictures: Path, tmp_path: Path) -> None:
    flat = without_folders(pictures / "test", tmp_path / "flat")
    code, out, err = run("evaluate", small_file, "--data", flat)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"Error: {flat}: its pictures are in no class folder. Labels are needed")


@pytest.mark.slow
def test_evaluate_a_folder_of_class_folders_scores_all_of_it(float_run: Path, pictures: Path) -> None:
    code, text, err = run("evaluate", float_run, "--data", pictures / "test", "--json")
    assert code == 0, err
    assert json.loads(text)["samples"] == 36 and json.loads(text)["split"] == "all"
    assert "has no splits, so all its pictures are scored" in err


@pytest.mark.slow
def test_evaluate_as_text(float_run: Path, pictures: Path) -> None:
    code, out, err = run("evaluate", float_run, "--data", pictures, "--split", "val")
    assert code == 0 and "36 pictures of val" in out and "95% interval" in out, err


@pytest.mark.slow
def test_evaluate_against_another_model(qat_run: Path, tflite: Path, float_run: Path, pictures: Path) -> None:
    code, text, err = run("evaluate", tflite, "--data", pictures, "--against", qat_run, "--json")
    assert code == 0, err
    agreement = json.loads(text)["agreement"]
    assert (agreement["top1"], agreement["mean_difference"], agreement["largest_difference"]) == (1.0, 0.0, 0.0)
    code, text, err = run("evaluate", tflite, "--data", pictures, "--against", float_run, "--json")
    assert code == 0 and 0 < json.loads(text)["agreement"]["mean_difference"] < 1, err
    code, text, _ = run("evaluate", float_run, "--data", pictures, "--against", float_run)
    assert code == 0 and "on 100.0% of the pictures (95% interval 9" in text and "0.0000 on average" in text


@pytest.mark.slow
def test_models_of_other_classes_are_not_compared(tflite: Path, float_run: Path, pictures: Path, tmp_path: Path) -> None:
    for file in tflite.parent.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "model.labels.txt").write_text("one\ntwo\nthree\n")
    code, _, err = run("evaluate", float_run, "--data", pictures, "--against", tmp_path / "model.tflite")
    assert code == 2 and "other classes" in err


def test_a_model_without_its_contract_is_refused(float_run: Path, tflite: Path, pictures: Path, tmp_path: Path) -> None:
    for file in (float_run / "model.keras", tflite):
        lone = Path(shutil.copy(file, tmp_path))
        code, _, err = run("evaluate", lone, "--data", pictures)
        assert code == 2 and "preprocessing contract is missing" in err


def test_labels_longer_than_the_output_are_refused(tflite: Path, pictures: Path, tmp_path: Path) -> None:
    for file in tflite.parent.iterdir():
        shutil.copy(file, tmp_path)
    with (tmp_path / "model.labels.txt").open("a") as labels:
        labels.write("yellow\n")
    code, _, err = run("evaluate", tmp_path / "model.tflite", "--data", pictures)
    assert code == 2 and "3 outputs" in err and "4 classes" in err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "quantized", "tflite"])
def test_summary(kind: str, float_run: Path, qat_run: Path, tflite: Path) -> None:
    model = {"run": float_run, "quantized": qat_run, "tflite": tflite}[kind]
    code, text, err = run("summary", model, "--json")
    assert code == 0, err
    facts = json.loads(text)
    assert len(facts["layers"]) > 30
    if kind == "run":
        assert "block_03/depthwise" in [row["layer"] for row in facts["layers"]]
        assert facts["parameters"] == sum(row["parameters"] for row in facts["layers"])
    code, text, _ = run("summary", model)
    assert code == 0 and ("layer" in text or "operator" in text)


def test_benchmark_json(tflite: Path) -> None:
    code, text, err = run("benchmark", tflite, "--threads", "1,2", "--runs", "10", "--min-seconds", "0.05", "--json")
    assert code == 0, err
    rows = json.loads(text)["rows"]
    assert [(row["threads"], row["target"], row["partitions"]) for row in rows] == [(1, "host", 1), (2, "host", 1)]
    assert all(0 < row["median_ms"] <= row["p90_ms"] <= row["p99_ms"] and row["file"] == str(tflite) for row in rows)


# Commands, as JSON, one after the other in a fresh process: importing TensorFlow takes long. Each must ask for its silence.
ONE_AFTER_THE_OTHER = """
import json, sys
from mnv3_tf.cli import options
from mnv3_tf.cli.main import main
silence, asked = options.quiet_libraries, []
options.quiet_libraries = lambda: (asked.append(True), silence())
for command in json.loads(sys.argv[1]):
    print("$", *command, flush=True)
    asked.clear()
    try:
        main(command)
    except SystemExit as ended:
        if ended.code:
            raise
    assert asked, command
"""


def quietly(*command: str) -> str:
    """What a process prints; nothing of TensorFlow's chatter may be there."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr and "0000 00:00" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def road(pictures: Path, shared: Shared) -> Path:
    """One block from pictures to an int8 file; the run answers for a picture, too. The folder also has what was printed."""
    overrides = [part for setting in ONE_BLOCK for part in ("-o", setting)]

    def build(folder: Path) -> None:
        run, quantized = folder / "run", folder / "q"
        commands = [["train", "--data", pictures, "--out", run, *overrides],
                    ["predict", run, pictures / "test" / "red" / "red_0.png", "--json"],
                    ["quantize", run, "--data", pictures, "--out", quantized, "--epochs", 1],
                    ["convert", quantized, "--out", folder / "m.tflite", "--io", "int8"]]
        said = quietly("-c", ONE_AFTER_THE_OTHER, json.dumps([[str(word) for word in command] for command in commands]))
        (folder / "said.txt").write_text(said)

    return shared("road", build)


@pytest.mark.slow
def test_the_whole_road_by_the_command(road: Path, pictures: Path) -> None:
    """Train, predict, quantize, convert and evaluate say what comes next, and the int8 file is right."""
    _, train, predict, quantize, _ = (road / "said.txt").read_text().split("$ ")
    assert train.startswith("train") and "Next: mnv3 quantize" in train
    assert json.loads(predict.split("\n", 1)[1])[0]["file"] == str(pictures / "test" / "red" / "red_0.png")
    assert quantize.startswith("quantize") and "Next: mnv3 convert" in quantize
    evaluate = ("evaluate", str(road / "m.tflite"), "--data", str(pictures), "--json")
    assert json.loads(quietly("-m", "mnv3_tf.cli.main", *evaluate))["top1"] >= 0.9
