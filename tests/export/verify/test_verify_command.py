"""`mnv3 verify` as a user and a script meet it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from shared import without_folders

from mnv3_tf.artefacts.card import sidecar
from mnv3_tf.cli.main import main
from mnv3_tf.data import read_labels, write_labels

pytestmark = pytest.mark.usefixtures("loaded_once")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `mnv3 verify`."""
    with pytest.raises(SystemExit) as stopped:
        main(["verify", *map(str, arguments)])
    text = capsys.readouterr()
    return int(stopped.value.code or 0), text.out, text.err


@pytest.mark.slow
def test_a_sound_file_exits_with_0_and_leaves_a_report(small_file: Path, pictures: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, small_file, "--data", pictures, "--report", tmp_path / "report")
    assert code == 0, err + out
    for stage in ("float Keras", "folded network", "quantized Keras", "TFLite, reference kernels", "TFLite, XNNPACK"):
        assert stage in out
    assert "worst tensors against the float model" in out and "Every stage holds on 36 pictures" in out
    assert f"Report: {tmp_path / 'report' / 'index.html'}" in out and (tmp_path / "report" / "index.html").exists()


@pytest.mark.slow
def test_pictures_without_labels_compare_answers_instead_of_accuracy(small_file: Path, pictures: Path, tmp_path: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    flat = without_folders(pictures / "test", tmp_path / "flat")
    code, out, err = run(capsys, small_file, "--data", flat, "--split", "all", "--report", tmp_path / "report")
    assert code == 0, err + out
    assert "Every stage holds on 36 pictures" in out and "36 of 36" in out and "no labels" in out
    assert re.search("Note: no labels are used: .* in no class folder; no accuracy is checked", out.replace("\n", " "))
    facts = json.loads((tmp_path / "report" / "verification.json").read_text())
    assert facts["rungs"][4]["to_float"]["agreement"] > 0.9 and facts["rungs"][4]["scores"] is None
    assert facts["mcnemar_p"] is None and "NaN" not in json.dumps(facts)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "The pictures have no labels" in page and "Class by class" not in page and "Calibration curve" not in page


@pytest.mark.slow
def test_a_script_reads_where_it_broke_and_exit_code_3(small_file: Path, small_runs: Path, pictures: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    for file in small_file.parent.glob("small.*"):
        shutil.copy(file, tmp_path)
    labels = sidecar(tmp_path / small_file.name, "labels.txt")
    write_labels(labels, read_labels(labels)[::-1])
    code, out, err = run(capsys, tmp_path / small_file.name, "--data", pictures, "--against", small_runs / "float", "--quantized",
                         small_runs / "ptq", "--json")
    assert code == 3, err
    facts = json.loads(out)
    assert not facts["passed"] and facts["first_broken"] == "TFLite, reference kernels"
    stages = [(stage["name"], stage["status"]) for stage in facts["rungs"]]
    assert stages[:2] == [("float Keras", "holds"), ("deploy form", "holds")]
    assert facts["rungs"][4]["previous"]["agreement"] == 1.0 and facts["rungs"][4]["scores"]["samples"] == 36
    # The labels explain what the card finds, so that is not said twice.
    assert [finding["kind"] for finding in facts["findings"] if finding["broken"]] == ["class order"]
    assert facts["findings"][0]["rung"] == facts["first_broken"] and "stage" not in facts["findings"][0]
    assert {"name", "sqnr_db", "own_sqnr_db", "low", "high", "saturated", "channels"} <= set(facts["layers"][0])
    assert facts["limits"]["agreement"] == 0.99 and facts["partitions"] == 1


@pytest.mark.slow
def test_the_limits_are_settings(small_file: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, small_file, "--data", pictures, "-o", "verify.layer_sqnr_db=60")
    assert code == 3 and "60 are needed (verify.layer_sqnr_db)" in out and "The first broken stage is" in out
    lines = out.splitlines()
    assert sum(line.startswith("noise, ") for line in lines) == 3
    more, = (line for line in lines if line.startswith("noise: "))
    assert int(more.split()[1]) >= 5 and "more of this kind (--report or --json lists them)" in more
    code, _, err = run(capsys, small_file, "--data", pictures, "-o", "verify.agreemnt=1")
    assert code == 2 and "agreement" in err


@pytest.mark.parametrize(("subject", "message"), [
    ("float", "is a float run. Give a quantized run"), ("none.tflite", "there is no such file"), ("empty.tflite", "--against")])
def test_wrong_subjects_are_one_line(subject: str, message: str, small_runs: Path, pictures: Path, tmp_path: Path,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.tflite").touch()
    path = small_runs / subject if subject == "float" else tmp_path / subject
    code, out, err = run(capsys, path, "--data", pictures)
    assert code == 2 and out == "" and message in err and str(path) in err and len(err.strip().splitlines()) == 1
