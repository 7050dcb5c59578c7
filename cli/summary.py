"""`mnv3 summary`."""

from pathlib import Path
from typing import Any

import click

from mnv3_tf.cli.options import json_option, print_json, quiet_libraries_for


@click.command()
@click.argument("model", type=click.Path())
@json_option
def summary(model: str, as_json: bool) -> None:
    """Shows the layers of MODEL (a run folder, .keras or .tflite file) with shapes, parameters and MACs."""
    facts = _tflite(model) if model.endswith(".tflite") else _keras(model)
    if as_json:
        print_json(facts)
        return
    from rich.console import Console
    from rich.table import Table

    rows = facts["layers"]
    table = Table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    console = Console(highlight=False)
    console.print(table)
    console.print(", ".join(f"{key.replace('_', ' ')} {_text(value)}" for key, value in facts.items()
                            if key not in ("layers", "model")), soft_wrap=True)


def _text(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _keras(model: str) -> dict[str, Any]:
    from mnv3_tf.errors import InputError

    path = Path(model)
    if path.is_dir():
        from mnv3_tf.artefacts.run_folder import open_run

        run = open_run(path)
        if run.is_quantized:
            return _folded(model, run.quantized)
        path = run.model
    elif not path.exists():
        raise InputError(f"{path}: there is no such run folder or file.")
    quiet_libraries_for(str(path))
    from mnv3_tf.network.keras_io import load_keras
    from mnv3_tf.network.profile import profile

    rows = profile(load_keras(path))
    return {"model": model, "kind": "keras", "parameters": sum(r.parameters for r in rows), "macs": sum(r.macs for r in rows),
            "layers": [{"layer": r.name, "kind": r.kind, "output": list(r.output), "parameters": r.parameters,
                        "macs": r.macs} for r in rows]}


def _folded(model: str, path: Path) -> dict[str, Any]:
    from mnv3_tf.network.layer_names import block_of, display_name
    from mnv3_tf.quantization.graph import load_graph

    graph, ranges = load_graph(path)
    rows = []
    for op in graph.ops:
        parameters = sum(int(v.size) for v in (op.kernel, op.bias) if v is not None)
        ends = [str(round(end, 4)) for end in ranges[op.name]] if op.name in ranges else ["", ""]
        left_float = ", float" if block_of(op.name) in graph.float_blocks else ""
        rows.append({"layer": display_name(op.name),
                     "kind": op.kind + (f" + {op.activation}" if op.activation else "") + left_float,
                     "parameters": parameters, "low": ends[0], "high": ends[1]})
    return {"model": model, "kind": "quantized", "input": [graph.height, graph.width, 3],
            "parameters": sum(row["parameters"] for row in rows), "layers": rows}


def _tflite(model: str) -> dict[str, Any]:
    from mnv3_tf.tflite.file import bytes_by_dtype, operator_dtype, read_tflite
    from mnv3_tf.tflite.runtime import LiteRTModel

    file = read_tflite(model)
    rows = []
    for op in file.operators:
        constants = sum(file.tensors[i].buffer_bytes for i in op.inputs if i >= 0 and file.tensors[i].is_constant)
        rows.append({"operator": op.index, "kind": op.name, "dtype": operator_dtype(file, op),
                     "output": list(file.tensors[op.outputs[0]].shape), "constant_bytes": constants})
    loaded = LiteRTModel(model)
    return {"model": model, "kind": "tflite", "size_bytes": file.size_bytes, "input": list(loaded.input_shape),
            "input_dtype": loaded.input_dtype, "output_dtype": loaded.output_dtype, "partitions": loaded.partitions,
            "outside_of_delegate": ", ".join(loaded.undelegated_operators) or "none",
            "bytes_by_dtype": ", ".join(f"{k} {v:,}" for k, v in bytes_by_dtype(file).items()), "layers": rows}
