"""A benchmark on a phone: the real adb client, the kit's own runner, real inference."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from device_lab.phone import SimulatedPhone
from device_lab.waiting import PATIENCE, wait

from mnv3_tf.cli.main import main
from mnv3_tf.errors import InputError, KitError, NoDeviceError
from mnv3_tf.export.benchmark.compare import comparisons
from mnv3_tf.export.benchmark.devices.bench import benchmark_device, open_target
from mnv3_tf.export.benchmark.devices.remote import DeviceLost
from mnv3_tf.export.benchmark.devices.session import opened
from mnv3_tf.export.benchmark.measure import BenchmarkSettings, Job, SliceFailed
from mnv3_tf.export.benchmark.runners.runner_build import build_runner
from mnv3_tf.export.benchmark.runners.runners import KitRunner
from mnv3_tf.export.benchmark.store import REQUIRED
from mnv3_tf.progress import Silent
from mnv3_tf.tflite.runtime import LiteRTModel

pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
QUICK = BenchmarkSettings(runs=40, min_seconds=0, rounds=4, warmup=1, cool_down=0)
Phone = Callable[..., SimulatedPhone]


@pytest.fixture
def odd_name(files: dict[str, Path], tmp_path: Path) -> Path:
    """A model whose name no shell should see unquoted."""
    target = tmp_path / "my model's \"best\" $(one).tflite"
    target.write_bytes(files["plain_int8"].read_bytes())
    return target


@pytest.mark.slow
def test_two_models_on_a_phone(phone: Phone, files: dict[str, Path], odd_name: Path) -> None:
    sim = phone()
    settings = replace(QUICK, cores=("all", "big"), threads=(1, 2))
    result = benchmark_device(open_target(f"adb:{sim.serial}"), [odd_name, files["swish_int8"]], settings, Silent())
    assert len(result.rows) == 8 and sim.settled()
    for row in result.rows:
        assert set(REQUIRED) <= set(row) and row["failure"] is None
        assert row["rounds"] == 4 and row["runs"] == sum(map(len, row["samples_ms"])) >= 40
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["delegate"] == "xnnpack" and row["peak_memory_mb"] > 1 and row["init_ms"] > 0 and row["first_ms"] > 0
        assert row["device"] == "Simulated Sim Phone (Android 14)" and len(row["runner_sha256"]) == 64
        assert sim.serial not in json.dumps(row) and "SIM0001" not in json.dumps(row)
        assert row["state_before"]["cpu_temperature_c"] == 41.0 and row["state_before"]["governors"][0] == "schedutil"
    assert {row["cores"] for row in result.rows} == {"all", "cpu4-7 (big)"}
    assert [row["partitions"] for row in result.rows] == [1] * 4 + [3] * 4
    assert "taskset f0" in sim.calls()
    compared = comparisons(result.rows, str(odd_name))
    assert [entry.verdict for entry in compared[:4]] == ["baseline"] * 4
    assert all(entry.low <= entry.ratio <= entry.high for entry in compared[4:])


def test_outputs_are_the_hosts_to_the_byte(phone: Phone, files: dict[str, Path], tmp_path: Path) -> None:
    sim = phone()
    model = LiteRTModel(files["plain_int8"])
    tensors = np.random.default_rng(0).integers(-128, 128, (5, *model.input_shape[1:]), dtype=np.int8)
    (tmp_path / "in.bin").write_bytes(tensors.tobytes())
    with opened(open_target(f"adb:{sim.serial}")) as session:
        runner = KitRunner(session, build_runner("x86_64", Silent()))
        runner.install()
        runner.outputs(files["plain_int8"], tmp_path / "in.bin", tmp_path / "out.bin")
    expected = b"".join(model.run_raw(tensor[None]).tobytes() for tensor in tensors)
    assert (tmp_path / "out.bin").read_bytes() == expected and sim.settled()


def test_an_old_phone_without_exit_codes(phone: Phone, files: dict[str, Path]) -> None:
    sim = phone(shell_v2=False)
    result = benchmark_device(open_target(f"adb:{sim.serial}"), [files["plain_int8"]], QUICK, Silent())
    assert result.rows[0]["failure"] is None and result.rows[0]["runs"] >= 40 and sim.settled()


@pytest.mark.slow
@pytest.mark.parametrize(("faults", "words"), [
    ({"read_only": True}, "the file system there is read-only"), ({"disk_full": 100_000}, "the device is full"),
    ({"drop_after_bytes": 3_000_000}, "127")])
def test_pushes_that_fail(faults: dict[str, object], words: str, phone: Phone, files: dict[str, Path]) -> None:
    sim = phone()
    device = open_target(f"adb:{sim.serial}")
    sim.set_faults(**faults)
    with pytest.raises(KitError, match=words) as caught:
        benchmark_device(device, [files["plain_int8"]], QUICK, Silent())
    assert "\n" not in str(caught.value) and sim.serial in str(caught.value)
    if "drop_after_bytes" not in faults:
        assert sim.settled()


@pytest.mark.slow
@pytest.mark.parametrize("opens", [8, 18, 28])
def test_a_cable_that_is_pulled_in_the_middle(opens: int, phone: Phone, files: dict[str, Path]) -> None:
    """While files are copied, and while they run."""
    sim = phone(drop_after_opens=opens)
    with pytest.raises((DeviceLost, NoDeviceError)) as caught:
        benchmark_device(open_target(f"adb:{sim.serial}"), [files["plain_int8"]], QUICK, Silent())
    assert sim.serial in str(caught.value) and not sim.running()


@pytest.mark.parametrize(("faults", "words"), [
    ({"unauthorized": True}, "Allow USB debugging"), ({"mute": True}, "127")])
def test_phones_that_cannot_be_used(faults: dict[str, object], words: str, phone: Phone) -> None:
    sim = phone(**faults)
    with pytest.raises(NoDeviceError, match=words) as caught:
        open_target(f"adb:{sim.serial}")
    assert "\n" not in str(caught.value)


def answer(sim: SimulatedPhone, folder: Path, text: str, code: int, **others: str) -> None:
    """From now on the phone prints a text instead of running the tool, and others where its flags hold these words."""
    patterns = [*others.items(), ("threads", text)]
    for number, (_, log) in enumerate(patterns):
        (folder / f"log{number}.txt").write_text(log)
    sim.set_faults(answers=[[rf"--\S*{words}", str(folder / f"log{number}.txt"), code]
                            for number, (words, _) in enumerate(patterns)])


NO_RESULTS = (
    ("/system/bin/sh: ./ld-linux: can't execute: Permission denied\n", 126, "does not let the runner be executed"),
    ("sh: ./ld-linux: not executable: 64-bit ELF file\n", 126, "the device is a 32-bit one"),
    ("error: the model cannot be loaded: status 500\n", 1, "the model cannot be loaded"),
    ("kit_runner 1\ninit_us 10\n", 137, "killed by the device"), ("kit_runner 1\ninit_us 10\nus 1 2\n", 0, "without a result"),
    ("", 139, "ended by signal 11"))


def test_runs_that_are_none(phone: Phone, files: dict[str, Path], tmp_path: Path) -> None:
    """Exit code 0 without a result is a failure too, and what was printed is kept."""
    sim = phone()
    job = Job(files["plain_int8"], 1, None, "all")
    with opened(open_target(f"adb:{sim.serial}")) as session:
        runner = KitRunner(session, build_runner("x86_64", Silent()))
        runner.install()
        for text, code, words in NO_RESULTS:
            answer(sim, tmp_path, text, code)
            with pytest.raises(SliceFailed, match=words) as caught:
                runner.slice(job, 5, 0.1, 1)
            assert text.strip() in caught.value.log and f"# exit code {code}" in caught.value.log


def test_a_run_that_is_none_is_a_row_that_says_why(phone: Phone, files: dict[str, Path], tmp_path: Path) -> None:
    sim = phone()
    device = open_target(f"adb:{sim.serial}")
    answer(sim, tmp_path, *NO_RESULTS[2][:2])
    result = benchmark_device(device, [files["plain_int8"]], QUICK, Silent())
    row, = result.rows
    assert "the model cannot be loaded" in row["failure"] and row["median_ms"] is None and row["runs"] == 0
    assert "error: the model cannot be loaded: status 500" in result.logs[0] and "round 1: timed" in result.logs[0]


def tool(sim: SimulatedPhone, folder: Path, log: str, files: dict[str, Path], others: dict[str, str] | None = None,
         **changes: Any) -> tuple[dict[str, Any], str]:
    """The row of a benchmark_model that prints a log, or others where its flags hold these words; and the raw log."""
    (folder / "bm").write_bytes(b"\x7fELF" + bytes(14) + (62).to_bytes(2, "little"))
    device = open_target(f"adb:{sim.serial}")
    answer(sim, folder, log, 0, **(others or {}))
    settings = replace(QUICK, runner="benchmark_model", binary=folder / "bm", runs=20, **changes)
    result = benchmark_device(device, [files["plain_int8"]], settings, Silent())
    return dict(result.rows[0]), result.logs[0]


RESULT = ("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nINFO: count=5 first=9 curr=9 min=9 max=9 avg=9 std=0\n"
          "INFO: count=50 first=4100 curr=4050 min=4000 max=1.01013e+04 avg=4200 std=9 p5=4001 median=4100 p95=4500\n"
          "INFO: Inference timings in us: Init: 928, First inference: 25443, Warmup (avg): 9, Inference (avg): 4200\n")


def test_the_tools_summary_becomes_a_row(phone: Phone, files: dict[str, Path], tmp_path: Path) -> None:
    row, _ = tool(phone(), tmp_path, RESULT, files)
    found = [row[key] for key in ("median_ms", "mean_ms", "max_ms", "p95_ms", "init_ms")]
    assert found == pytest.approx([4.1, 4.2, 10.1013, 4.5, 0.928])
    assert row["runs"] == 200 and row["samples_ms"] is None and row["p90_ms"] is None and row["delegate"] == "xnnpack"


def table(*kernels: str, inside: bool = True) -> str:
    """What the tool prints of operators: a partition, and what is in it."""
    heading = "\t[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]\n"
    rows = "".join(f"\tDelegate/{name}\t1.0\t2.0\t10%\t10%\t0.0\t1\tDelegate/{name}:{n}\n" for n, name in enumerate(kernels))
    return ("Operator-wise Profiling Info for Regular Benchmark Runs:\n============== Run Order ==============\n" + heading +
            "\tTfLiteXNNPackDelegate\t1.0\t9.0\t100%\t100%\t0.0\t1\t[Identity]:8\n" +
            (f"Delegate internal: \n============== Run Order ==============\n{heading}{rows}" if inside else ""))


PLAIN = ("Invalid Unary Op", "Convolution (NHWC, QC8) IGEMM", "Convolution (NHWC, QC8) DWConv", *2 * ("Fully Connected (NC) GEMM",
         "Mean (ND) Reduce"))


def test_the_tools_memory_and_operators_come_from_starts_of_their_own(phone: Phone, files: dict[str, Path],
                                                                      tmp_path: Path) -> None:
    """The timed starts have neither flag, and the numbers of the others' runs are not used."""
    slower = RESULT.replace("4100", "9900").replace("4200", "9900")
    others = {"report_peak_memory": slower + "INFO: Overall peak memory footprint (MB) via periodic monitoring: 12.5\n",
              "op_profiling": slower + table(*PLAIN[:4], PLAIN[4], PLAIN[3], "Static Reshape (NC)")}
    row, log = tool(phone(), tmp_path, RESULT, files, others, profile=True, use_cache=True)
    assert row["failure"] is None and row["median_ms"] == pytest.approx(4.1) and row["peak_memory_mb"] == 12.5
    assert row["measured_apart"] == ["peak_memory_mb", "ops"] and row["profile"]["problem"] is None
    first, second = [op["name"] for op in row["ops"]][:2]
    assert first.startswith("rescaling") and second == "stem/1" and len(row["ops"]) == 7
    heads = [line for line in log.splitlines() if line.startswith("#=== ")]
    assert heads == [*(f"#=== round {n}: timed" for n in range(1, 5)), "#=== memory, not timed", "#=== operators, not timed"]


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "problem"), [
    (table(*PLAIN), "does not fit the file"), (table(inside=False), "not of what is in them"),
    ("", "printed no table of operators")])
