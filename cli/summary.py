"""`mnv3 summary`."""

from typing import TYPE_CHECKING, Any

import click

from mnv3_tf.cli.options import json_option, new_table, print_json, quiet_libraries, show

if TYPE_CHECKING:
    from mnv3_tf.artefacts.open import Artefact


@click.command()
@click.argument("model", type=click.Path())
@json_option
def summary(model: str, as_json: bool) -> None:
    """Shows the layers of MODEL (a run folder, .keras or .tflite file) with shapes, parameters and MACs."""
    from mnv3_tf.artefacts.open import open_artefact

    artefact = open_artefact(model)
    facts = {"model": model, "kind": artefact.form,
             **{"keras": _keras, "quantized": _folded, "tflite": _tflite}[artefact.form](artefact)}
    if as_json:
        print_json(facts)
        return
    rows = facts["layers"]
    table = new_table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    show(table)
    click.echo(", ".join(f"{key.replace('_', ' ')} {_text(value)}" for key, value in facts.items()
                         if key not in ("layers", "model")))


def _text(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _keras(artefact: "Artefact") -> dict[str, Any]:
    quiet_libraries()
    from mnv3_tf.network.profile import profile

    rows = profile(artefact.model)
    return {"parameters": sum(r.parameters for r in rows), "macs": sum(r.macs for r in rows),
            "layers": [{"layer": r.name, "kind": r.kind, "output": r.output, "parameters": r.parameters, "macs": r.macs}
                       for r in rows]}


def _folded(artefact: "Artefact") -> dict[str, Any]:
    from mnv3_tf.network.layer_names import block_of, display_name

    graph, ranges = artefact.folded
    rows = []
    for op in graph.ops:
        parameters = sum(int(v.size) for v in (op.kernel, op.bias) if v is not None)
        ends = [str(round(end, 4)) for end in ranges[op.name]] if op.name in ranges else ["", ""]
        left_float = ", float" if block_of(op.name) in graph.float_blocks else ""
        rows.append({"layer": display_name(op.name),
                     "kind": op.kind + (f" + {op.activation}" if op.activation else "") + left_float,
                     "parameters": parameters, "low": ends[0], "high": ends[1]})
    return {"input": [graph.height, graph.width, 3],
            "parameters": sum(row["parameters"] for row in rows), "layers": rows}


def _tflite(artefact: "Artefact") -> dict[str, Any]:
    from mnv3_tf.tflite.file import bytes_by_dtype, operator_dtype, read_tflite
    from mnv3_tf.tflite.runtime import LiteRTModel

    file = read_tflite(artefact.weights)
    rows = []
    for op in file.operators:
        constants = sum(file.tensors[i].buffer_bytes for i in op.inputs if i >= 0 and file.tensors[i].is_constant)
        rows.append({"operator": op.index, "kind": op.name, "dtype": operator_dtype(file, op),
                     "output": file.tensors[op.outputs[0]].shape, "constant_bytes": constants})
    loaded = LiteRTModel(artefact.weights)
    return {"size_bytes": file.size_bytes, "input": loaded.input_shape, "input_dtype": loaded.input_dtype,
            "output_dtype": loaded.output_dtype, "partitions": loaded.partitions,
            "outside_of_delegate": ", ".join(loaded.undelegated_operators) or "none",
            "bytes_by_dtype": ", ".join(f"{k} {v:,}" for k, v in bytes_by_dtype(file).items()), "layers": rows}
