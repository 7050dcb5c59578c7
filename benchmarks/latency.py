"""Latency of the kit's int8 file against keras.applications' standard int8 file and against float32, interleaved.

The networks are not trained (latency does not depend on it), but their BatchNorm statistics are estimated on pictures,
so that every tensor has a sensible range; and keras.applications gets the very same weights, so that both compute the
same function, up to logits. Times are of one thread unless --threads gives another number. Ratios hold for this kind of
processor only: an x86 desktop says little about a phone (arm_instructions.py counts what a phone's processor executes).
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from mnv3_tf.cli.options import quiet_libraries
from mnv3_tf.progress import Terminal

HERE = Path(__file__).parent
NETWORKS = {"large": 224, "small": 128}
OURS, NATIVE, FLOAT = "int8", "int8, native hard-swish", "float32"
PEER, PEER_FLOAT = "keras.applications int8", "keras.applications float32"
KINDS = (OURS, NATIVE, FLOAT, PEER, PEER_FLOAT)
PICTURES = 32
ROUNDS = 10


def main() -> None:
    """Builds the files that are missing, measures them, prints a table for each network and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the files, kept for the next time")
    parser.add_argument("--runs", type=int, default=200, help="timed runs of each file, at least")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write all rows and samples to this file")
    arguments = parser.parse_args()
    quiet_libraries()
    from mnv3_tf.export.benchmark.compare import comparisons
    from mnv3_tf.export.benchmark.host import benchmark_host, host_json
    from mnv3_tf.export.benchmark.measure import BenchmarkSettings
    from mnv3_tf.export.benchmark.table import result_lines

    results, said = {}, []
    for name, size in NETWORKS.items():
        files = build(name, size, arguments.out)
        settings = BenchmarkSettings((arguments.threads,), runs=arguments.runs, min_seconds=1.0, rounds=ROUNDS)
        result = benchmark_host(list(files.values()), settings, Terminal())
        show(name, size, result)
        # A graph cut into partitions is what is measured here, and the table says it.
        said += [f"{Path(row['file']).name}: {text}." for row in result.rows for text in row["flags"]]
        results[name] = result
    print("\n".join([*result_lines(next(iter(results.values()))), *(f"Warning: {line}" for line in said), ""]))
    for name, result in results.items():
        print(claim(name, NETWORKS[name], result))
    if arguments.json:
        arguments.json.write_text(json.dumps({
            f"{name} at {NETWORKS[name]}": {"files": KINDS, "claim": claim(name, NETWORKS[name], result),
                                            **host_json(result, comparisons(result.rows, result.rows[0]["file"]))}
            for name, result in results.items()}, indent=2))


def build(name: str, size: int, folder: Path) -> dict[str, Path]:
    """The `.tflite` files of a network, ours and keras.applications', made again where the kit's code has changed."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name}-{size}"
    files = {kind: folder / f"{stem}-{kind.replace(' ', '-').replace(',', '')}.tflite" for kind in KINDS}
    stamp, code = folder / f"{stem}.code", code_fingerprint()
    if stamp.exists() and stamp.read_text() == code and all(path.exists() for path in files.values()):
        print(f"{name} at {size}: the files in {folder} are of this version of the code", flush=True)
        return files
    print(f"{name} at {size}: converting five files ...", flush=True)
    import keras
    import numpy as np
    from peers.keras_applications import convert_model_standard, estimate_batchnorm

    from mnv3_tf.data.synthetic import synthetic_pictures
    from mnv3_tf.export.convert.convert import Format, convert_graph
    from mnv3_tf.models import MobileNetV3
    from mnv3_tf.quantization.calibration import calibrate
    from mnv3_tf.quantization.fold import trace
    from mnv3_tf.tflite.runtime import captured_stderr

    keras.utils.set_random_seed(0)
    pictures = np.asarray(synthetic_pictures(PICTURES, size))
    model = MobileNetV3(name, input_shape=(size, size, 3))
    estimate_batchnorm(model, pictures)
    graph = trace(model)
    ranges = calibrate(graph, [pictures[start:start + 8] for start in range(0, PICTURES, 8)]).ranges
    files[OURS].write_bytes(convert_graph(graph, ranges, format="int8", io="int8", lowering="xnnpack"))
    files[NATIVE].write_bytes(convert_graph(graph, ranges, format="int8", io="int8", lowering="native"))
    files[FLOAT].write_bytes(convert_graph(graph, None, format="float32", io="float32", lowering="native"))
    peer = getattr(keras.applications, f"MobileNetV3{name.title()}")(
        input_shape=(size, size, 3), weights=None, classes=1000, classifier_activation=None)
    peer.set_weights(model.get_weights())
    formats: dict[str, Format] = {PEER: "int8", PEER_FLOAT: "float32"}
    with captured_stderr(is_noise=lambda line: line.startswith("fully_quantize")):
        for kind, format in formats.items():
            files[kind].write_bytes(convert_model_standard(peer, format, pictures))
    stamp.write_text(code)
    return files


def code_fingerprint() -> str:
    """Of all code that has a part in the files."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for folder in ("mnv3_tf", "export", "benchmarks/peers"):
        for path in sorted((HERE.parent / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def ratios(result: Any) -> dict[str, tuple[float, float, float]]:
    """How many times as long each other file takes as our int8 file: kind -> (ratio, low, high)."""
    from mnv3_tf.export.benchmark.statistics import ratio_with_interval

    return {kind: ratio_with_interval(row["samples_ms"], result.rows[0]["samples_ms"])
            for kind, row in zip(KINDS, result.rows, strict=True) if kind != OURS}


def show(name: str, size: int, result: Any) -> None:
    """The table of one network."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    compared = ratios(result)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False,
                  title=f"MobileNetV3-{name.title()} 1.0 at {size}x{size}, 1000 classes")
    table.add_column("file", no_wrap=True)
    for heading in ("median ms", "p90 ms", "partitions", "MB"):
        table.add_column(heading, justify="right")
    table.add_column("time / our int8 (95%)", no_wrap=True)
    for kind, row in zip(KINDS, result.rows, strict=True):
        text = "{:.2f}x ({:.2f} to {:.2f})".format(*compared[kind]) if kind in compared else "1"
        table.add_row(kind, f"{row['median_ms']:.3f}", f"{row['p90_ms']:.3f}", str(row["partitions"]),
                      f"{row['size_bytes'] / 1e6:.2f}", text)
    Console(highlight=False, width=110).print(table)


def claim(name: str, size: int, result: Any) -> str:
    """One sentence; float32 is ours or keras.applications', whichever is faster."""
    from mnv3_tf.machine import processor_in_words

    compared = ratios(result)
    peer = compared[PEER]
    best_float = min((compared[FLOAT], compared[PEER_FLOAT]))
    return (f"{name.title()} 1.0 at {size} on {processor_in_words()}: int8 is {peer[0]:.2f}x faster than keras.applications int8 "
            f"(95% interval {peer[1]:.2f} to {peer[2]:.2f}), {best_float[0]:.2f}x faster than float32 ({best_float[1]:.2f} to "
            f"{best_float[2]:.2f}).")


if __name__ == "__main__":
    main()