def test_a_profile_of_the_tool_without_layers_is_said(profile: str, problem: str, phone: Phone, files: dict[str, Path],
                                                      tmp_path: Path) -> None:
    row, _ = tool(phone(), tmp_path, RESULT, files, {"op_profiling": RESULT + profile}, profile=True)
    assert row["failure"] is None and problem in " ".join([*row["flags"], *row["warnings"]])


def test_the_tools_profile_becomes_operators(phone: Phone, files: dict[str, Path], tmp_path: Path) -> None:
    log = (Path(__file__).parent / "logs" / "37_local_op_profiling.txt").read_text()
    row, _ = tool(phone(), tmp_path, RESULT, files, {"op_profiling": log}, profile=True)
    assert row["failure"] is None and len(row["ops"]) == 115 and row["ops"][0]["kind"] == "QUANTIZE"


@pytest.mark.slow
@pytest.mark.parametrize("line", [
    "WARN: Unconsumed cmdline flags: --use_gpu=true\n", "",
    "WARN: Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.\n"])
def test_a_delegate_that_was_not_applied_is_cpu_fallback(line: str, phone: Phone, files: dict[str, Path], tmp_path: Path) -> None:
    row, _ = tool(phone(), tmp_path, line + RESULT, files, delegate="gpu")
    assert "CPU fallback" in str(row["failure"]) and row["median_ms"] is None and row["delegate"] is None


