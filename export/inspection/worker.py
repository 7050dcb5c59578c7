"""Loads and runs a file with LiteRT in a process of its own, and says what really ran: a broken file may end that process.

The child is ``python -m mnv3_tf.export.inspection.worker FILE THREADS xnnpack|none``; it prints one line of JSON.
"""

import json
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv3_tf.tflite.delegate_rules import preparation_failure
from mnv3_tf.tflite.file import TfliteFile

_SECONDS = 120


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
    with tempfile.TemporaryDirectory(prefix="mnv3-inspect-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        found = _child(path, threads, "xnnpack")
        if "refused" in found:
            without = _child(path, threads, "none")
            hint = "" if "refused" in without else " (without XNNPACK it runs)"
            return Run(_plain(found["refused"], file) + hint, None, ())
        return Run("", int(found["partitions"]), tuple(found["outside"]))


def _child(path: Path, threads: int, delegate: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "mnv3_tf.export.inspection.worker", str(path), str(threads), delegate]
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, errors="replace")
    except subprocess.TimeoutExpired:
        return {"refused": f"the runtime did not finish one run within {_SECONDS} s"}
    line = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode == 0 and line.startswith("{"):
        return dict(json.loads(line))
    return {"refused": f"the runtime ended its own process ({_how(done.returncode)}) over this file; it is damaged, or uses what "
                       "the runtime does not know"}


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}, {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"signal {-code}"


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


def main(file: str, threads: str, delegate: str) -> None:
    """The child: prints partitions and the operators outside of them, or the runtime's reason against the file."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from mnv3_tf.tflite.runtime import executed

    resolver = OpResolverType.AUTO if delegate == "xnnpack" else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = Interpreter(model_content=Path(file).read_bytes(), num_threads=int(threads),
                                  experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        partitions, outside = executed(interpreter)
        for entry in interpreter.get_input_details():
            interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
        interpreter.invoke()
    except (RuntimeError, ValueError, TypeError) as error:
        print(json.dumps({"refused": " ".join(str(error).split()) or type(error).__name__}))
        return
    print(json.dumps({"partitions": partitions, "outside": [index for index, _ in outside]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
