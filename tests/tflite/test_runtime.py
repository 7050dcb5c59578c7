"""Running .tflite files: the input rule, raw tensors, partitions, and files that do not load."""

import flatbuffers
import numpy as np
import pytest

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.tflite.runtime import NO_DELEGATE, LiteRTModel

PICTURES = np.uint8([[[[0, 0, 0], [255, 255, 255]], [[255, 0, 0], [0, 0, 255]]],
                     [[[10, 20, 30], [200, 100, 50]], [[1, 2, 3], [128, 128, 128]]]])


def by_hand(pixels):
    """(r + 2g + b) / 4 and (r - b) / 2 + 10 for every pixel."""
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    return np.stack([(red + 2 * green + blue) / 4, (red - blue) / 2 + 10], axis=-1).reshape(len(pixels), -1)


def test_by_hand_itself():
    assert by_hand(PICTURES)[0].tolist() == [0, 10, 255, 10, 63.75, 137.5, 63.75, -117.5]


def test_predict_float_file(files):
    model = LiteRTModel(files["pixel_float32"])
    assert (model.input_dtype, model.input_shape, model.input_quantization) == ("float32", (1, 2, 2, 3), (0.0, 0))
    scores = model.predict(PICTURES)
    assert (scores.dtype, scores.shape) == (np.float32, (2, 8))
    np.testing.assert_allclose(scores, by_hand(PICTURES), atol=1e-3)
    np.testing.assert_allclose(model.predict(PICTURES.astype(np.float32)), scores)


@pytest.mark.parametrize("name", ["pixel_int8", "pixel_uint8"])
def test_predict_quantized_file(files, name):
    model = LiteRTModel(files[name])
    assert model.input_dtype == model.output_dtype == name.removeprefix("pixel_")
    assert model.takes_pixels
    step = model.output_quantization[0]
    scores = model.predict(PICTURES)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, by_hand(PICTURES), atol=1.5 * step)
    np.testing.assert_array_equal(model.predict(PICTURES.astype(np.float32)), scores)
    np.testing.assert_array_equal(model.predict_real(PICTURES.astype(np.float32)), scores)


@pytest.mark.parametrize("name", ["pixel_int8", "pixel_uint8"])
def test_predict_hands_in_the_bytes(files, name):
    model = LiteRTModel(files[name])
    levels = PICTURES[1:] if name == "pixel_uint8" else (PICTURES[1:].astype(np.int16) - 128).astype(np.int8)
    raw = model.run_raw(levels)
    assert raw.dtype == levels.dtype
    scale, zero_point = model.output_quantization
    np.testing.assert_allclose(model.predict(PICTURES[1:]), (raw.astype(np.float32) - zero_point) * np.float32(scale))


def test_foreign_input_quantization_is_not_guessed(files):
    model = LiteRTModel(files["foreign_int8"])
    assert not model.takes_pixels
    assert model.input_quantization[1] == -1
    with pytest.raises(InputError, match=r"zero point -1.*predict_real"):
        model.predict(PICTURES)
    real = PICTURES.astype(np.float32) / 127.5 - 1.0
    np.testing.assert_allclose(model.predict_real(real), by_hand(real), atol=0.03)


def test_float_data_handed_to_an_int8_file(files):
    model = LiteRTModel(files["pixel_int8"])
    text = r"float32 data .* int8 input with scale 1 and zero point -128.*Quantize it once"
    with pytest.raises(InputError, match=text):
        model.run_raw(PICTURES[:1].astype(np.float32))
    with pytest.raises(InputError, match="uint8 data"):
        model.run_raw(PICTURES[:1])
    with pytest.raises(InputError, match=r"shape \(2, 2, 2, 3\)"):
        model.run_raw(PICTURES.astype(np.int8))


