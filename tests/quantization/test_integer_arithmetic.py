"""Each rule of rounding against the runtime's kernel: single operations with random scales, bit by bit."""

from collections.abc import Callable, Sequence

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from mnv3_tf.quantization.integer_arithmetic import KERNELS, Arithmetic, QuantParams
from mnv3_tf.tflite.runtime import LiteRTModel, captured_stderr

BOTH = pytest.mark.parametrize("kernels", ["xnnpack", "reference"])
LEVELS = np.arange(-128, 128)


def tensor(model: schema.ModelT, shape: Sequence[int], kind: int, scales: Sequence[float] = (), zero_point: int = 0,
           data: np.ndarray | None = None, axis: int = 0) -> int:
    """Adds a tensor; returns its number."""
    made, buffer = schema.TensorT(), schema.BufferT()
    made.shape, made.type, made.name = list(shape), kind, f"t{len(model.subgraphs[0].tensors)}"
    if len(scales):
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = np.asarray(scales, np.float32)
        made.quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
        made.quantization.quantizedDimension = axis
    if data is not None:
        buffer.data = np.frombuffer(data.tobytes(), np.uint8)
    model.buffers.append(buffer)
    made.buffer = len(model.buffers) - 1
    model.subgraphs[0].tensors.append(made)
    return len(model.subgraphs[0].tensors) - 1


def empty() -> schema.ModelT:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    graph.tensors, graph.operators = [], []
    return model


def finish(model: schema.ModelT, code: int, options: object, kind: int, taken: Sequence[int], given: Sequence[int],
           made: int) -> bytes:
    """A file with one operator; `given` are the file's inputs, among what the operator takes."""
    operator, operator_code = schema.OperatorT(), schema.OperatorCodeT()
    operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
    operator_code.version = 3
    operator.inputs, operator.outputs, operator.builtinOptions, operator.builtinOptionsType = list(taken), [made], options, kind
    model.operatorCodes, model.subgraphs[0].operators = [operator_code], [operator]
    model.subgraphs[0].inputs, model.subgraphs[0].outputs = list(given), [made]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def run(content: bytes, kernels: str, *inputs: np.ndarray) -> np.ndarray:
    """The levels that the runtime makes of these, as integers."""
    if kernels == "xnnpack":
        assert LiteRTModel(content).partitions == 1
    resolver = OpResolverType.AUTO if kernels == "xnnpack" else OpResolverType.BUILTIN_REF
    with captured_stderr():
        interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
    for entry, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(entry["index"], value.astype(np.int8).reshape(entry["shape"]))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).astype(int)


def random_quant_params(rng: np.random.Generator, low: float, high: float) -> QuantParams:
    return QuantParams(float(np.exp(rng.uniform(np.log(low), np.log(high)))), int(rng.integers(-128, 128)))


def levels(values: object, output: QuantParams) -> np.ndarray:
    """Centred values as the levels of a tensor."""
    return np.clip(np.asarray(values), *output.ends).astype(int) + output.zero_point


