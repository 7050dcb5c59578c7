"""Latency of the integer form against keras.applications' standard int8 file and against float32, in one interleaved run.

The networks are not trained (latency does not depend on it), but their BatchNorm statistics are estimated on pictures, so that
every tensor has a sensible range. Times are of one thread unless --threads says otherwise; ratios carry over between x86
machines of a kind, absolute times do not.
"""

import argparse
import json
from pathlib import Path

from mnv3_tf.cli.options import Terminal, quiet_libraries

NETWORKS = {"large": 224, "small": 128}


def main() -> None:
    """Builds the files that are missing, measures them, prints a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder for the files")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write all rows and samples to this file")
    arguments = parser.parse_args()
    quiet_libraries()
    from mnv3_tf.export.benchmark import benchmark_files

    results = {}
    for name, size in NETWORKS.items():
        files = build(name, size, arguments.out)
        result = benchmark_files(list(files.values()), threads=(arguments.threads,), runs=arguments.runs, rounds=10,
                                 progress=Terminal())
        show(name, size, files, result)
        results[f"{name} at {size}"] = result.to_dict()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


def build(name: str, size: int, folder: Path) -> dict[str, Path]:
    """The `.tflite` files of a network, ours and keras.applications'."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("int8", "int8, native hard-swish", "float32", "keras.applications int8", "keras.applications float32")
    files = {kind: folder / f"{name}-{size}-{kind.replace(' ', '-').replace(',', '')}.tflite" for kind in kinds}
    if all(path.exists() for path in files.values()):
        return files
    print(f"Converting {name} at {size} ...", flush=True)
    import numpy as np

    from mnv3_tf.export.convert import convert_graph
    from mnv3_tf.export.reference import convert_keras_applications, estimate_batchnorm, synthetic_pictures
    from mnv3_tf.network import MobileNetV3
    from mnv3_tf.quantization.calibration import calibrate
    from mnv3_tf.quantization.graph import trace

    pictures = np.asarray(synthetic_pictures(32, size))
    model = MobileNetV3(name, input_shape=(size, size, 3), batchnorm_momentum=0.9)
    estimate_batchnorm(model, pictures)
    graph = trace(model)
    ranges = calibrate(graph, [pictures[i:i + 8] for i in range(0, 32, 8)]).ranges
    files["int8"].write_bytes(convert_graph(graph, ranges, format="int8", io="int8", lowering="xnnpack"))
    files["int8, native hard-swish"].write_bytes(convert_graph(graph, ranges, format="int8", io="int8", lowering="fused"))
    files["float32"].write_bytes(convert_graph(graph, None, format="float32", io="float32", lowering="fused"))
    for format in ("int8", "float32"):
        files[f"keras.applications {format}"].write_bytes(convert_keras_applications(name, size, format=format))
    return files


def show(name: str, size: int, files: dict[str, Path], result) -> None:  # noqa: ANN001
    """The table and one line per comparison with our int8 file."""
    from rich.console import Console
    from rich.table import Table

    from mnv3_tf.export.benchmark_statistics import ratio_with_interval

    table = Table("file", "median ms", "p90 ms", "partitions", "size MB", "our int8 is faster by (95% interval)",
                  title=f"MobileNetV3-{name.title()} 1.0 at {size}x{size}, 1000 classes")
    ours = result.samples[0]
    for (kind, path), row, samples in zip(files.items(), result.rows, result.samples, strict=True):
        ratio, low, high = ratio_with_interval(samples, ours)
        table.add_row(kind, f"{row.median_ms:.3f}", f"{row.p90_ms:.3f}", str(row.partitions),
                      f"{path.stat().st_size / 1e6:.2f}", f"{ratio:.2f}x ({low:.2f} to {high:.2f})")
    Console().print(table)


if __name__ == "__main__":
    main()