def test_throttling_is_flagged(phone: Phone, files: dict[str, Path]) -> None:
    sim = phone()
    sim.set_state(status=2, cpu=71.0, level=12)
    (sim.root / "sys/devices/system/cpu/cpu7/cpufreq/scaling_max_freq").write_text("1400000\n")
    row, = benchmark_device(open_target(f"adb:{sim.serial}"), [files["plain_int8"]], QUICK, Silent()).rows
    assert "throttling: thermal status moderate" in row["flags"]
    assert "throttling: the highest clock of cpu7 is lowered" in row["flags"]


def test_fixed_performance_is_reset(phone: Phone, files: dict[str, Path]) -> None:
    sim = phone()
    settings = replace(QUICK, fixed_performance=True)
    benchmark_device(open_target(f"adb:{sim.serial}"), [files["plain_int8"]], settings, Silent())
    calls = [line for line in sim.calls().splitlines() if line.startswith("cmd power")]
    assert calls[0].endswith("enabled true") and calls[-1].endswith("enabled false")


def test_cores_that_the_phone_lacks(phone: Phone, files: dict[str, Path]) -> None:
    sim = phone()
    settings = replace(QUICK, cores=("12-15",))
    with pytest.raises(InputError, match=r"names no core of this device; cpu0-7 are online"):
        benchmark_device(open_target(f"adb:{sim.serial}"), [files["plain_int8"]], settings, Silent())
    assert sim.settled()


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mnv3_tf.cli.main", *map(str, arguments)]


