"""What an app must know to use the model of a bundle: the content of its preprocessing.json, and reading it again."""

from pathlib import Path
from typing import Any

from mnv3_tf.data import Preprocessing
from mnv3_tf.errors import InputError
from mnv3_tf.files import plain, read_json
from mnv3_tf.tflite.runtime import LiteRTModel

FORMAT = "mnv3-bundle/1"
MODEL, LABELS, CONTRACT, CARD = "model.tflite", "labels.txt", "preprocessing.json", "model_card.md"
GOLDENS, GOLDEN_FOLDER, SUMS = "goldens.json", "goldens", "SHA256SUMS"

_INPUT_RULES = {
    "uint8": "The byte of each channel of each pixel, as it is: no mean, no scaling. The quantization is inside the file.",
    "int8": "The byte of each channel of each pixel minus 128, as a signed byte.",
    "float32": "The value 0..255 of each channel of each pixel as a float: no mean, no scaling. That is inside the file.",
}


def app_contract(contract: Preprocessing, model: LiteRTModel, classes: int, *, scores: bool) -> dict[str, Any]:
    """The content of a bundle's preprocessing.json.

    Args:
        contract: how pictures are prepared.
        model: the file of the bundle.
        classes: number of outputs.
        scores: whether the outputs are probabilities already.
    """
    in_scale, in_zero = model.input_quantization
    out_scale, out_zero = model.output_quantization
    dtype = model.output_dtype
    real = "value" if dtype == "float32" else f"(value - {out_zero}) * {out_scale!r}"
    if scores:
        rule = f"{real} is the probability of the class." if dtype != "float32" else "The value is the probability of the class."
    else:
        rule = (f"logit = {real}; the probability of class i is exp(logit[i] - m) / sum over j of exp(logit[j] - m), with m the "
                "largest logit.")
    return {
        "format": FORMAT, "preprocessing": plain(contract),
        "input": {"dtype": model.input_dtype, "shape": list(model.input_shape), "layout": "NHWC", "scale": in_scale,
                  "zero_point": in_zero, "rule": _INPUT_RULES[model.input_dtype]},
        "output": {"dtype": dtype, "shape": list(model.output_shape), "scale": out_scale, "zero_point": out_zero,
                   "classes": classes, "is_probability": scores, "rule": rule}}


def read_app_contract(path: Path) -> tuple[Preprocessing, dict[str, Any]]:
    """The preprocessing contract in a bundle's preprocessing.json, and the whole file.

    Raises:
        InputError: it is not such a file.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: is not the contract of a bundle (format {FORMAT!r} is expected). Make the bundle again.")
    try:
        return Preprocessing.from_dict(content.get("preprocessing") or {}), content
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
