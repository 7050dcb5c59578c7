"""Results as JSON lines, and limits on them."""

from pathlib import Path
from typing import Any

import pytest

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.limits import check_limit, parse_limit
from mnv3_tf.export.benchmark.store import REQUIRED, SCHEMA, append_records, read_records


def record(**changes: Any) -> dict[str, Any]:
    return {**dict.fromkeys(REQUIRED), "schema": SCHEMA, "file": "a.tflite", "target": "adb:1234", "device": "Phone",
            "threads": 1, "cores": "all", "runner": "kit", "median_ms": 5.0, "mean_ms": 5.1, "flags": [], **changes}


def test_records_are_added_and_read_again(tmp_path: Path) -> None:
    first = append_records(tmp_path / "r", [record(), record(file="b c.tflite")], ["log one", ""])
    append_records(tmp_path / "r", [record(median_ms=6.0)], ["log two"])
    found = read_records(tmp_path / "r")
    assert found[:2] == first and [r["median_ms"] for r in found] == [5.0, 5.0, 6.0]
    assert (tmp_path / "r" / found[0]["raw_log"]).read_text() == "log one" and found[1]["raw_log"] is None
    assert (tmp_path / "r" / found[2]["raw_log"]).read_text() == "log two"


def test_a_cut_last_line_is_left_out_and_named(tmp_path: Path) -> None:
    append_records(tmp_path, [record()])
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"schema": "mnv3-bench')
    notes: list[str] = []
    assert len(read_records(tmp_path, notes)) == 1 and "line 2: cut off" in notes[0]
    append_records(tmp_path, [record(median_ms=7.0)])  # is not joined to the cut one
    assert [found["median_ms"] for found in read_records(tmp_path)] == [5.0, 7.0]


@pytest.mark.parametrize(("line", "words"), [
    ("{broken", "line 1: not valid JSON"), ('{"a": 1}', "line 1: is not a benchmark record"),
    ('{"schema": "mnv3-benchmark/9"}', "line 1: has the schema 'mnv3-benchmark/9'"),
    ('{"schema": "mnv3-benchmark/1"}', "line 1: lacks")])
def test_other_lines_are_named(line: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=words):
        read_records(tmp_path)


@pytest.mark.parametrize(("limit", "failures"), [
    ("median_ms < 8", 0), ("median_ms < 5", 1), ("median_ms <= 5 @ adb", 0), ("median_ms>4.9@adb:1234", 0),
    ("median_ms < 8 @ host", 1), ("peak_memory_mb < 100", 1), ("median_ms < 1e1 @ adb:*", 0)])
def test_limits(limit: str, failures: int) -> None:
    assert len(check_limit(parse_limit(limit), [record()])) == failures


def test_a_limit_says_what_is_wrong() -> None:
    line, = check_limit(parse_limit("instructions < 5e6 @ arm"), [record(target="arm:cortex-a53", instructions=5_000_001)])
    assert line == "instructions < 5e6 @ arm: a.tflite on Phone, 1 thread has 5000001"
    line, = check_limit(parse_limit("median_ms < 5"), [record()])
    assert line == "median_ms < 5: a.tflite on Phone, 1 thread has 5"
    line, = check_limit(parse_limit("median_ms < 5"), [record(median_ms=None, failure="it was killed")])
    assert "has no median_ms (it was killed)" in line
    with pytest.raises(InputError, match=r"unknown field 'median'.*median_ms"):
        parse_limit("median < 5")
    with pytest.raises(InputError, match="is not a limit"):
        parse_limit("median_ms = 5")
