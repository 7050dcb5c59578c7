"""Times of operators: which layer each belongs to, and that no layer is named where that is not certain."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from device_lab.phone import SimulatedPhone
from device_lab.waiting import PATIENCE

from mnv3_tf.cli.main import main
from mnv3_tf.export.benchmark.devices.bench import benchmark_device, open_target
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
from mnv3_tf.export.benchmark.runners.kit_runner import RunnerResult, parse_runner_output, runner_arguments
from mnv3_tf.export.benchmark.runners.operators import Event, Profile, block_of, layer_of, name_operators, sum_by_block
from mnv3_tf.export.benchmark.runners.runner_build import build_runner
from mnv3_tf.progress import Silent
from mnv3_tf.tflite.file import OperatorInfo, TensorInfo, TfliteFile, read_tflite

CONV, DEPTHWISE = "Convolution (NHWC, QC8) IGEMM", "Convolution (NHWC, QC8) DWConv"
DENSE, TABLE = "Fully Connected (NC, QS8, QC8W) GEMM", "Invalid Unary Op"


@pytest.mark.parametrize(("tensor", "layer", "block"), [
    ("model/quant_block_07_depthwise/Relu;model/quant_block_07_depthwise/BiasAdd", "block_07/depthwise", "block_07"),
    ("model/quant_block_01_se_expand_hard_sigmoid/Relu6;x", "block_01/se_expand_hard_sigmoid", "block_01"),
    ("model/stem_conv/BiasAdd;model/stem_conv/Conv2D", "stem/conv", "stem"),
    ("model/quant_classifier/BiasAdd", "classifier", "classifier"), ("model/quant_logits/Reshape", "logits", "logits"),
    ("Net_1/re_lu_2_1/Relu;Net_1/expanded_conv_1_expand_bn_1/add_1", "expanded_conv_1/expand_bn_1", "expanded_conv_1"),
    ("Net_1/activation_3/mul;;Net_1/activation_3/Relu6", "activation_3", "other"), ("mul", "mul", "other"),
    ("model/my_block_01_conv/Conv2D", "my_block_01_conv", "other"), ("", "", "other")])
def test_the_layer_that_made_a_tensor(tensor: str, layer: str, block: str) -> None:
    assert layer_of(tensor) == layer and block_of(layer) == block


def network(*lines: str) -> TfliteFile:
    """A file of operators, each as "OPERATOR result < inputs"; inputs that begin with c are constants."""
    names = list(dict.fromkeys(word for line in lines for word in line.replace("<", " ").split()[1:]))
    tensors = tuple(TensorInfo(index, name, (1,), (1,), "int8", (), (), 0, 4 if name.startswith("c") else 0, 0,
                               name.startswith("c")) for index, name in enumerate(names))
    operators = []
    for index, line in enumerate(lines):
        head, _, given = line.partition("<")
        kind, *results = head.split()
        operators.append(OperatorInfo(index, kind, 1, tuple(map(names.index, given.split())), tuple(map(names.index, results)),
                                      "NONE", False, False))
    return TfliteFile("m", 1, "", tensors[:1], tensors[-1:], tensors, tuple(operators))


# hard-swish as x * relu6(x + 3), then a squeeze gate's multiplication, and a residual addition.
SWISH = network("CONV_2D stem_conv < x cw", "ADD stem_gate < stem_conv c3", "MUL stem_swish < stem_conv stem_gate",
                "DEPTHWISE_CONV_2D block_01_depthwise < stem_swish cd", "MUL block_01_se_multiply < block_01_depthwise gate",
                "CONV_2D block_01_project < block_01_se_multiply cp", "ADD block_01_add < block_01_project stem_swish")


def events(*names: str) -> list[Event]:
    return [Event(name, float(number)) for number, name in enumerate(names, 1)]


def test_two_operators_that_ran_as_one() -> None:
    ops, problem = name_operators(events(CONV, TABLE, DEPTHWISE, "Multiply (ND)", DENSE, "Add (ND)"), SWISH)
    assert problem == ""
    assert [(op.name, op.kind) for op in ops] == [
        ("stem/conv", "CONV_2D"), ("stem/swish", "ADD+MUL"), ("block_01/depthwise", "DEPTHWISE_CONV_2D"),
        ("block_01/se_multiply", "MUL"), ("block_01/project", "CONV_2D"), ("block_01/add", "ADD")]
    assert ops[1].kernel == TABLE and ops[1].mean_ms == 2.0 and ops[1].share == pytest.approx(2 / 21)
    assert sum_by_block([{"name": op.name, "mean_ms": op.mean_ms} for op in ops]) == {"stem": 3.0, "block_01": 18.0}


@pytest.mark.parametrize(("names", "problem"), [
    # One operator less, one more, another kind, another order: no layer is named.
    ((CONV, TABLE, DEPTHWISE, "Multiply (ND)", DENSE), "the profile has 5 operators, and the file has more after them"),
    ((CONV, TABLE, DEPTHWISE, "Multiply (ND)", DENSE, "Add (ND)", CONV), "operator 7 of 7"),
    ((CONV, TABLE, DEPTHWISE, "Multiply (ND)", "Softmax (NC, F32)", "Add (ND)"), "CONV_2D of block_01/project there"),
    ((CONV, TABLE, "Multiply (ND)", DEPTHWISE, DENSE, "Add (ND)"), "operator 5 of 6"),
    ((CONV, TABLE, DEPTHWISE, TABLE, DENSE, "Add (ND)"), "operator 4 of 6 is 'Invalid Unary Op'"),
    (("Something New",), "the file has CONV_2D of stem/conv there"), ((), "the profile has 0 operators")])
def test_a_profile_that_does_not_fit_names_no_layer(names: tuple[str, ...], problem: str) -> None:
    ops, said = name_operators(events(*names), SWISH)
    assert problem in said and [op.name for op in ops] == list(names)


def test_two_ways_to_fit_are_none() -> None:
    file = network("RELU a < x", "RELU b < a", "RELU d < b")
    assert name_operators(events(TABLE, TABLE), file)[1] == "the profile fits the file in more than one way"
    assert name_operators(events(TABLE), file)[1] == "" == name_operators(events(TABLE, TABLE, TABLE), file)[1]


def test_kernels_outside_of_the_delegate_stand_where_they_say() -> None:
    file = network("CONV_2D stem_conv < x cw", "HARD_SWISH stem_swish < stem_conv", "CONV_2D head_conv < stem_swish cw")
    inside = events(CONV, "HARD_SWISH", DENSE)
    ops, problem = name_operators([inside[0], replace(inside[1], index=1), inside[2]], file)
    assert problem == ""
    assert [(op.name, op.kernel) for op in ops] == [("stem/conv", CONV), ("stem/swish", ""), ("head/conv", DENSE)]
    for wrong in (replace(inside[1], index=2), replace(inside[1], index=1, name="RELU")):
        assert "operator 2 of 3" in name_operators([inside[0], wrong, inside[2]], file)[1]


def test_what_takes_no_time_of_its_own() -> None:
    """Constants that are unpacked at the start, and int8 activations made for a convolution with float ones."""
    file = network("DEQUANTIZE w < cw", "CONV_2D a < x w", "DEQUANTIZE v < cv", "CONV_2D b < a v")
    ops, problem = name_operators(events("Convert (NC, F32, QD8)", CONV, CONV), file)
    assert problem == "" and [op.mean_ms for op in ops] == [3.0, 3.0] and [op.kind for op in ops] == ["CONV_2D", "CONV_2D"]


def test_sums_beyond_the_median_are_flagged() -> None:
    ops, _ = name_operators(events(CONV, TABLE, DEPTHWISE, "Multiply (ND)", DENSE, "Add (ND)"), SWISH)
    profile = Profile(ops, "so", 50, 20.0, 22.0)
    assert profile.flags(20.0) == [] and profile.to_fields(20.0)["profile"]["of_median"] == 1.05
    assert "1.50 times the median" in profile.flags(14.0)[0]
    assert "profile without layers: why" in replace(profile, problem="why").flags(None)[0]


PRINTED = ("kit_runner 2\ninit_us 10\nfully_delegated 1\nclock_ns 20.00\nprofiled_runs 50\ntotal_ns 1040 2040 3040\n"
           "operator inside 0 1020.0 Add (ND)\noperator kernel 7 10.0 HARD_SWISH\ndone\n")


def test_the_runners_lines() -> None:
    """The reading of the clock, once in each time, is taken out."""
    found = parse_runner_output(PRINTED)
    assert isinstance(found, RunnerResult) and found.profiled_runs == 50 and found.samples_ms == ()
    assert [(event.name, event.index) for event in found.operators] == [("Add (ND)", None), ("HARD_SWISH", 7)]
    assert [event.mean_ms for event in found.operators] == pytest.approx([0.001, 0.0])
    assert found.total_ms == pytest.approx([0.001, 0.002, 0.003])
    assert "cannot be read" in str(parse_runner_output(PRINTED.replace("inside 0 1020.0", "inside")))


# With the runner and the library themselves. -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """What the kit's runner prints on this machine."""
    import subprocess

    pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
    folder = tmp_path_factory.mktemp("runner")
    bundle = build_runner("x86_64", Silent())
    for name, file in bundle.files.items():
        shutil.copy(file, folder / name)
        (folder / name).chmod(0o755)

    def run(file: Path, **options: object) -> str:
        done = subprocess.run([*bundle.command(str(folder)), *runner_arguments(str(file), **options)],  # type: ignore[arg-type]
                              capture_output=True, text=True, timeout=PATIENCE)
        return done.stdout

    return run


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
@pytest.mark.parametrize("name", ["plain_int8", "plain_float32", "plain_float16", "plain_dynamic", "swish_int8", "pixel_uint8",
                                  "pixel_float_io"])
