"""Results drawn, and compared."""

import csv
import random
import re
from pathlib import Path
from typing import Any

import pytest

from mnv3_tf.cli.main import main
from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.compare import compare_results
from mnv3_tf.export.benchmark.report import accuracy_by_file, write_results_report
from mnv3_tf.export.benchmark.store import REQUIRED, SCHEMA, append_records, read_records


def record(median: float = 5.0, *, file: str = "a.tflite", seed: int = 0, **changes: Any) -> dict[str, Any]:
    rng = random.Random(seed)
    samples = [[median * rng.uniform(0.98, 1.02) for _ in range(30)] for _ in range(5)]
    return {**dict.fromkeys(REQUIRED), "schema": SCHEMA, "file": file, "target": "adb:1234", "device": "Phone <1>", "threads": 1,
            "cores": "all", "runner": "kit", "runner_version": "1", "architecture": "aarch64", "soc": "X",
            "delegate_asked": "xnnpack", "delegate": "xnnpack", "partitions": 1, "median_ms": median, "mean_ms": median,
            "p90_ms": median, "p99_ms": median,
            "init_ms": 1.0, "peak_memory_mb": 12.0, "size_bytes": 10, "written": "2026-01-01T00:00:00+00:00", "flags": [],
            "samples_ms": samples, "states": [{"seconds": 0, "cpu_temperature_c": 40}, {"seconds": 9, "cpu_temperature_c": 45}],
            **changes}


def counted(instructions: int, **changes: Any) -> dict[str, Any]:
    """A row in which nothing was timed."""
    untimed = dict.fromkeys(("median_ms", "mean_ms", "p90_ms", "p99_ms", "init_ms", "samples_ms"))
    return record(**{**untimed, "target": "arm:cortex-a76",
                     "device": "emulated Cortex-A76", "states": [], "instructions": instructions, **changes})


def test_counts_are_drawn_and_compared_as_such(tmp_path: Path) -> None:
    ops = [{"name": "stem/conv", "kind": "CONV_2D", "instructions": 4_000_000, "share": 1.0, "calls": 1, "kernel": ""}]
    profile = {"method": "so", "runs": 2, "sum_instructions": 4_000_000, "of_all": 0.8, "problem": None}
    rows = [counted(5_000_000, ops=ops, profile=profile), record(4.0, file="b.tflite")]
    text = write_results_report(rows, tmp_path, "T", {"a.tflite": 0.9, "b.tflite": 0.8}).read_text()
    for words in ("<th>million instructions</th>", "<strong>5.000</strong>", "is not time", "<td>4000000</td>",
                  "add up to 4.000 million instructions", "Instructions against accuracy", "Latency against accuracy",
                  "Instructions by block", "Time and instructions by block"):
        assert words in text, words
    markdown = (tmp_path / "report.md").read_text()
    assert "| a.tflite | emulated Cortex-A76 | 1 | all |  |  |  | 5.000 | xnnpack |" in markdown
    assert next(csv.DictReader((tmp_path / "report.csv").open()))["instructions"] == "5000000"
    # Exact, so there is no interval; a regression by more than the threshold.
    for new, verdict, regression in ((5_000_000, "as many instructions", False), (4_000_000, "fewer instructions", False),
                                     (5_100_000, "more instructions", False), (5_300_000, "more instructions", True)):
        change, = compare_results([counted(5_000_000)], [counted(new)], 1.05)
        assert (change.ratio, change.verdict, change.regression, change.low) == (new / 5e6, verdict, regression, None)


def test_the_page_is_offline_whole_and_the_same_again(tmp_path: Path) -> None:
    rows = [record(), record(4.0, file="b & c.tflite", flags=["throttling: thermal status light"]),
            record(2.0, target="host", device="CPU"), record(file="bad.tflite", median_ms=None, mean_ms=None, samples_ms=None,
                                                            failure="it was <killed>")]
    page = write_results_report(rows, tmp_path / "r", "Mine & yours", {"a.tflite": 0.9, "b & c.tflite": 0.8})
    text = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", text) and "<script" not in text and "@import" not in text
    assert "Mine &amp; yours" in text and "Phone &lt;1&gt;" in text and "it was &lt;killed&gt;" in text and "<killed>" not in text
    assert text.count("<svg") == 3 and "thermal status light" in text and "prefers-color-scheme: dark" in text
    again = write_results_report(rows, tmp_path / "again", "Mine & yours", {"a.tflite": 0.9, "b & c.tflite": 0.8})
    assert again.read_text() == text
    table = list(csv.DictReader((tmp_path / "r" / "report.csv").open()))
    assert [row["median_ms"] for row in table] == ["5.0", "4.0", "2.0", ""] and table[0]["accuracy"] == "0.9"
    markdown = (tmp_path / "r" / "report.md").read_text()
    assert "| bad.tflite | Phone <1> | 1 | all | failed |" in markdown and "- b & c.tflite on Phone <1>: throttling" in markdown


def test_operators_are_drawn_by_block(tmp_path: Path) -> None:
    ops = [{"name": name, "kind": "CONV_2D", "mean_ms": 0.1, "share": 0.3, "calls": 1, "kernel": "Convolution (NHWC)"}
           for name in ("block_04/expand", "block_04/project", "stem/conv", "something")]
    profile = {"method": "so", "runs": 50, "sum_ms": 0.4, "low_ms": 0.39, "high_ms": 0.42, "of_median": 0.8, "problem": None}
    text = write_results_report([record(ops=ops, profile=profile, median_ms=0.5), record(file="b.tflite")], tmp_path,
                                "T").read_text()
    assert "Time by block" in text and all(f">{block}</text>" in text for block in ("block_04", "stem", "other", "runtime"))
    assert "80% of the median" in text and "half of the runs took" in text and "<td>block_04/expand</td>" in text
    # Without layers there are no bars, and it is said why.
    text = write_results_report([record(ops=ops, profile={**profile, "problem": "it fits twice"})], tmp_path, "T").read_text()
    assert "Layers are not known: it fits twice" in text and ">block_04</text>" not in text
    assert "Time by block" not in write_results_report([record()], tmp_path / "none", "T").read_text()


