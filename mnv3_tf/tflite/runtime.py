"""Runs a .tflite file with LiteRT on this machine, and says where its operators really ran.

The input rule of this kit: every file takes RGB pixel values. A float32 input takes them as they are, 0..255; a uint8
input takes the pixel byte p; an int8 input takes p - 128. Files that follow another rule are run by
:meth:`LiteRTModel.predict_real` (the caller knows the real units) or :meth:`LiteRTModel.run_raw` (bytes in, bytes out).
"""

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnv3_tf.errors import InputError, KitError
from mnv3_tf.text import counted
from mnv3_tf.tflite.file import check_tflite_bytes, dequantize, read_tflite_bytes

DELEGATES = ("xnnpack", "none")
# What the kit's files call their input, or the layer that quantizes it (mnv3_tf.quantization.fake_quantized): in these, int8
# is a pixel's byte minus 128 and uint8 the byte, whatever the zero point.
PIXEL_INPUT = "rgb_pixels"
_PIXEL_NAMES = (PIXEL_INPUT, "quant_input_units")
NO_DELEGATE = "none (CPU kernels)"
_STDERR_LOCK = threading.Lock()


class LiteRTModel:
    """A loaded .tflite file.

    Args:
        source: a path, or the bytes of the file.
        threads: CPU threads of the runtime.
        delegate: "xnnpack", as the runtime does by default, or "none": the runtime's own CPU kernels.
        reference_kernels: the slow, plain kernels that define the results; implies no delegate. The runtime's checks
            there end the process instead of raising (met with an int8 SOFTMAX over 1,000 nearly equal scores), so run
            files of unknown origin this way in a process of their own.
        fix_batch: take a file whose batch size is open as batch 1, instead of refusing it.
        input_shapes: a shape for each input that leaves sizes open, in their order; none: such a file is refused.
        keep_tensors: every tensor keeps its value after a run, for :meth:`real_values`; needs `delegate` "none".

    Attributes:
        name: the path, or "model" for bytes.
        init_ms: time to create the interpreter and to plan its memory; reading the file is not in it.
        messages: what the runtime wrote on stderr while it loaded, its INFO lines left out.
        partitions: parts of the graph that the XNNPACK delegate runs (1 is best; 0: the delegate took nothing).
        undelegated_operators: names of the operators that run outside of the delegate, in order of execution.
        delegate: what really ran: "xnnpack" or "none (CPU kernels)".
        input_dtype, output_dtype: of the first input and output, such as "int8".
        input_shape, output_shape: of the same; (1, h, w, 3) for the input of an image classifier.
        input_quantization, output_quantization: (scale, zero point) of the same; (0.0, 0) where it is not quantized.

    Raises:
        InputError: not a TFLite file, an open input size, or an unknown option.
        KitError: the runtime cannot load or prepare it; the message carries the runtime's reason.
    """

    def __init__(self, source: str | Path | bytes, *, threads: int = 1, delegate: str = "xnnpack",
                 reference_kernels: bool = False, fix_batch: bool = False, keep_tensors: bool = False,
                 input_shapes: Sequence[tuple[int, ...]] = ()) -> None:
        if delegate not in DELEGATES:
            raise InputError(f"delegate {delegate!r} is unknown: choose one of {', '.join(DELEGATES)}.")
        if threads < 1:
            raise InputError(f"threads is {threads}, and must be 1 or more.")
        self.name = "model" if isinstance(source, bytes) else str(source)
        content = source if isinstance(source, bytes) else read_tflite_bytes(source)
        check_tflite_bytes(self.name, content)
        self.threads = threads
        wanted = "none" if reference_kernels else delegate
        self.fix_batch, self.given_shapes = fix_batch, tuple(input_shapes)
        self._load(content, wanted, reference_kernels, keep_tensors)
        self._details: dict[int, dict[str, Any]] | None = None
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.input_dtype, self.input_shape, self.input_quantization = _facts(self._inputs)
        self.output_dtype, self.output_shape, self.output_quantization = _facts(self._outputs)
        self.dynamic_batch = any(_open_sizes(entry) for entry in self._inputs)
        self.partitions, outside = executed(self._interpreter)
        self.undelegated_operators = tuple(name for _, name in outside)
        self.delegate = "xnnpack" if self.partitions else NO_DELEGATE

    def _load(self, content: bytes, delegate: str, reference_kernels: bool, keep_tensors: bool) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = OpResolverType.AUTO
        if reference_kernels:
            resolver = OpResolverType.BUILTIN_REF
        elif delegate == "none":
            resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        with captured_stderr() as lines:
            started = time.perf_counter_ns()
            try:
                self._interpreter = Interpreter(model_content=content, num_threads=self.threads,
                                                experimental_op_resolver_type=resolver,
                                                experimental_preserve_all_tensors=keep_tensors)
                self._set_open_sizes()
                self._interpreter.allocate_tensors()
            except (RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                hint = " Does it load without the delegate (--delegate none)?" if delegate == "xnnpack" else ""
                raise KitError(f"{self.name}: LiteRT cannot load it: {reason.rstrip('.')}.{hint}") from error
            self.init_ms = (time.perf_counter_ns() - started) / 1e6
        self.messages = tuple(lines)

    def _set_open_sizes(self) -> None:
        """Gives open inputs their shapes, or refuses them. It comes before memory is planned: at the stored sizes, all 1, a
        filter of 512 samples has no place."""
        inputs = [entry for entry in self._interpreter.get_input_details() if _open_sizes(entry)]
        if self.given_shapes and len(self.given_shapes) != len(inputs):
            raise InputError(f"{self.name}: {counted(len(self.given_shapes), 'input shape')} given, and "
                             f"{counted(len(inputs), 'input')} with open sizes. Give one for each of these, and for no other.")
        for number, entry in enumerate(inputs):
            wanted = [int(size) for size in entry["shape_signature"]]
            about = f"{self.name}: the input {entry['name']!r} has an open size (shape {wanted})"
            if self.given_shapes:
                shape = self.given_shapes[number]
                if len(shape) != len(wanted) or any(size not in (-1, given) for size, given in zip(wanted, shape, strict=True)):
                    raise InputError(f"{about}, which {'x'.join(map(str, shape))} does not fit. Give as many numbers, and "
                                     "other ones only for -1.")
                self._interpreter.resize_tensor_input(int(entry["index"]), shape, strict=True)
            elif not self.fix_batch or _open_sizes(entry) != [0]:
                way = "Give it one with --input-shape, or convert it with fixed sizes and batch 1" if self.fix_batch else \
                    ("Convert it with fixed sizes and batch 1, for example from a model with "
                     "keras.Input(batch_shape=(1, 224, 224, 3))")
                raise InputError(f"{about}, which delegates refuse. {way}.")

    @property
    def takes_pixels(self) -> bool:
        """Whether :meth:`predict` applies: the input's quantization is the kit's.

        A float input always counts. A quantized one counts when it has the name of the kit's, or when a pixel's byte stands
        for the pixel itself (scale 1), or for a value centred on 128, under the rule int8 = byte - 128.
        """
        if self.input_dtype == "float32":
            return True
        scale, zero_point = self.input_quantization
        if self.input_dtype not in ("int8", "uint8"):
            return False
        if any(name in self._inputs[0]["name"] for name in _PIXEL_NAMES):
            return True
        byte_zero = zero_point + (128 if self.input_dtype == "int8" else 0)
        return byte_zero == 128 or (byte_zero == 0 and abs(scale - 1.0) < 1e-5)

    # Running ----------------------------------------------------------------------------------------------------------

    def predict(self, pixels: Any) -> Any:
        """Scores of pictures given as pixel values.

        Args:
            pixels: (n, h, w, 3) RGB, uint8, or float32 with values 0..255 (rounded for a file with an integer input).

        Returns:
            float32 (n, classes): the file's output, dequantized.

        Raises:
            InputError: wrong shape or dtype, values that are no pixel values, or a file with another input rule.
        """
        values = self._pictures(pixels)
        if not self.takes_pixels:
            scale, zero_point = self.input_quantization
            raise InputError(
                f"{self.name}: its {self.input_dtype} input has scale {scale:g} and zero point {zero_point}, which is "
                "not this kit's rule (int8 = pixel - 128, uint8 = pixel), so what a pixel becomes is not known here. "
                "Use predict_real() with values in the units that it was trained on, or run_raw() with its integers.")
        self._check_pixel_values(values)
        return self._scores(pixel_tensor(values, self.input_dtype))

    def predict_real(self, values: Any) -> Any:
        """Scores of inputs in the file's real units, quantized by its own scale and zero point: TFLite's own rule.

        Args:
            values: (n, h, w, 3), float; what the float model was trained on. For a keras.applications MobileNetV3 with
                its preprocessing inside, these are pixel values 0..255.

        Returns:
            float32 (n, classes), dequantized.
        """
        real = self._pictures(values).astype(np.float32)
        if self.input_dtype == "float32":
            return self._scores(real)
        scale, zero_point = self.input_quantization
        if scale == 0.0:
            raise InputError(f"{self.name}: its {self.input_dtype} input carries no scale. Use run_raw().")
        limits = np.iinfo(self.input_dtype)
        levels = np.clip(np.rint(real / np.float32(scale)) + zero_point, limits.min, limits.max)
        return self._scores(levels.astype(self.input_dtype))

    def run_raw(self, array: Any) -> Any:
        """One run with a tensor in the file's own dtype and shape: no scaling in, none out.

        Raises:
            InputError: another dtype or shape; the message says scale and zero point.
        """
        entry, array = self._inputs[0], np.asarray(array)
        if len(self._inputs) != 1:
            raise InputError(f"{self.name}: it has {len(self._inputs)} inputs, and run_raw takes one.")
        if array.dtype != entry["dtype"]:
            raise InputError(self._dtype_problem(str(array.dtype)))
        if array.shape != self.input_shape:
            raise InputError(f"{self.name}: data of shape {array.shape} was given, and the input is "
                             f"{self.input_shape}.")
        self._interpreter.set_tensor(entry["index"], np.ascontiguousarray(array))
        self.invoke()
        return self._interpreter.get_tensor(self._outputs[0]["index"])

    def fill_random(self, seed: int) -> None:
        """Fills every input with random numbers: the whole range of an integer type, 0..255 for a float one."""
        random = np.random.default_rng(seed)
        for entry in self._inputs:
            dtype, shape = np.dtype(entry["dtype"]), _shape(entry)
            if dtype.kind in "iu":
                limits = np.iinfo(dtype)
                data = random.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)
            else:
                data = (random.random(shape) * 255.0).astype(dtype)
            if dtype.kind not in "iufcb":
                raise InputError(f"{self.name}: the input {entry['name']!r} takes {dtype}, which no random numbers stand for.")
            self._interpreter.set_tensor(entry["index"], data)

    def real_values(self, index: int) -> Any:
        """A tensor after a run, dequantized: float32. The model was loaded with `keep_tensors`.

        Args:
            index: the tensor's number in the file.
        """
        raw = self._interpreter.get_tensor(index)
        if self._details is None:
            self._details = {int(entry["index"]): entry for entry in self._interpreter.get_tensor_details()}
        return dequantize(raw, *_quantization(self._details[index])).astype(np.float32)

    def invoke(self) -> None:
        """Runs the graph on what the inputs hold.

        Raises:
            KitError: the runtime failed.
        """
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise KitError(f"{self.name}: LiteRT failed to run it: {' '.join(str(error).split())}.") from error

    def _scores(self, data: Any) -> Any:
        if len(self._outputs) != 1:
            raise InputError(f"{self.name}: it has {len(self._outputs)} outputs, and an image classifier has one.")
        raw = [self.run_raw(picture[None]).reshape(1, -1) for picture in data]
        classes = int(np.prod(self.output_shape))
        result = np.concatenate(raw) if raw else np.zeros((0, classes), self.output_dtype)
        return dequantize(result, *self.output_quantization).astype(np.float32)

    def _pictures(self, values: Any) -> Any:
        array = np.asarray(values)
        if self.input_shape[:1] != (1,):
            raise InputError(f"{self.name}: its input is {self.input_shape}. Convert it with batch 1.")
        if array.shape[1:] != self.input_shape[1:]:
            raise InputError(f"{self.name}: pictures of shape {array.shape} were given, and (n, "
                             f"{', '.join(map(str, self.input_shape[1:]))}) is expected. Resize them as in training.")
        if array.dtype.kind not in "uif":
            raise InputError(f"{self.name}: {array.dtype} data was given. Give uint8 or float32.")
        return array

    def _check_pixel_values(self, values: Any) -> None:
        """Refuses values that cannot be pixels, so that preprocessing done twice is noticed."""
        if values.dtype == np.uint8 or not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (low >= 0.0 and high <= 255.0):
            raise InputError(f"{self.name}: values from {low:g} to {high:g} were given, and pixel values are 0..255. "
                             "The preprocessing is inside the file: give the picture as it is.")
        if values.dtype.kind == "f" and high <= 1.0 and bool((values % 1.0 != 0.0).any()):
            raise InputError(f"{self.name}: values from {low:g} to {high:g} look like pixels scaled to 0..1, and pixel "
                             "values are 0..255. The preprocessing is inside the file: give the picture as it is.")

    def _dtype_problem(self, given: str) -> str:
        scale, zero_point = self.input_quantization
        if scale == 0.0:
            return f"{self.name}: {given} data was given, and the input is {self.input_dtype}. Cast it."
        return (f"{self.name}: {given} data was given to an {self.input_dtype} input with scale {scale:g} and zero "
                f"point {zero_point}. Quantize it once, as round(real / {scale:g}) + {zero_point}, clipped to "
                f"{self.input_dtype}, or let predict() take pixel values 0..255.")


