"""Logs of older and newer tools, whole and broken: `logs/historic.json` says what each must be read as."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnv3_tf.export.benchmark.runners.logs import BenchmarkLog, failure, parse_log, remarks

LOGS = Path(__file__).parent / "logs"
EXPECTED = json.loads((LOGS / "historic.json").read_text())
SENTENCES = ("asked", "exit_code", "failure", "remarks")


def plain(value: object) -> object:
    """As JSON would give it; the tools tell no kernel of an operator."""
    if isinstance(value, tuple):
        assert not any(item.kernel for item in value if hasattr(item, "kind"))
        return [list(vars(item).values())[:5] if hasattr(item, "kind") else item for item in value]
    return value


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r\r\n"])
@pytest.mark.parametrize("name", EXPECTED)
def test_historic_logs(name: str, ends: str) -> None:
    expected = EXPECTED[name]
    log = parse_log((LOGS / name).read_text().replace("\n", ends))
    for key, value in expected.items():
        if key not in SENTENCES:
            found = plain(getattr(log, key))
            assert found == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key
    reason = failure(log, expected.get("exit_code", 0), delegate=expected.get("asked"))
    if "failure" in expected:
        assert reason is not None and expected["failure"] in reason and "\n" not in reason
    else:
        assert reason is None, reason
    if "remarks" in expected:
        said = remarks(log, 50)
        assert len(said) == len(expected["remarks"]) and all(map(str.__contains__, said, expected["remarks"]))
    json.dumps(asdict(log))


def test_every_log_has_expectations() -> None:
    known = set(EXPECTED) | set(json.loads((LOGS / "expected.json").read_text()))
    assert {file.name for file in LOGS.glob("*.txt")} == known


@pytest.mark.parametrize(("name", "words"), [
    ("31_local_missing_model.txt", "check that the file is on the device"),
    ("32_local_no_graph.txt", "give the model with --graph"), ("34_local_bad_flag_value.txt", "correct that flag's value"),
    ("35_local_not_a_flatbuffer.txt", "mnv3 inspect"), ("36_local_shape_mismatch.txt", "check the input's shape"),
    ("41_local_require_full_delegation.txt", "allow the CPU the rest")])
def test_failures_say_what_to_do(name: str, words: str) -> None:
    assert words in (failure(parse_log((LOGS / name).read_text()), 1) or "")


def test_a_run_that_was_cut_short_is_a_measurement() -> None:
    log = parse_log((LOGS / "40_local_max_secs_cut.txt").read_text())
    assert (log.runs, log.asked_runs, log.complete) == (9, 1000, False) and failure(log, 0) is None
    assert remarks(log, 1000) == ("cut off after 9 of 1000 runs by the tool's time limit",)


def test_a_flag_for_a_delegate_that_the_tool_does_not_know() -> None:
    log = parse_log((LOGS / "33_local_unconsumed_gpu_flag.txt").read_text())
    assert log.delegate_applied == "cpu" and log.unknown_delegate_flags == ("--use_gpu=true",)
    for asked in ("gpu", "xnnpack", None):
        assert "--use_gpu=true, so its times are the CPU's: CPU fallback" in (failure(log, 0, delegate=asked) or "")


def test_exit_codes_and_zeros() -> None:
    good = "count=3 first=1 curr=1 min=1 max=1 avg=1 std=0\ncount=9 first=7 curr=9 min=7 max=9 avg=8 std=1\n"
    assert "signal 11" in (failure(parse_log(good + "Segmentation fault"), 139) or "")
    assert "times of 0" in (failure(parse_log("Inference timings in us: Init: 5, Inference (avg): 0"), 0) or "")
    warm = "Running benchmark for at least 1 iterations\ncount=1 curr=5"
    assert "ended after its warm-up" in (failure(parse_log(warm), 0) or "")
    assert "unknown symbol" in (failure(parse_log("ERROR: unknown symbol"), 1) or "")
    ran = parse_log("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n" + good)
    assert remarks(ran, 9, delegate="none") == ("the CPU's own kernels were asked for, and the xnnpack delegate ran",)


# What is printed in any form, with anything around it, is read as the same values ---------------------------------------

microseconds = st.floats(1, 5e7).map(lambda value: float(f"{value:.6g}"))
PREFIXES = ("", "INFO: ", "INFO: [./litert/tools/benchmark_litert_model.h:88] ", "I/tflite  ( 1234): ", "I/tflite: ",
            "11-25 10:00:00.000  1234  1234 I tflite  : ", "2026-11-25 10:00:00.000 +0000 shell  12  13 I tflite  : INFO: ",
            "2018-09-10 12:36:26.109144: I tensorflow/tools/benchmark/benchmark_model.cc:327] ",
            "I0000 00:00:1732529999.123456   12345 benchmark.cc:12] ")
NOISE = ("", "INFO: Loaded model net.tflite", "ERROR: nothing that matters", "WARNING: linker: something", "random words",
         "Timings (microseconds): count=7 first=1 curr=1 min=1 max=1 avg=1 std=1", "Memory (bytes): count=0",
         "Number of nodes executed: 12", "- VmRSS              : 15 MB")


@st.composite
def printed(draw: st.DrawFn) -> tuple[list[str], BenchmarkLog]:
    """Lines of a log in one of the forms, and what they say."""
    init, first, warm, median, p5, p95 = (draw(microseconds) for _ in range(6))
    low, mean, high = sorted(draw(microseconds) for _ in range(3))
    std = draw(st.integers(0, 10**6))
    runs, warm_ups = draw(st.integers(2, 10**6)), draw(st.integers(2, 10**4))
    form = draw(st.sampled_from(["2019", "2020", "percentiles", "litert"]))
    if form == "litert":
        values = {"init_ms": init, "first_ms": first, "warmup_ms": warm, "mean_ms": mean, "min_ms": low, "max_ms": high}
        labels = ("Model initialization", "Warmup (first)", "Warmup (avg)",
                  "Inference (avg)", "Inference (min)", "Inference (max)")
        counts = {"Warmup (avg)": f" ({warm_ups} runs)", "Inference (avg)": f" ({runs} runs)"}
        lines = [f"{label + ':':22s}{value / 1000:.2f} ms{counts.get(label, '')}"
                 for label, value in zip(labels, values.values(), strict=True)]
        rounded = {key: float(f"{value / 1000:.2f}") for key, value in values.items()}
        return lines, BenchmarkLog(**rounded, runs=runs, warmup_runs=warm_ups)
    percentiles = f" p5={p5:.6g} median={median:.6g} p95={p95:.6g}" if form == "percentiles" else ""
    lines = ["Running benchmark for at least 1 iterations and at least 0.5 seconds",
             f"count={warm_ups} first={first:.6g} curr=9 min=9 max=9 avg={warm:.6g} std=0",
             f"Running benchmark for at least {runs} iterations and at least 1 seconds",
             f"count={runs} first=9 curr=9 min={low:.6g} max={high:.6g} avg={mean:.6g} std={std}{percentiles}"]
    older = f"Average inference timings in us: Warmup: {warm:.6g}, Init: {init:.6g}, no stats: {mean:.6g}"
    newer = (f"Inference timings in us: Init: {init:.6g}, First inference: {first:.6g}, Warmup (avg): {warm:.6g}, "
             f"Inference (avg): {mean:.6g}")
    lines.append(older if form == "2019" else newer)
    extra = {"p5_ms": p5 / 1000, "median_ms": median / 1000, "p95_ms": p95 / 1000} if percentiles else {}
    return lines, BenchmarkLog(runs=runs, warmup_runs=warm_ups, asked_runs=runs, init_ms=init / 1000, first_ms=first / 1000,
                               warmup_ms=warm / 1000, mean_ms=mean / 1000, min_ms=low / 1000, max_ms=high / 1000,
                               std_ms=std / 1000, **extra)


@pytest.mark.slow
@given(printed(), st.data())
def test_any_form_with_anything_around_it(log: tuple[list[str], BenchmarkLog], data: st.DataObject) -> None:
    lines, expected = log
    text = ""
    for line in lines:
        for noise in data.draw(st.lists(st.sampled_from(NOISE), max_size=2)):
            text += noise + data.draw(st.sampled_from(["\n", "\r\n"]))
        text += data.draw(st.sampled_from(PREFIXES)) + line + data.draw(st.sampled_from(["\n", "\r\n", "\r\r\n", " \n"]))
    found = parse_log(text)
    for key, value in vars(expected).items():
        if key not in ("warnings", "errors"):
            assert getattr(found, key) == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key
    assert failure(found, 0) is None or found.mean_ms == 0


WORDS = st.sampled_from([
    "count=", "curr=", "1e999", "9" * 30, "-nan", "INFO: ", "E/tflite: ", "[a.h:1] ", " runs)", "\t", "\r", "\n", "(all same)",
    "Inference timings in us: ", "Inference (avg): ", "Init: ", "=== Run Order ===\n", "[Name]\t", "100%\t", ", ",
    "Min num runs: [", "Running benchmark for ", "Replacing ", " out of ", "Accelerators: "])


@given(st.one_of(st.text(max_size=300), st.lists(WORDS, max_size=30).map("".join)), st.integers(0, 255),
       st.sampled_from([None, "gpu", "xnnpack", "none"]))
def test_no_text_is_an_error(text: str, code: int, delegate: str | None) -> None:
    log = parse_log(text)
    json.dumps(asdict(log))
    assert not re.search(r"[\r\n]", failure(log, code, delegate=delegate) or "")
    remarks(log, 10, delegate=delegate)