def test_without_accuracy_it_is_said(tmp_path: Path) -> None:
    assert "No row has an accuracy" in write_results_report([record()], tmp_path, "T").read_text()
    assert accuracy_by_file(["x/a.tflite=0.5"]) == {"a.tflite": 0.5}
    with pytest.raises(InputError, match="give FILE=TOP1"):
        accuracy_by_file(["a.tflite=89"])


def test_changes_are_said_only_where_the_interval_shows_them() -> None:
    base = [record(), record(file="b.tflite"), record(file="gone.tflite"), record(file="f.tflite")]
    new = [record(6.0, seed=1), record(5.01, file="b.tflite", seed=1, partitions=2), record(file="new.tflite"),
           record(file="f.tflite", median_ms=None, mean_ms=None, samples_ms=None, failure="no memory")]
    slower, same, failed, added, gone = compare_results(base, new, threshold=1.05)
    assert slower.verdict == "slower" and slower.regression and slower.ratio == pytest.approx(1.2, abs=0.01)
    assert same.verdict == "no difference shown" and not same.regression and same.differs == ("partitions is 2 and was 1",)
    assert failed.regression and "no memory" in failed.verdict
    assert (added.verdict, gone.verdict) == ("is new", "is no longer measured")
    assert not compare_results(base[:1], new[:1], threshold=1.3)[0].regression
    summary, = compare_results([record(samples_ms=None)], [record(9.0, samples_ms=None)], threshold=1.05)
    assert summary.ratio == 1.8 and not summary.regression and summary.verdict.startswith("no interval")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        text = capsys.readouterr()
        return int(stopped.value.code or 0), text.out, text.err

    append_records(tmp_path / "old", [record()])
    append_records(tmp_path / "new", [record(7.0, seed=1)])
    code, out, err = run("compare", tmp_path / "old", tmp_path / "new")
    assert code == 3 and "1.40" in out and "slower" in out and "1 regression" in err
    assert run("compare", tmp_path / "old", tmp_path / "old", "--json")[0] == 0
    code, out, _ = run("report", tmp_path / "old", tmp_path / "new", "--out", tmp_path / "page")
    assert code == 0 and (tmp_path / "page" / "index.html").exists()
    code, _, err = run("report", LOGS / "54_gpu_whole_graph.txt", tmp_path / "old", "--out", tmp_path / "page")
    assert code == 0 and "Note: " in err and "is a log of benchmark_model" in err
    code, out, err = run("compare", LOGS / "54_gpu_whole_graph.txt", LOGS / "54_gpu_whole_graph.txt")
    assert code == 0 and "1.00 no interval" in out and err.count("Note: ") == 2
    code, _, err = run("report", tmp_path / "none", "--out", tmp_path / "page")
    assert code == 2 and "cannot be read" in err


LOGS = Path(__file__).parent / "devices" / "logs"


def test_logs_of_benchmark_model_are_results_too(tmp_path: Path) -> None:
    """Of logcat as of a file; what a log does not say is null, and named in one line."""
    notes: list[str] = []
    row, = read_records(LOGS / "30_local_cpu_ok_peakmem.txt", notes)
    assert (row["file"], row["threads"], row["runs"], row["target"]) == ("m.tflite", 1, 43, "log") and set(REQUIRED) <= set(row)
    assert row["mean_ms"] == pytest.approx(23.2974) and row["median_ms"] is None and row["failure"] is None
    assert row["peak_memory_mb"] == 15.4766
    logcat, = read_records(LOGS / "51_2019_app_in_logcat.txt", notes)
    assert (logcat["file"], logcat["threads"]) == ("51_2019_app_in_logcat.txt", "?")
    assert logcat["mean_ms"] == pytest.approx(66.0318)
    gpu, = read_records(LOGS / "55_gpu_part_of_the_graph.txt", notes)
    assert gpu["delegate"] == "gpu" and "60 of 66 operators" in gpu["flags"][0]
    cut, = read_records(LOGS / "40_local_max_secs_cut.txt")
    assert cut["flags"] == ["cut off after 9 of 1000 runs by the tool's time limit"]
    assert len(notes) == 3 and notes[0].endswith("neither the device nor single runs, and here no delegate, median")
    assert notes[1].endswith("and here no file, threads, delegate, median") and notes[2].endswith("and here no file, threads")
    profiled, = read_records(LOGS / "50_2018_without_levels.txt")
    assert [op["kind"] for op in profiled["ops"]] == ["CONV_2D", "SOFTMAX"] and profiled["threads"] == 1
    text = write_results_report([row, logcat, profiled, record()], tmp_path, "T").read_text()
    assert "66.0" in text and "m.tflite" in text and "Time by block" in text
    assert compare_results([row], [{**row, "mean_ms": 40.0}], 1.05)[0].verdict.startswith("no interval")


@pytest.mark.parametrize("text", ["no log at all\n", "INFO: STARTING!\nINFO: Loaded model m.tflite\n"])
def test_what_is_neither_a_result_nor_a_log(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(InputError, match=r"x\.txt: is neither what mnv3 benchmark --out wrote nor a log of benchmark_model"):
        read_records(tmp_path / "x.txt")