def test_every_kind_of_file_is_named(name: str, kernels: str, start: Callable[..., str], files: dict[str, Path]) -> None:
    found = parse_runner_output(start(files[name], measure="operators", kernels=kernels, runs=20, warmup=2))
    assert isinstance(found, RunnerResult), found
    ops, problem = name_operators(found.operators, file := read_tflite(files[name]))
    assert problem == ""
    ran = [kind for op in ops for kind in op.kind.split("+")]
    assert [kind for kind in ran if kind != "DEQUANTIZE"] == [op.name for op in file.operators if op.name != "DEQUANTIZE"]
    assert found.profiled_runs >= 20 and found.total_ms[0] <= found.total_ms[1] <= found.total_ms[2]
    # The means are over the runs between the quartiles.
    total = sum(event.mean_ms for event in found.operators)
    assert total > 0 and found.total_ms[0] - 1e-4 <= total <= found.total_ms[2] + 1e-4


def test_layers_of_our_network_and_what_they_add_up_to(start: Callable[..., str], small_file: Path) -> None:
    began = time.monotonic()
    found = parse_runner_output(start(small_file, measure="operators", runs=300))
    elapsed_ms = 1000 * (time.monotonic() - began)
    timed = parse_runner_output(start(small_file, runs=300))
    assert isinstance(found, RunnerResult) and isinstance(timed, RunnerResult)
    ops, problem = name_operators(found.operators, read_tflite(small_file))
    names = [op.name for op in ops]
    assert problem == "" and names[:3] == ["input_units", "stem/conv", "stem/conv_hard_swish"]
    assert {"block_01/depthwise", "block_04/expand_hard_swish", "block_04/se_reduce", "classifier"} <= set(names)
    assert {block_of(name) for name in names} >= {"stem", "block_01", "block_02", "block_03", "block_04", "head", "classifier"}
    # A wrong unit is outside of these, and a busy machine is not: other work makes times longer, and its quickest run is as ever.
    total = sum(op.mean_ms for op in ops)
    assert 0.05 * min(timed.samples_ms) < total < elapsed_ms / found.profiled_runs


