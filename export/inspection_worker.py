"""Loads a file with LiteRT and says what really runs, as a process of its own: a broken file may end it.

Usage: ``python -m mnv3_tf.export.inspection_worker FILE THREADS xnnpack|none``; prints one line of JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(file: str, threads: str, delegate: str) -> None:
    """Prints partitions and the operators outside of them, or the runtime's reason against the file."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from mnv3_tf.export.runtime import executed

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
