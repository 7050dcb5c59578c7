"""The latency measurement: order, arithmetic, intervals, rows, and the command."""

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mnv3_tf.cli.benchmark import benchmark
from mnv3_tf.errors import InputError, KitError
from mnv3_tf.export.benchmark.compare import comparisons
from mnv3_tf.export.benchmark.devices.state import DeviceState
from mnv3_tf.export.benchmark.host import SLICE_WARMUP, benchmark_host, host_json, timed_runs
from mnv3_tf.export.benchmark.measure import BenchmarkSettings, Job, Slice, measure, rotated
from mnv3_tf.export.benchmark.statistics import percentile, ratio_with_interval
from mnv3_tf.export.benchmark.store import REQUIRED
from mnv3_tf.export.benchmark.table import ms, result_lines, short_names, warning_lines
from mnv3_tf.progress import Silent

QUICK = BenchmarkSettings(runs=8, warmup=1, min_seconds=0.0, rounds=4)
QUICK_OPTIONS = ["--runs", "8", "--warmup", "1", "--min-seconds", "0", "--rounds", "4"]


class FakeModel:
    """Takes a known time on a fake clock."""

    def __init__(self, name, cost_ns, world):
        self.name, self.cost_ns, self.world = name, cost_ns, world

    def invoke(self):
        self.world["now"] += self.cost_ns
        self.world["log"].append(self.name)


class FakeRunner:
    """Times the models as the host does, and needs neither memory nor profiles."""

    def __init__(self, models, world):
        self.models, self.world = models, world

    def slice(self, job, runs, seconds, warmup):
        times = timed_runs(self.models[job.file.name].invoke, runs, seconds, lambda: self.world["now"])
        return Slice(times, {}, 0.0, 0.0, "xnnpack")

    def memory(self, job):
        return None, ""


class Seen(Silent):
    """Keeps what progress was told."""

    def __init__(self):
        self.seen = []

    @contextlib.contextmanager
    def task(self, description, total):
        yield lambda done, note: self.seen.append((done, note))


def measured(costs, progress=None, **settings):
    """Samples of each model by round, and the order of all runs."""
    world = {"now": 0, "log": []}
    models = {name: FakeModel(name, cost, world) for name, cost in costs.items()}
    found = measure([Job(Path(name), 1, None, "all") for name in costs], FakeRunner(models, world), BenchmarkSettings(**settings),
                    name="this machine", state=DeviceState, progress=progress or Silent())
    return tuple(tuple(part.samples_ms for part in result.slices) for result in found.results), world["log"]


def test_rotation():
    assert [rotated(3, index) for index in range(4)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


def test_files_take_turns_and_nanoseconds_become_milliseconds():
    samples, log = measured({"a": 2_500_000, "b": 1_000}, runs=4, rounds=2, min_seconds=0)
    slice_length = SLICE_WARMUP + 2
    assert log == ["a"] * slice_length + ["b"] * slice_length + ["b"] * slice_length + ["a"] * slice_length
    assert samples == (((2.5, 2.5), (2.5, 2.5)), ((0.001, 0.001), (0.001, 0.001)))


def test_short_networks_get_more_runs():
    samples, _ = measured({"short": 1_000_000, "long": 100_000_000}, runs=10, rounds=5, min_seconds=0.1)
    assert [len(slice_) for slice_ in samples[0]] == [20] * 5
    assert [len(slice_) for slice_ in samples[1]] == [2] * 5


def test_runs_are_rounded_up_and_progress_counts_slices():
    progress = Seen()
    samples, _ = measured({"a": 10, "b": 10}, progress, runs=5, rounds=2, min_seconds=0)
    assert [len(slice_) for slice_ in samples[0]] == [3, 3]
    assert progress.seen == [(0, "a, 1 thread"), (1, "b, 1 thread"), (2, "b, 1 thread"), (3, "a, 1 thread"), (4, "")]


def test_a_clock_that_stands_still_ends():
    samples, _ = measured({"a": 0}, runs=1, rounds=1, min_seconds=1e-6)
    assert len(samples[0][0]) == 1000


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 2.5), (90, 3.7), (100, 4)])
def test_percentile(percent, expected):
    assert percentile([1.0, 2.0, 3.0, 4.0], percent) == pytest.approx(expected)
    assert percentile([7.0], percent) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], percent)