def test_each_start_measures_one_thing(start: Callable[..., str], files: dict[str, Path]) -> None:
    printed = {what: {line.split()[0] for line in start(files["plain_int8"], measure=what, runs=3).splitlines()}
               for what in ("times", "memory", "operators")}
    kinds = {"us", "first_us", "peak_kb", "operator", "profiled_runs"}
    assert {what: found & kinds for what, found in printed.items()} == {
        "times": {"us", "first_us"}, "memory": {"peak_kb"}, "operators": {"operator", "profiled_runs"}}


def sections(log: str) -> dict[str, str]:
    """Heading -> text of a row's log."""
    return {head.partition("\n")[0]: head.partition("\n")[2] for head in log.split("#=== ")[1:]}


@pytest.mark.slow
def test_a_profile_over_a_real_adbd(real_phone: SimulatedPhone, small_file: Path) -> None:
    settings = BenchmarkSettings(runs=8, min_seconds=0, rounds=4, warmup=1, cool_down=0, profile=True)
    began = time.monotonic()
    result = benchmark_device(open_target(f"adb:{real_phone.serial}"), [small_file], settings, Silent())
    elapsed_ms = 1000 * (time.monotonic() - began)
    row, = result.rows
    assert row["failure"] is None and row["measured_apart"] == ["peak_memory_mb", "ops"] and row["peak_memory_mb"] > 1
    profile = row["profile"]
    assert profile["problem"] is None and profile["runs"] >= 50
    assert 0.05 * row["min_ms"] < profile["sum_ms"] < elapsed_ms / profile["runs"]
    assert profile["of_median"] == pytest.approx(profile["sum_ms"] / row["median_ms"])
    assert {"stem/conv", "block_01/depthwise", "classifier"} <= {op["name"] for op in row["ops"]}
    parts = sections(result.logs[0])
    assert list(parts) == [*(f"round {n}: timed" for n in range(1, 5)), "memory, not timed", "operators, not timed"]
    for head, text in parts.items():
        assert ("\nus " in text, "\npeak_kb " in text, "\noperator " in text) == (
            "round" in head, "memory" in head, "operators" in head)
    assert real_phone.left() == []


def test_the_host_offers_the_same(small_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ziglang", reason="no compiler for the kit's runner: pip install ziglang")
    words = ["benchmark", str(small_file), "--profile", "--min-seconds", "0", "--rounds", "4"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--json"])
    assert not ended.value.code
    record, = json.loads(capsys.readouterr().out)["records"]
    assert record["target"] == "host" and record["profile"]["problem"] is None
    assert "block_04/depthwise" in {op["name"] for op in record["ops"]}
    with pytest.raises(SystemExit):
        main(words)
    assert "of the median." in capsys.readouterr().out


def test_a_host_that_the_runner_is_not_for(small_file: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mnv3_tf.export.benchmark.devices.local.sys.platform", "darwin")
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", str(small_file), "--profile", "--min-seconds", "0.01", "--rounds", "1", "--runs", "1"])
    assert ended.value.code and "Profile on a device: --target adb" in capsys.readouterr().err
