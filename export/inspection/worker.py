"""Loads and runs a file with LiteRT in a process of its own, and says what really ran: a broken file may end that process."""

import re
import subprocess
from dataclasses import dataclass

from mnv3_tf.child import Child, ChildFailed
from mnv3_tf.tflite.delegate_rules import preparation_failure
from mnv3_tf.tflite.file import TfliteFile

_SECONDS = 120
OPEN_SIZES = "not run, because it has open sizes"


@dataclass(frozen=True)
class Run:
    """What the runtime does with a file.

    Attributes:
        refused: why it cannot run it, or "".
        partitions: parts of the main graph that XNNPACK runs; None where refused.
        outside: numbers of the main graph's operators that it leaves.
    """

    refused: str
    partitions: int | None
    outside: tuple[int, ...]


def run_apart(content: bytes, threads: int, file: TfliteFile) -> Run:
    """Lets a child load a file and run it once on zeros; `file` is its main graph.

    Whatever becomes of the child, the answer is a :class:`Run`: a crash, a signal or a run without end is its `refused`.
    """
    found = _apart(content, threads, True)
    if not found.refused:
        return found
    is_open = [tensor for tensor in file.inputs if any(size < 0 for size in tensor.shape_signature)]
    if is_open and not re.search(r"custom op|TensorFlow op\(s\)", found.refused):
        shape = " x ".join(map(str, is_open[0].shape_signature))
        return Run(f"{OPEN_SIZES}: the input {is_open[0].name!r} ({shape}) is stored as 1 where it is open, which does not run. "
                   "mnv3 benchmark --input-shape gives it a size", None, ())
    hint = "" if _apart(content, threads, False).refused else " (without XNNPACK it runs)"
    return Run(_plain(found.refused, file) + hint, None, ())


def _apart(content: bytes, threads: int, xnnpack: bool) -> Run:
    try:
        with Child(run_here, content, threads, xnnpack) as child:
            return child.answer(_SECONDS)
    except subprocess.TimeoutExpired:
        refused = f"the runtime did not finish one run within {_SECONDS} s"
    except ChildFailed as error:
        refused = (f"the runtime ended its own process ({error.how}) over this file; it is damaged, or uses what the runtime "
                   "does not know")
    return Run(refused, None, ())


def _plain(text: str, file: TfliteFile) -> str:
    """The runtime's reason as one line with a remedy, where it is a known one."""
    custom = re.search(r"unresolved custom op: ([\w/-]+)", text)
    if custom:
        remedy = ("it needs the Flex delegate of TensorFlow; convert without SELECT_TF_OPS" if custom[1].startswith("Flex")
                  else "the app must register it, or the model be converted without it")
        return f"the custom operator {custom[1]} is unknown to the runtime: {remedy}"
    if "Select TensorFlow op(s), included in the given model" in text:
        return "it holds operators of TensorFlow itself (Flex), unknown to the runtime: convert without SELECT_TF_OPS"
    failed = re.search(r"failed to delegate (\w+) node #(\d+)", text)
    if failed:
        number = int(failed[2])
        operator = file.operators[number] if number < len(file.operators) else None
        known = preparation_failure(file, operator) if operator and operator.name == failed[1] else ""
        return f"XNNPACK takes operator {number} {failed[1]} and then fails to prepare it" + (f": {known}" if known else "")
    return text if text.startswith("the runtime ") else f"the runtime refuses it: {text[:300].rstrip('.')}"


def run_here(content: bytes, threads: int, xnnpack: bool) -> Run:
    """Partitions and the operators outside of them, or the runtime's reason against the file; run in this process."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from mnv3_tf.tflite.runtime import executed

    resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        partitions, outside = executed(interpreter)
        for entry in interpreter.get_input_details():
            interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
        interpreter.invoke()
    except (RuntimeError, ValueError, TypeError) as error:
        return Run(" ".join(str(error).split()) or type(error).__name__, None, ())
    return Run("", partitions, tuple(index for index, _ in outside))
