"""What the operating system refuses is said in one line, wherever it happens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnv3_tf.artefacts.run_folder import RunFolder
from mnv3_tf.cli.main import main
from mnv3_tf.errors import KitError


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("command", [["inspect"], ["summary"], ["predict", "m.tflite"], ["diff", "m.tflite"], ["evaluate"]])
def test_a_name_that_no_file_can_have(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name = "n" * 300
    options = ["--data", name] if command[0] == "evaluate" else []
    code, error = said([*command, name, *options], capsys)
    assert code in (1, 2) and error.startswith("Error: ") and error.count("\n") == 1


def test_a_run_whose_folder_cannot_be_made_fails_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match=r"file/run/config\.yaml: cannot be written \(Not a directory\)\. A file is where"):
        RunFolder(tmp_path / "file" / "run").refuse_if_used("")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("arguments", [["--version"], ["report", "--help"]])
def test_standard_output_that_is_full(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        words = [sys.executable, "-m", "mnv3_tf.cli.main", *arguments]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        1, "Error: standard output: No space left on device. Free some space, or choose another place.\n")