@pytest.mark.slow
def test_two_phones_and_the_host_at_once(phone: Phone, files: dict[str, Path], tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    one, two, shy = phone(), phone(properties={"ro.serialno": "SIM0002", "ro.product.model": "Other"}), phone(unauthorized=True)
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", str(files["plain_int8"]), str(files["swish_int8"]), "--target", "all", "--min-seconds", "0",
              "--runs", "40", "--rounds", "4", "--json", "--out", str(tmp_path / "res"), "--gate", "median_ms < 1000 @ adb"])
    text = capsys.readouterr()
    facts = json.loads(text.out)
    keys = {"file", "target", "threads", "median_ms", "p90_ms", "p99_ms", "partitions"}
    assert len(facts["rows"]) == 6 and all(keys <= set(row) for row in facts["rows"])
    assert len(facts["records"]) == 6 and len({record["target"] for record in facts["records"]}) == 3
    # The phone that cannot be used is named, and the others are measured all the same.
    assert int(stopped.value.code or 0) == 1 and f"{shy.serial}: has not allowed this computer" in text.err
    schema = json.loads(resources.files("mnv3_tf.export.benchmark").joinpath("schema.json").read_text())
    assert set(schema["required"]) == set(REQUIRED)
    written = [json.loads(line) for line in (tmp_path / "res" / "results.jsonl").read_text().splitlines()]
    assert len(written) == 6
    for row in written:
        jsonschema.validate(row, schema)
    assert one.settled() and two.settled()
    assert all((tmp_path / "res" / record["raw_log"]).exists() for record in facts["records"] if record["target"] != "host")