def pixel_tensor(pixels: np.ndarray, dtype: str) -> np.ndarray:
    """Pixel values as the input of the kit's files takes them: whole numbers for uint8, minus 128 for int8."""
    if dtype == "float32":
        return pixels.astype(np.float32)
    return (np.rint(pixels).astype(np.int16) - (128 if dtype == "int8" else 0)).astype(dtype)


def _facts(entries: list[dict[str, Any]]) -> tuple[str, tuple[int, ...], tuple[float, int]]:
    """Dtype, shape, and scale and zero point, of the first input or output; a file may have none."""
    first: dict[str, Any] = entries[0] if entries else {"dtype": np.void, "shape": (), "quantization": (0.0, 0)}
    return str(np.dtype(first["dtype"])), _shape(first), _quantization(first)


def _shape(entry: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in entry["shape"])


def _quantization(entry: dict[str, Any]) -> tuple[float, int]:
    scale, zero_point = entry["quantization"]
    return float(scale), int(zero_point)


def _open_sizes(entry: dict[str, Any]) -> list[int]:
    """The axes of an input whose size the file leaves open."""
    return [axis for axis, size in enumerate(entry["shape_signature"]) if size < 0]


def executed(interpreter: Any) -> tuple[int, tuple[tuple[int, str], ...]]:
    """Delegate partitions, and (number in the file, name) of the operators outside of them.

    The runtime lists every node: those of the file, replaced or not, and after them one DELEGATE for each partition.
    What runs is found backwards from the graph's outputs; a tensor that a partition writes was made by that partition.
    """
    nodes = interpreter._get_ops_details()  # the runtime has no public call for this
    maker: dict[int, dict[str, Any]] = {}
    for node in nodes:
        for tensor in map(int, node["outputs"]):
            if tensor not in maker or node["op_name"] == "DELEGATE":
                maker[tensor] = node
    waiting = [int(entry["index"]) for entry in interpreter.get_output_details()]
    running: dict[int, str] = {}
    while waiting:
        found = maker.get(waiting.pop())
        if found is not None and found["index"] not in running:
            running[found["index"]] = found["op_name"]
            waiting.extend(int(tensor) for tensor in found["inputs"] if tensor >= 0)
    partitions = sum(name == "DELEGATE" for name in running.values())
    return partitions, tuple((index, name) for index, name in sorted(running.items()) if name != "DELEGATE")


@contextlib.contextmanager
def captured_stderr(is_noise: Callable[[str], bool] = lambda line: line.startswith("INFO: ")) -> Iterator[list[str]]:
    """Keeps what native code writes on stderr inside the block; every line that is not noise is then passed on.

    Noise is by default the runtime's INFO lines.

    Yields a list that holds those other lines after the block.
    """
    lines: list[str] = []
    with _STDERR_LOCK, tempfile.TemporaryFile() as store:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()
        try:
            saved = os.dup(2)
        except OSError:  # there is no stderr
            yield lines
            return
        os.dup2(store.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            store.seek(0)
            text = store.read().decode("utf-8", errors="replace")
            lines += [line for line in text.splitlines() if line.strip() and not is_noise(line)]
            if lines:
                os.write(2, ("\n".join(lines) + "\n").encode())

