"""`mnv3 sensitivity` as a user and a script meet it."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from mnv3_tf.cli.main import main

pytestmark = pytest.mark.usefixtures("loaded_once")


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
        main(["sensitivity", *(str(argument) for argument in arguments)])
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_a_network_within_the_budget_needs_no_recipe(ptq_run: Path, pictures: Path, tmp_path: Path) -> None:
    """The float run is found through the card; with a wide budget nothing is left float and no run is written."""
    code, text, err = run(ptq_run, "--data", pictures, "--out", tmp_path / "s", "--budget", "20")
    assert code == 0, err
    assert "within the budget of 20 points" in text and "No block needs float" in text
    assert "36 pictures: one of them is 2.78 points" in text
    rows = [line for line in text.splitlines() if "│" in line]
    assert sum("block_" in line for line in rows) == 4 and any("head" in line for line in rows)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["sensitivity.json", "sensitivity.png"]


@pytest.mark.slow
def test_json_is_one_document_and_the_run_is_there(ptq_run: Path, pictures: Path, tmp_path: Path) -> None:
    code, text, err = run(ptq_run, "--data", pictures, "--out", tmp_path / "s", "--blocks", "1", "--json")
    assert code == 0, err
    result = json.loads(text)
    chosen = result["recipe"]["float_blocks"]
    blocks = {row["block"]: row for row in result["sensitivity"]["blocks"]}
    assert len(chosen) == 1 and blocks[chosen[0]]["gain"] == max(row["gain"] for row in blocks.values())
    damages = [row["alone"]["divergence"] for row in result["sensitivity"]["blocks"]]
    assert damages == sorted(damages, reverse=True) and result["run"] == str(tmp_path / "s")
    assert {row["baseline"] for row in result["cost"]["ratios"]} == {"int8", "float32"}
    assert (tmp_path / "s" / "quantized.npz").exists()


def test_an_unknown_block_is_one_clear_line(ptq_run: Path, float_run: Path, pictures: Path, tmp_path: Path) -> None:
    code, out, err = run(ptq_run, "--data", pictures, "--out", tmp_path / "s", "--against", float_run, "--float-blocks", "stam")
    assert code == 2 and out == "" and "'stam' is not a block of the network; did you mean 'stem'? Blocks: stem, block_01" in err
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_budget_that_nothing_meets_exits_with_3(ptq_run: Path, float_run: Path, pictures: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    from mnv3_tf.quantization.sensitivity import RecipeSearch

    monkeypatch.setattr(RecipeSearch, "meets", lambda self, answers: False)
    code, out, err = run(ptq_run, "--data", pictures, "--out", tmp_path / "s", "--against", float_run, "--budget", "0")
    assert code == 3 and "No choice of blocks meets the budget" in out and "Error" not in err
    assert not (tmp_path / "s" / "quantized.npz").exists() and (tmp_path / "s" / "sensitivity.json").exists()
