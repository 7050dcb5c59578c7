"""What differs between two networks: their layers, weights and activation ranges."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mnv3_tf.artefacts.open import Artefact
from mnv3_tf.export.diff.result import Differences, ranked
from mnv3_tf.network.layer_names import block_of, display_name
from mnv3_tf.quantization.cross_layer_equalization import like
from mnv3_tf.quantization.fake_quantized import Ranges
from mnv3_tf.quantization.graph import FoldedGraph


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        what: its kind and shape, as differences print it.
        weights: by name.
    """

    what: str
    weights: dict[str, np.ndarray]


Network = dict[str, Layer]


def compare_networks(found: Differences) -> None:
    """Adds structure, weights and activation ranges of two runs or `.keras` files.

    Two float networks are compared as Keras has them; otherwise both folded (BatchNorm in the convolutions).
    """
    sides = (found.a, found.b)
    quantized = [side.form == "quantized" for side in sides]
    if any(quantized):
        (old_graph, old_ranges), (new_graph, new_ranges) = (side.folded for side in sides)
        # A float network in the form that the quantized one has, or every rescaled layer would differ.
        if not quantized[0]:
            old_graph = like(old_graph, new_graph.channel_sizes, split_stem=new_graph.split_stem) or old_graph
        if not quantized[1]:
            new_graph = like(new_graph, old_graph.channel_sizes, split_stem=old_graph.split_stem) or new_graph
        old, new = _of_graph(old_graph), _of_graph(new_graph)
        form = " of the folded networks" if not all(quantized) else ""
    else:
        old, new = (_of_keras(side) for side in sides)
        form = ""
    found.add(f"network structure{form}", structure(old, new))
    found.add(f"weights{form}", weights(old, new))
    if all(quantized):
        found.add("activation ranges", ranges(old_ranges, new_ranges))
    elif any(quantized):
        found.not_compared.append(f"activation ranges, which {'B' if quantized[0] else 'A'} lacks")


def structure(old: Network, new: Network) -> Iterator[str]:
    """Layers that only one network has, then layers of another shape."""
    for name in old:
        if name not in new:
            yield f"{name} ({old[name].what}) is only in A"
    for name in new:
        if name not in old:
            yield f"{name} ({new[name].what}) is only in B"
    for name in old:
        if name not in new:
            continue
        if old[name].what != new[name].what:
            yield f"{name}: {old[name].what} -> {new[name].what}"
        elif not _comparable(old[name], new[name]):
            yield f"{name}: weights {_shapes(old[name])} -> {_shapes(new[name])}"


def weights(old: Network, new: Network) -> list[str]:
    """The distance of each layer's weights, relative to their size in A, largest first."""
    pairs = [(name, old[name], new[name]) for name in old
             if name in new and old[name].weights and _comparable(old[name], new[name])]
    changed = []
    for name, before, after in pairs:
        parts = {key: relative_distance(value, after.weights[key]) for key, value in before.weights.items()
                 if value.tobytes() != after.weights[key].tobytes()}
        if parts:
            said = ", ".join(f"{key} {_percent(part)}" for key, part in parts.items())
            whole = (np.concatenate([layer.weights[key].ravel() for key in before.weights]) for layer in (before, after))
            changed.append((relative_distance(*whole), f"{name}: {said}"))
    return ranked(changed, f"{len(changed)} of {len(pairs)} layers differ, {len(pairs) - len(changed)} are equal bit for bit; in "
                  "percent of their size, by root mean square:")


def ranges(old: Ranges, new: Ranges) -> list[str]:
    """How far the ends of each range moved, relative to its span in A, largest first."""
    sentences = [f"{display_name(name)}: quantized only in {'A' if name in old else 'B'}"
                 for name in dict.fromkeys([*old, *new]) if (name in old) != (name in new)]
    moved = []
    for name, (low, high) in old.items():
        if name in new and (low, high) != new[name]:
            change = max(abs(new[name][0] - low), abs(new[name][1] - high)) / max(high - low, 1e-12)
            moved.append((change, f"{display_name(name)}: {low:.4g}..{high:.4g} -> {new[name][0]:.4g}..{new[name][1]:.4g} "
                                  f"({_percent(change)} of its span)"))
    return sentences + ranked(moved, f"{len(moved)} of {len(old.keys() & new.keys())} ranges differ")


def relative_distance(old: np.ndarray, new: np.ndarray) -> float:
    """Root mean square of the difference, relative to that of `old`; infinite where `old` is all zeros or not finite."""
    difference = np.linalg.norm(np.asarray(new, np.float64) - np.asarray(old, np.float64))
    size = np.linalg.norm(np.asarray(old, np.float64))
    if difference == 0:
        return 0.0
    return float(difference / size) if size > 0 and np.isfinite(difference) and np.isfinite(size) else float("inf")


def _comparable(old: Layer, new: Layer) -> bool:
    return {key: value.shape for key, value in old.weights.items()} == {key: value.shape for key, value in new.weights.items()}


def _shapes(layer: Layer) -> str:
    return ", ".join(f"{key} {'x'.join(map(str, value.shape))}" for key, value in layer.weights.items()) or "none"


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 10 else ("beyond measure" if np.isinf(share) else f"{share:.0f} times")


def _of_keras(side: Artefact) -> Network:
    from mnv3_tf.network.profile import profile

    model = side.model
    return {row.name: Layer(f"{row.kind}, output {'x'.join(map(str, row.output))}",
                            {variable.name: np.asarray(value) for variable, value in zip(layer.weights, layer.get_weights(),
                                                                                         strict=True)})
            for row, layer in zip(profile(model), model.layers, strict=True)}


def _of_graph(graph: FoldedGraph) -> Network:
    def what(name: str) -> str:
        op = graph[name]
        if op.kind == "input":
            return f"input {graph.height}x{graph.width}x3"
        stride = f", stride {op.stride}" if op.stride != 1 else ""
        shape = f" {'x'.join(map(str, op.kernel.shape))}" if op.kernel is not None else ""
        left = ", left float" if op.kernel is not None and block_of(name) in graph.float_blocks else ""
        return f"{op.kind}{shape}{stride}{f', {op.activation}' if op.activation else ''}{left}"

    return {display_name(op.name): Layer(what(op.name), {key: value for key, value in (("kernel", op.kernel), ("bias", op.bias))
                                                         if value is not None}) for op in graph.ops}