def synthetic(factor, seed, rounds=6, runs=30):
    """Latencies with noise, and a drift over the rounds that both sides share."""
    random = np.random.default_rng(seed)
    return [[factor * (1 + 0.2 * index) * (1 + 0.02 * abs(random.normal())) for _ in range(runs)]
            for index in range(rounds)]


@pytest.mark.parametrize("seed", range(5))
def test_equal_things_are_not_called_different(seed):
    ratio, low, high = ratio_with_interval(synthetic(3.0, seed), synthetic(3.0, 100 + seed), resamples=300)
    assert low <= 1.0 <= high
    assert low <= ratio <= high
    assert ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_twice_the_time_is_seen_through_the_drift(seed):
    ratio, low, high = ratio_with_interval(synthetic(6.0, seed), synthetic(3.0, 100 + seed), resamples=300)
    assert ratio == pytest.approx(2.0, abs=0.1)
    assert 1.5 < low <= ratio <= high < 2.6


def test_interval_is_repeatable_and_checks_rounds():
    a, b = synthetic(1.0, 1), synthetic(1.1, 2)
    assert ratio_with_interval(a, b, resamples=50) == ratio_with_interval(a, b, resamples=50)
    with pytest.raises(ValueError, match="same rounds"):
        ratio_with_interval(a, b[:-1])


@pytest.fixture(scope="module")
def result(files):
    return benchmark_host([files["plain_float32"], files["swish_int8"]], replace(QUICK, threads=(1, 2)))


