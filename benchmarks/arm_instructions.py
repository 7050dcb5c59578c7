"""ARM instructions of one inference of the files of latency.py, counted on emulated processors.

It needs neither a phone nor an idle machine, because the count is the same every time. `mnv3 benchmark --target arm` counts
your own files. The exit code is 4 if qemu-aarch64 (Debian and Ubuntu: apt install qemu-user) or ziglang (pip install ziglang)
is missing.
"""

import argparse
import sys
from pathlib import Path

from latency import HERE, NETWORKS, build
from rich.console import Console

from mnv3_tf.cli.options import quiet_libraries
from mnv3_tf.errors import KitError
from mnv3_tf.export.benchmark.compare import comparisons
from mnv3_tf.export.benchmark.devices.emulator import PROCESSORS
from mnv3_tf.export.benchmark.instructions import count_instructions
from mnv3_tf.export.benchmark.measure import BenchmarkSettings
from mnv3_tf.export.benchmark.table import benchmark_table
from mnv3_tf.progress import Terminal


def main() -> int:
    """Builds the files that are missing, counts, and prints a table for each network and processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the files, kept for the next time")
    arguments = parser.parse_args()
    quiet_libraries()
    try:
        for name, size in NETWORKS.items():
            files = list(build(name, size, arguments.out).values())
            for emulated in PROCESSORS.values():
                found = count_instructions(f"arm:{emulated.name}", files, BenchmarkSettings(), Terminal())
                where = f"on an {found.identity.name} ({emulated.about})"
                print(f"MobileNetV3-{name.title()} 1.0 at {size}x{size}, 1000 classes, {where}")
                Console(highlight=False, width=130).print(benchmark_table(found.rows, comparisons(found.rows, str(files[0]))))
    except KitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
