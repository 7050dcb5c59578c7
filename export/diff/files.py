"""What differs between two `.tflite` files: their size, operators, types, scales and constants."""

from collections.abc import Iterator

from mnv3_tf.export.diff.result import Differences, ranked
from mnv3_tf.tflite.file import CONVERSIONS, TensorInfo, TfliteFile, operator_counts, parse_tflite, read_tflite_bytes


def compare_files(found: Differences) -> None:
    """Adds everything that two files hold."""
    old_bytes, new_bytes = (read_tflite_bytes(side.path) for side in (found.a, found.b))
    if old_bytes == new_bytes:
        found.compared += ["bytes of the file (equal, and so all that is in it)"]
        return
    old, new = (parse_tflite(content, name=side.path) for content, side in ((old_bytes, found.a), (new_bytes, found.b)))
    found.add("input and output", _ends(old, new))
    found.add("operators", _operators(old, new))
    pairs, by = match_tensors(old, new)
    found.add(f"scales (matched by {by})", scales(pairs))
    found.add(f"constants (matched by {by})", constants(pairs))
    change = new.size_bytes - old.size_bytes
    found.add("size", [f"{old.size_bytes:,} -> {new.size_bytes:,} bytes ({change:+,}, {change / old.size_bytes:+.2%})"] if change
              else [])


def match_tensors(old: TfliteFile, new: TfliteFile) -> tuple[list[tuple[TensorInfo, TensorInfo]], str]:
    """Pairs of tensors that mean the same in both files.

    Where the same operators follow each other, apart from conversions between types, tensors are matched by their place at
    the operator; otherwise by name.

    Returns:
        The pairs, in the order of A, and by what they were matched.
    """
    ours, theirs = ([op for op in file.operators if op.name not in CONVERSIONS] for file in (old, new))
    one, other = ([(op.name, len(op.inputs), len(op.outputs)) for op in operators] for operators in (ours, theirs))
    if one != other:
        names = {tensor.name: tensor for tensor in new.tensors}
        return [(tensor, names[tensor.name]) for tensor in old.tensors if tensor.name in names], "name"
    pairs: dict[int, tuple[TensorInfo, TensorInfo]] = {}
    for before, after in zip(ours, theirs, strict=True):
        for i, j in zip((*before.inputs, *before.outputs), (*after.inputs, *after.outputs), strict=True):
            if i >= 0 and j >= 0:
                pairs.setdefault(i, (old.tensors[i], new.tensors[j]))
    return list(pairs.values()), "operator order"


def scales(pairs: list[tuple[TensorInfo, TensorInfo]]) -> list[str]:
    """Tensors whose scale or zero point changed, the largest relative change first.

    Biases are left out: their scale is the product of the input's and the kernel's.
    """
    both = [(a, b) for a, b in pairs if a.scales and b.scales and "int32" not in (a.dtype, b.dtype)]
    rows: list[tuple[float, str]] = []
    for a, b in both:
        if len(a.scales) != len(b.scales):
            rows.append((float("inf"), f"{_name(a)}: {len(a.scales)} scales -> {len(b.scales)}"))
        elif (a.scales, a.zero_points) != (b.scales, b.zero_points):
            change = max(abs(y - x) / max(abs(x), 1e-30) for x, y in zip(a.scales, b.scales, strict=True))
            rows.append((change, f"{_name(a)}: {_scale_text(a, b, change)}"))
    return ranked(rows, f"{len(rows)} of {len(both)} quantized tensors differ")


def constants(pairs: list[tuple[TensorInfo, TensorInfo]]) -> list[str]:
    """Kernels and biases that changed, the largest share of bytes first."""
    both = [(a, b) for a, b in pairs if a.is_constant and b.is_constant]
    rows: list[tuple[float, str]] = []
    for a, b in both:
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            rows.append((2.0, f"{_name(a)}: {a.dtype} {_shape(a)} -> {b.dtype} {_shape(b)}"))
        elif len(a.data) != len(b.data):
            rows.append((2.0, f"{_name(a)}: {len(a.data)} -> {len(b.data)} bytes"))
        elif (share := float((a.data != b.data).mean())) > 0:
            rows.append((share, f"{_name(a)} ({a.dtype} {_shape(a)}): {share:.2%} of its bytes differ"))
    return ranked(rows, f"{len(rows)} of {len(both)} constants differ")


def _ends(old: TfliteFile, new: TfliteFile) -> Iterator[str]:
    for what, before, after in (("input", old.inputs, new.inputs), ("output", old.outputs, new.outputs)):
        if len(before) != len(after):
            yield f"{len(before)} {what}s -> {len(after)}"
        for a, b in zip(before, after, strict=False):
            if _end(a) != _end(b):
                yield f"{what}: {_end(a)} -> {_end(b)}"


def _end(tensor: TensorInfo) -> str:
    quantization = f", scale {tensor.scales[0]:.6g}, zero point {tensor.zero_points[0]}" if len(tensor.scales) == 1 else ""
    return f"{tensor.dtype} {_shape(tensor)}{quantization}"


def _operators(old: TfliteFile, new: TfliteFile) -> list[str]:
    before, after = operator_counts(old), operator_counts(new)
    changes = [(after.get(key, 0) - before.get(key, 0), key) for key in dict.fromkeys([*before, *after])]
    sentences = [f"{name} ({dtype}): {change:+d} ({before.get((name, dtype), 0)} -> {after.get((name, dtype), 0)})"
                 for change, (name, dtype) in sorted(changes, key=lambda row: -abs(row[0])) if change]
    if not sentences and [op.name for op in old.operators] != [op.name for op in new.operators]:
        sentences.append("the same operators in another order")
    return sentences


def _scale_text(a: TensorInfo, b: TensorInfo, change: float) -> str:
    if len(a.scales) > 1:
        count = sum(x != y for x, y in zip(a.scales, b.scales, strict=True))
        return f"{count} of {len(a.scales)} channels, by {change:.2%} at most"
    zero = f", zero point {a.zero_points[0]} -> {b.zero_points[0]}" if a.zero_points != b.zero_points else ""
    return f"scale {a.scales[0]:.6g} -> {b.scales[0]:.6g} ({change:.2%}){zero}"


def _name(tensor: TensorInfo) -> str:
    """The converter joins the names of what it fused; the first is enough."""
    return tensor.name.split(";")[0]


def _shape(tensor: TensorInfo) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