def test_rows(result, files):
    assert [(row["file"], row["threads"]) for row in result.rows] == [
        (str(files[name]), threads) for name in ("plain_float32", "swish_int8") for threads in (1, 2)]
    for row in result.rows:
        times = [time_ms for slice_ in row["samples_ms"] for time_ms in slice_]
        assert row["runs"] == len(times) == 8
        assert row["min_ms"] <= row["median_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["median_ms"] == pytest.approx(float(np.median(times)))
        assert row["p90_ms"] == pytest.approx(float(np.percentile(times, 90)))
        assert row["mean_ms"] == pytest.approx(math.fsum(times) / 8)
        assert row["init_ms"] > 0 and row["first_ms"] > 0 and row["spread"] >= 0
        assert (row["target"], row["delegate"], row["dynamic_batch"]) == ("host", "xnnpack", False)
        assert row["runner_version"].startswith("ai-edge-litert ")
        assert set(REQUIRED) <= set(row) and row["measured_apart"] == [] and row["failure"] is None
    assert [row["partitions"] for row in result.rows] == [1, 1, 3, 3]
    assert result.rows[2]["operators_outside"] == ["HARD_SWISH", "HARD_SWISH"]
    assert (result.rows[0]["input_dtype"], result.rows[2]["output_dtype"]) == ("float32", "int8")


ROW_KEYS = {
    "file", "target", "threads", "runs", "median_ms", "mean_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "max_ms", "spread",
    "drift", "init_ms", "first_ms", "partitions", "operators_outside", "delegate", "dynamic_batch", "size_bytes", "sha256",
    "input_dtype", "output_dtype", "runtime", "machine", "cores_usable", "governor", "temperature_before_c",
    "temperature_after_c"}


def test_json_form_names_no_host(result):
    import platform

    plain = json.loads(json.dumps(host_json(result, comparisons(result.rows, result.rows[0]["file"]))))
    assert set(plain) == {"rows", "comparisons", "environment", "samples_ms"}
    assert set(plain["rows"][0]) >= ROW_KEYS and plain["samples_ms"] == [row["samples_ms"] for row in result.rows]
    assert {"cpu", "cores", "governor", "runtime", "settings"} <= set(plain["environment"])
    assert plain["rows"][0]["settings"] == plain["environment"]["settings"] and "invocation alone" in str(plain["environment"])
    assert platform.node() not in plain["environment"].values()


def with_samples(result, factor):
    """The rows with made-up samples: the second file takes `factor` times as long."""
    return [{**row, "samples_ms": synthetic(factor if index >= 2 else 1.0, index)} for index, row in enumerate(result.rows)]


def first_file(rows):
    return comparisons(rows, rows[0]["file"])


@pytest.mark.parametrize(("factor", "verdict"), [(2.0, "slower"), (0.5, "faster"), (1.0, "no difference shown")])
def test_verdicts(result, factor, verdict):
    found = first_file(with_samples(result, factor))
    assert [entry.verdict for entry in found] == ["baseline", "baseline", verdict, verdict]
    assert [entry.threads for entry in found] == [1, 2, 1, 2]
    assert found[2].ratio == pytest.approx(factor, rel=0.05)


def test_a_difference_smaller_than_that_of_two_loads_is_none(result):
    made = [{**row, "samples_ms": [[time_ms] * 5] * 5} for row, time_ms in zip(result.rows[::2], (1.0, 1.015), strict=True)]
    assert first_file(made)[1].low > 1.0
    assert first_file(made)[1].verdict == "no difference shown"


def test_few_rounds_give_no_verdict(result):
    made = [{**row, "samples_ms": [[time_ms] * 9]} for row, time_ms in zip(result.rows[::2], (1.0, 5.0), strict=True)]
    assert first_file(made)[1].verdict == "too few rounds"


def test_other_baseline(result, files):
    made = with_samples(result, 2.0)
    verdicts = [entry.verdict for entry in comparisons(made, str(files["swish_int8"]))]
    assert verdicts == ["faster", "faster", "baseline", "baseline"]
    with pytest.raises(InputError, match="not among the measured files"):
        comparisons(made, "other.tflite")


def test_missing_delegate_is_said(files):
    row, = benchmark_host([files["plain_int8"]], replace(QUICK, delegate="none")).rows
    assert (row["partitions"], row["delegate"]) == (0, "none (CPU kernels)")


def test_open_batch_is_measured_as_one_and_said(files):
    rows = benchmark_host([files["open_batch"]], QUICK).rows
    assert rows[0]["dynamic_batch"]
    assert any("batch size is open" in line for line in warning_lines(rows))


def test_one_file_twice_is_loaded_twice(files):
    rows = benchmark_host([files["plain_int8"], files["plain_int8"]], QUICK).rows
    assert [entry.verdict == "baseline" for entry in first_file(rows)] == [True, False]


def test_bad_numbers():
    with pytest.raises(InputError, match=r"no \.tflite file"):
        benchmark_host([], QUICK)
    with pytest.raises(InputError, match="rounds is 0"):
        BenchmarkSettings(rounds=0)


def test_text_helpers(result):
    assert (ms(0.3514), ms(12.345)) == ("0.351", "12.3")
    assert short_names(["a/x.tflite", "b/y.tflite", "a/x.tflite"]) == ["x.tflite", "y.tflite", "x.tflite"]
    assert short_names(["a/x.tflite", "b/x.tflite"]) == ["a/x.tflite", "b/x.tflite"]
    assert any("phone" in line for line in result_lines(result))
    # What is so with any number of threads is said once.
    assert sum("3 partitions, with 2 HARD_SWISH outside" in line for line in warning_lines(result.rows)) == 1


def test_command_prints_a_table(files):
    run = CliRunner().invoke(benchmark, [str(files["plain_int8"]), str(files["swish_int8"]), "--threads", "1,2,1",
                                         *QUICK_OPTIONS])
    assert run.exit_code == 0, run.output
    assert run.stdout.count("plain_int8.tflite") == 2 + run.stdout.count("Warning: plain_int8")
    for text in ("median ms", "baseline", "Measured on this machine", "3 partitions"):
        assert text in run.stdout


def test_command_prints_json_and_nothing_else(files):
    run = CliRunner().invoke(benchmark, [str(files["plain_int8"]), "--against", str(files["plain_float32"]), "--json",
                                         *QUICK_OPTIONS])
    assert run.exit_code == 0, run.output
    plain = json.loads(run.stdout)
    keys = {"file", "target", "threads", "median_ms", "p90_ms", "p99_ms", "partitions", "sha256"}
    assert keys <= set(plain["rows"][0])
    assert plain["comparisons"][0]["verdict"] == "baseline"
    assert [row["file"] for row in plain["rows"]] == [str(files["plain_float32"]), str(files["plain_int8"])]


def test_against_one_of_the_files_spelled_differently(files):
    path = files["plain_int8"]
    other = f"{path.parent}/../{path.parent.name}/{path.name}"
    run = CliRunner().invoke(benchmark, [str(files["swish_int8"]), str(path), "--against", other, "--json",
                                         *QUICK_OPTIONS])
    comparisons = json.loads(run.stdout)["comparisons"]
    assert len(comparisons) == 2
    assert comparisons[1]["verdict"] == "baseline"


@pytest.mark.parametrize("arguments", [[], ["x.tflite", "--threads", "0"], ["x.tflite", "--threads", "1,,2"],
                                       ["x.tflite", "--threads", "two"], ["x.tflite", "--threads", "-1"],
                                       ["x.tflite", "--runs", "0"], ["x.tflite", "--rounds", "0"],
                                       ["x.tflite", "--delegate", "tpu"], ["x.tflite", "--min-seconds", "-1"]])
def test_usage_errors(arguments):
    assert CliRunner().invoke(benchmark, arguments).exit_code == 2


def test_what_is_no_tflite_file_is_one_line(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04" + bytes(30))
    for path, text in ((tmp_path, "folder"), (tmp_path / "model.keras", "mnv3 convert"),
                       (tmp_path / "no", "No such file")):
        run = CliRunner().invoke(benchmark, [str(path)])
        assert isinstance(run.exception, KitError)
        assert text in str(run.exception) and "\n" not in str(run.exception)


def test_open_sizes_are_given(tmp_path: Path) -> None:
    """A filter of 16 samples has no place at the size that an open one is stored as."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([1, None, 1])])
    def filtered(samples):
        return tf.nn.conv1d(samples, tf.ones((16, 1, 2)), 4, "VALID")

    path = tmp_path / "open.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([filtered.get_concrete_function()]).convert())
    few = BenchmarkSettings(runs=2, rounds=1, warmup=0, min_seconds=0)
    row, = benchmark_host([path], replace(few, input_shapes=((1, 64, 1),))).rows
    assert row["runs"] >= 2 and any("1x64x1" in line for line in row["warnings"])
    for shapes, words in (((), "--input-shape"), (((1, 64),), "1x64 does not fit"), (((2, 64, 1),), "does not fit"),
                          (((1, 64, 1),) * 2, "2 input shapes given, and 1 input with")):
        with pytest.raises(InputError, match=words):
            benchmark_host([path], replace(few, input_shapes=shapes))
    from mnv3_tf.export.inspection.inspect import inspect_file

    found = inspect_file(path)
    assert "not run, because it has open sizes" in found.run.refused and "--input-shape" in found.run.refused
    assert not any("refuses it" in line for line in (*found.problems, *found.failures(["int8", "one-partition"])))


@pytest.mark.parametrize(("words", "said"), [
    (["--input-shape", "1x0"], "is not a shape"), (["--input-shape", "axb"], "is not a shape"),
    (["--input-shape", "1x2", "--target", "adb"], "for times on this machine"),
    (["--input-shape", "1x2", "--profile"], "for times on this machine")])
def test_input_shapes_that_cannot_be_used(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from mnv3_tf.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "none.tflite", *words])
    assert stopped.value.code == 2 and said in capsys.readouterr().err