def test_a_delegate_that_only_phones_have(phone: Phone, files: dict[str, Path], tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    """`--target all`: the host's row says why it has no numbers, and the phone is measured all the same."""
    sim = phone()
    (tmp_path / "bm").write_bytes(b"\x7fELF" + bytes(14) + (62).to_bytes(2, "little"))
    answer(sim, tmp_path, "INFO: Created TensorFlow Lite delegate for GPU.\nExplicitly applied GPU delegate, and the model graph "
           "will be completely executed by the delegate.\n" + RESULT.partition("\n")[2], 0)
    words = ["benchmark", str(files["plain_int8"]), "--delegate", "gpu", "--runner", "benchmark_model", "--benchmark-binary",
             str(tmp_path / "bm"), "--rounds", "2", "--min-seconds", "0", "--runs", "5", "--out", str(tmp_path / "res")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--target", "all", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert not ended.value.code and facts["problems"] == []
    host, other = facts["records"]
    assert (host["target"], host["median_ms"]) == ("host", None) and "--delegate gpu is for devices" in host["failure"]
    assert other["delegate"] == "gpu" and other["failure"] is None and other["median_ms"] == pytest.approx(4.1)
    schema = json.loads(resources.files("mnv3_tf.export.benchmark").joinpath("schema.json").read_text())
    for row in facts["records"]:
        jsonschema.validate(row, schema)
    with pytest.raises(SystemExit) as ended:
        main([*words, "--target", "host"])
    assert ended.value.code == 2 and "--delegate gpu is for devices" in capsys.readouterr().err


# What the phone is in the middle of when the signal comes: a pattern of the command or copy that it does not finish.
MOMENTS = {"asking who it is": "getprop", "making the folder": r"\bmkdir\b", "copying": r"libLiteRt\.so$", "measuring": "",
           "asking for its state": "MNV3-SECTION", "cleaning up": "pkill"}


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "number"), [
    *zip(MOMENTS, 2 * (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), strict=True),
    ("measuring", signal.SIGINT), ("measuring", signal.SIGTERM)])
def test_stopped_in_the_middle_nothing_is_left(moment: str, number: int, phone: Phone, files: dict[str, Path],
                                               tmp_path: Path) -> None:
    """Nothing is left on the phone, and nothing is half-written here."""
    sim = phone()
    results = tmp_path / "res" / "results.jsonl"
    results.parent.mkdir()
    results.write_text("{}\n")
    if moment != "measuring":
        sim.set_faults(hold=MOMENTS[moment])
    seconds = "1000" if moment == "measuring" else "0"
    child = subprocess.Popen(command("benchmark", files["plain_int8"], "--target", f"adb:{sim.serial}", "--runs", "1",
                                     "--min-seconds", seconds, "--out", results.parent),
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    assert wait(lambda: sim.holds() or child.poll() is not None or (moment == "measuring" and sim.running()))
    assert child.poll() is None, child.communicate()
    child.send_signal(number)
    sim.release()
    said, _ = child.communicate(timeout=PATIENCE)
    assert sim.settled(), (sim.left(), sim.running(), said)
    assert child.returncode == 130 and results.read_text() == "{}\n", said