def centred(values: np.ndarray, params: QuantParams) -> np.ndarray:
    return (values - params.zero_point).astype(np.float32)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Every pair of levels."""
    one, other = np.meshgrid(LEVELS, LEVELS)
    return one.reshape(1, 256, 256, 1), other.reshape(1, 256, 256, 1)


def of_two(code: int, options: object, kind: int, one: QuantParams, other: QuantParams, output: QuantParams) -> bytes:
    model = empty()
    taken = [tensor(model, (1, 256, 256, 1), schema.TensorType.INT8, [params.scale], params.zero_point)
             for params in (one, other)]
    made = tensor(model, (1, 256, 256, 1), schema.TensorType.INT8, [output.scale], output.zero_point)
    return finish(model, code, options, kind, taken, taken, made)


def compare_pairs(kernels: str, seed: int, outputs: tuple[float, float],
                  make: Callable[[QuantParams, QuantParams, QuantParams], bytes],
                  compute: Callable[[Arithmetic, QuantParams, QuantParams, QuantParams, np.ndarray, np.ndarray], object]) -> None:
    rng = np.random.default_rng(seed)
    first, second = pairs()
    for _ in range(200):
        one, other = random_quant_params(rng, 0.01, 1.0), random_quant_params(rng, 0.01, 1.0)
        output = random_quant_params(rng, *outputs)
        found = run(make(one, other, output), kernels, first, second)
        expected = levels(compute(KERNELS[kernels], one, other, output, centred(first, one), centred(second, other)), output)
        np.testing.assert_array_equal(found, expected, err_msg=f"{one} {other} {output}")


@pytest.mark.slow
@BOTH
def test_products_of_all_levels(kernels: str) -> None:
    def make(one: QuantParams, other: QuantParams, output: QuantParams) -> bytes:
        return of_two(schema.BuiltinOperator.MUL, schema.MulOptionsT(), schema.BuiltinOptions.MulOptions, one, other, output)

    def compute(rules: Arithmetic, one: QuantParams, other: QuantParams, output: QuantParams, first: np.ndarray,
                second: np.ndarray) -> object:
        return rules.rescale(first * second, rules.multiplying(one, other, output))

    compare_pairs(kernels, 1, (0.005, 1.0), make, compute)


@pytest.mark.slow
@BOTH
def test_sums_of_all_levels(kernels: str) -> None:
    def make(one: QuantParams, other: QuantParams, output: QuantParams) -> bytes:
        return of_two(schema.BuiltinOperator.ADD, schema.AddOptionsT(), schema.BuiltinOptions.AddOptions, one, other, output)

    def compute(rules: Arithmetic, one: QuantParams, other: QuantParams, output: QuantParams, first: np.ndarray,
                second: np.ndarray) -> object:
        return rules.add(first, second, rules.adding(one, other, output))

    compare_pairs(kernels, 2, (0.02, 2.0), make, compute)


@pytest.mark.slow
@BOTH
def test_means_near_every_tie(kernels: str) -> None:
    rng = np.random.default_rng(3)
    compared = 0
    for _ in range(300):
        side = int(rng.choice([2, 3, 5, 7, 14, 20]))
        places = side * side
        source = random_quant_params(rng, 0.02, 5.0)
        output = QuantParams(source.step * float(np.exp(rng.uniform(-3, 0.7))), int(rng.integers(-128, 128)))
        ties = (np.arange(*output.ends) + 0.5) * output.step / source.step * places
        totals = np.unique([np.rint(ties) + d for d in (-1, 0, 1)]).astype(int)
        totals = totals[(totals >= places * source.ends[0]) & (totals <= places * source.ends[1])]
        if not len(totals):
            continue
        # Pictures of one channel for each total: the mean's whole part everywhere, and one more in some places.
        whole, more = np.divmod(totals, places)
        values = (whole + (np.arange(places)[:, None] < more)).reshape(1, side, side, -1) + source.zero_point
        model = empty()
        given = tensor(model, values.shape, schema.TensorType.INT8, [source.scale], source.zero_point)
        axes = tensor(model, (2,), schema.TensorType.INT32, data=np.array([1, 2], np.int32))
        made = tensor(model, (1, 1, 1, len(totals)), schema.TensorType.INT8, [output.scale], output.zero_point)
        options = schema.ReducerOptionsT()
        options.keepDims = True
        content = finish(model, schema.BuiltinOperator.MEAN, options, schema.BuiltinOptions.ReducerOptions, [given, axes],
                         [given], made)
        rules = KERNELS[kernels]
        expected = levels(rules.average(totals.astype(np.float32), rules.averaging(source, output, places)), output)
        np.testing.assert_array_equal(run(content, kernels, values).ravel(), expected, err_msg=f"{source} {output} {places}")
        compared += len(totals)
    assert compared > 100_000


@BOTH
@pytest.mark.parametrize("depthwise", [False, True])
def test_convolutions(kernels: str, depthwise: bool) -> None:
    rng = np.random.default_rng(4)
    channels = 48
    for _ in range(12):
        source, output = random_quant_params(rng, 0.01, 1.0), random_quant_params(rng, 0.01, 1.0)
        scales = np.exp(rng.uniform(np.log(1e-4), np.log(0.1), channels)).astype(np.float32)
        taken = channels if depthwise else 16
        kernel = rng.integers(-127, 128, (1, 1, 1, channels) if depthwise else (channels, 1, 1, taken)).astype(np.int8)
        bias = rng.integers(-20_000, 20_000, channels).astype(np.int32)
        values = rng.integers(-128, 128, (1, 40, 40, taken))
        model = empty()
        given = tensor(model, values.shape, schema.TensorType.INT8, [source.scale], source.zero_point)
        weights = tensor(model, kernel.shape, schema.TensorType.INT8, scales, data=kernel, axis=3 if depthwise else 0)
        added = tensor(model, (channels,), schema.TensorType.INT32, source.scale * scales, data=bias)
        made = tensor(model, (1, 40, 40, channels), schema.TensorType.INT8, [output.scale], output.zero_point)
        if depthwise:
            options, kind = schema.DepthwiseConv2DOptionsT(), schema.BuiltinOptions.DepthwiseConv2DOptions
            options.depthMultiplier, code = 1, schema.BuiltinOperator.DEPTHWISE_CONV_2D
        else:
            options, kind = schema.Conv2DOptionsT(), schema.BuiltinOptions.Conv2DOptions
            code = schema.BuiltinOperator.CONV_2D
        options.strideW = options.strideH = 1
        options.dilationWFactor = options.dilationHFactor = 1
        content = finish(model, code, options, kind, [given, weights, added], [given], made)
        inner = centred(values, source).astype(np.float64)
        sums = inner * kernel[0, 0, 0] if depthwise else inner @ kernel[:, 0, 0].T.astype(np.float64)
        rules = KERNELS[kernels]
        expected = levels(rules.rescale(sums + bias, rules.convolving(source, scales, output)), output)
        np.testing.assert_array_equal(run(content, kernels, values), expected)


def test_grids_by_hand() -> None:
    params = QuantParams.of_range(-1.0, 4.1)
    assert params.step == pytest.approx(0.02) and params.zero_point == -78 and params.ends == (-50.0, 205.0)
    assert QuantParams.of_range(0.0, 0.0).step > 0
    assert QuantParams.of_range(0.0, 6.0).zero_point == -128 and QuantParams.of_range(-3.0, 0.0).zero_point == 127


def test_sums_that_xnnpack_refuses_are_computed_all_the_same() -> None:
    """Inputs a million times finer than the output, and the reverse: 3 million steps are 3 of the output's."""
    fine, coarse = QuantParams(1e-6, 0), QuantParams(1.0, 0)
    rules = KERNELS["xnnpack"]
    one = np.array([100.0, -100.0], np.float32)
    np.testing.assert_array_equal(rules.add(one, one, rules.adding(fine, coarse, coarse)), one)
    np.testing.assert_array_equal(rules.add(one, one, rules.adding(fine, fine, QuantParams(2e-4, 0))), [1, -1])
    np.testing.assert_array_equal(rules.add(one, one, rules.adding(fine, fine, QuantParams(1e-2, 0))), [0, 0])
    assert np.asarray(rules.add(one, one, rules.adding(coarse, coarse, fine)))[0] > 127