def test_values_that_are_no_pixels(files):
    model = LiteRTModel(files["pixel_int8"])
    real = PICTURES.astype(np.float32)
    for wrong, text in ((real / 127.5 - 1, "pixel values are 0"), (real * 2, "to 510"), (real / 255, "scaled to 0"),
                        (np.full_like(real, np.nan), "nan")):
        with pytest.raises(InputError, match=text):
            model.predict(wrong)
    model.predict(np.zeros_like(real))
    model.predict(np.ones_like(real))  # a nearly black picture is a picture


def test_wrong_picture_shape_and_dtype(files):
    model = LiteRTModel(files["pixel_int8"])
    with pytest.raises(InputError, match=r"\(n, 2, 2, 3\) is expected"):
        model.predict(np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"<U1|str"):
        model.predict(np.full((1, 2, 2, 3), "a"))
    assert model.predict(np.zeros((0, 2, 2, 3), np.uint8)).shape == (0, 8)


def test_plain_network_is_one_partition(files):
    for name in ("plain_int8", "plain_float32"):
        model = LiteRTModel(files[name])
        assert (model.partitions, model.undelegated_operators, model.delegate) == (1, (), "xnnpack"), name


def test_int8_hard_swish_cuts_the_graph(files):
    model = LiteRTModel(files["swish_int8"])
    assert model.partitions == 3
    assert model.undelegated_operators == ("HARD_SWISH", "HARD_SWISH")


@pytest.mark.parametrize("options", [{"delegate": "none"}, {"reference_kernels": True}])
def test_without_delegate(files, options):
    model = LiteRTModel(files["swish_int8"], **options)
    assert (model.partitions, model.delegate) == (0, NO_DELEGATE)
    assert model.undelegated_operators.count("CONV_2D") == 3
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    default = LiteRTModel(files["swish_int8"])
    step = default.output_quantization[0]
    np.testing.assert_allclose(model.predict(pixels), default.predict(pixels), atol=3 * step)


def test_open_batch_is_refused_unless_asked(files):
    with pytest.raises(InputError, match=r"\[-1, 2, 2, 3\].*batch 1"):
        LiteRTModel(files["open_batch"])
    model = LiteRTModel(files["open_batch"], fix_batch=True)
    assert model.dynamic_batch
    np.testing.assert_allclose(model.predict(PICTURES), by_hand(PICTURES), atol=1e-3)


def test_bytes_and_path_give_the_same(files):
    content = files["pixel_int8"].read_bytes()
    np.testing.assert_array_equal(LiteRTModel(content).predict(PICTURES),
                                  LiteRTModel(str(files["pixel_int8"])).predict(PICTURES))


def test_the_runtime_does_not_chatter(files, capfd):
    model = LiteRTModel(files["pixel_float32"])
    model.predict(PICTURES)
    assert capfd.readouterr() == ("", "")
    assert model.messages == ()


def with_custom_operator(content, name):
    """The file with its first convolution made a custom operator."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = name
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_unresolved_custom_operator(files, tmp_path):
    from mnv3_tf.tflite.file import read_tflite

    path = tmp_path / "flex.tflite"
    path.write_bytes(with_custom_operator(files["pixel_float32"].read_bytes(), "FlexErf"))
    operator = read_tflite(path).operators[0]
    assert (operator.name, operator.is_custom, operator.is_flex) == ("FlexErf", True, True)
    with pytest.raises(KitError, match=r"flex\.tflite: LiteRT cannot load it: .*FlexErf") as caught:
        LiteRTModel(path)
    assert "\n" not in str(caught.value)


def test_corrupt_bytes_and_wrong_options(files):
    content = files["plain_int8"].read_bytes()
    with pytest.raises(KitError, match="model: LiteRT cannot load it"):
        LiteRTModel(content[:len(content) // 2])
    with pytest.raises(InputError, match="TFL3"):
        LiteRTModel(b"something else entirely")
    with pytest.raises(InputError, match="delegate 'gpu'"):
        LiteRTModel(content, delegate="gpu")
    with pytest.raises(InputError, match="threads is 0"):
        LiteRTModel(content, threads=0)
