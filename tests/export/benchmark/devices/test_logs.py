"""Every form that the benchmark tools printed over the years."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv3_tf.export.benchmark.runners.logs import failure, parse_log, remarks

LOGS = Path(__file__).parent / "logs"
EXPECTED = json.loads((LOGS / "expected.json").read_text())
# Name in the expectations -> attribute, and the unit's factor.
FIELDS = {"init_us": ("init_ms", 1000), "first_us": ("first_ms", 1000), "warmup_avg_us": ("warmup_ms", 1000),
          "avg_us": ("mean_ms", 1000), "peak_mb": ("peak_memory_mb", 1), "mem_init_mb": ("init_memory_mb", 1),
          "mem_overall_mb": ("memory_mb", 1), "litert_init_ms": ("init_ms", 1), "litert_avg_ms": ("mean_ms", 1),
          "litert_runs": ("runs", 1), "litert_std_ms": ("std_ms", 1)}
COUNTS = {"min": "min_ms", "max": "max_ms", "avg": "mean_ms", "std": "std_ms"}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_logs(name: str) -> None:
    text, expected = (LOGS / name).read_text(), EXPECTED[name]
    code = re.search(r"exit code:? (\d+)", text)
    log = parse_log(text)
    reason = failure(log, int(code.group(1)) if code else 126, delegate="gpu" if "gpu" in name else None)
    assert (reason is None) == expected["ok"], reason
    assert reason is None or "\n" not in reason
    for key, (attribute, factor) in FIELDS.items():
        if key in expected:
            assert getattr(log, attribute) == pytest.approx(expected[key] / factor), key
    for key, attribute in COUNTS.items():
        if key in expected.get("last_count", {}) and expected["last_count"]["count"] > 1:
            assert getattr(log, attribute) == pytest.approx(expected["last_count"][key] / 1000), key
    if "last_count" in expected:
        assert log.runs == expected["last_count"]["count"]
    if "errors" in expected:
        assert list(log.errors) == expected["errors"]


def test_the_operator_table() -> None:
    """Its own count lines are no results."""
    log = parse_log((LOGS / "37_local_op_profiling.txt").read_text())
    assert len(log.ops) == 115 and log.runs == 5 and log.mean_ms == pytest.approx(22.529)
    first = log.ops[0]
    assert (first.name, first.kind, first.calls) == ("tfl.quantize", "QUANTIZE", 1)
    assert first.mean_ms == 0.582 and first.share == pytest.approx(0.02587)
    assert sum(op.share for op in log.ops) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("text", "expected"), [
    ("Average inference timings in us: Warmup: 5200.5, Init: 1200, no stats: 5100.25",
     {"warmup_ms": 5.2005, "init_ms": 1.2, "mean_ms": 5.10025}),
    ("count=5 first=9 curr=9 min=9 max=9 avg=9 std=0\n"
     "count=50 first=1.01013e+06 curr=1e6 min=999000 max=1.01013e+06 avg=1.005e+06 std=12",
     {"runs": 50, "warmup_runs": 5, "max_ms": 1010.13, "mean_ms": 1005.0}),
    ("count=50 first=4 curr=4 min=3 max=9 avg=4 std=1 p5=3 median=4 p95=8",
     {"median_ms": 0.004, "p5_ms": 0.003, "p95_ms": 0.008}),
    ("count=1 curr=5000", {"runs": 1, "mean_ms": 5.0, "median_ms": 5.0}),
    ("count=7 curr=5000(all same)", {"runs": 7, "mean_ms": 5.0, "min_ms": 5.0}),
    ("[benchmark_litert_model.h:87] Inference (avg):   7430.20 ms (10 runs)", {"mean_ms": 7430.2, "runs": 10}),
    ("11-25 10:00:00.123  1234  1234 I tflite  : Inference timings in us: Init: 10, First inference: 20, Warmup (avg): 5, "
     "Inference (avg): 4", {"init_ms": 0.01, "first_ms": 0.02, "mean_ms": 0.004}),
    ("I/tflite  ( 1234): count=2 first=1 curr=3 min=1 max=3 avg=2 std=1", {"runs": 2, "mean_ms": 0.002}),
])
def test_historic_forms(text: str, expected: dict[str, float]) -> None:
    for noisy in (text, text.replace("\n", "\r\n") + "\r\n", text.replace("\n", "\r\r\n"), f"INFO: STARTING!\n{text}\nINFO: end"):
        log = parse_log(noisy)
        assert {key: getattr(log, key) for key in expected} == pytest.approx(expected)


number = st.floats(1, 1e7).map(lambda value: float(f"{value:.6g}"))


@given(first=number, low=number, mean=number, runs=st.integers(2, 10**6), prefix=st.sampled_from(["", "INFO: ", "[a/b.h:12] "]),
       end=st.sampled_from(["\n", "\r\n"]))
def test_what_is_printed_is_read(first: float, low: float, mean: float, runs: int, prefix: str, end: str) -> None:
    lines = ["count=3 first=1 curr=1 min=1 max=1 avg=1 std=0",
             f"count={runs} first={first:.6g} curr={low:.6g} min={low:.6g} max={first:.6g} avg={mean:.6g} std=1.5"]
    log = parse_log(end.join(prefix + line for line in lines))
    assert (log.runs, log.warmup_runs) == (runs, 3)
    assert [log.max_ms, log.min_ms, log.mean_ms] == pytest.approx([first / 1000, low / 1000, mean / 1000])


@given(st.text(max_size=400))
def test_any_text_is_read_without_an_error(text: str) -> None:
    log = parse_log(text)
    json.dumps(asdict(log))
    assert failure(log, 0) is None or "\n" not in (failure(log, 0) or "")


def test_failures_at_exit_code_0() -> None:
    assert "no timing line" in (failure(parse_log("INFO: STARTING!"), 0) or "")
    good = "count=10 first=9 curr=9 min=9 max=9 avg=9 std=0"
    assert failure(parse_log(good), 0) is None
    # A line of this level alone is no failure.
    assert failure(parse_log(good + "\nERROR: something that did not matter"), 0) is None
    assert "CPU fallback" in (failure(parse_log(good), 0, delegate="nnapi") or "")
    assert failure(parse_log(good + "\nINFO: Explicitly applied GPU delegate"), 0, delegate="gpu") is None
    assert remarks(parse_log(good), 1000) == ("cut off after 10 of 1000 runs by the tool's time limit",)
