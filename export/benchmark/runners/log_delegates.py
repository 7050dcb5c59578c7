"""Which delegate really ran a graph, from what the runtime and the tool say of it.

"Created" is no proof that an accelerator ran anything: the tool may say further down that nothing was given to it, or that the
application failed and was undone. For XNNPACK, which newer runtimes apply by themselves, its creation is all that is ever said.
"""

import re
from collections.abc import Sequence
from typing import Any

# A part of a name in logs, and the kit's name.
_NAMES = {"xnnpack": "xnnpack", "gpu": "gpu", "litert_cl": "gpu", "litert_gl": "gpu", "metal": "gpu", "nnapi": "nnapi",
          "hexagon": "hexagon", "coreml": "coreml", "edgetpu": "edgetpu", "qnn": "qnn", "dispatch": "npu"}
_CREATED = re.compile(r"Created TensorFlow Lite (?:(\w+) delegate|delegate for (\w+))|^(\w+) delegate created")
_APPLIED = re.compile(r"^(?:Explicitly applied|Applied) (\S+) delegate(.*)")
_KERNELS = re.compile(r"executed by the delegate w/ (\d{1,9}) delegate kernel|^Created (\d{1,9}) GPU delegate kernels")
_REPLACED = re.compile(r"Replacing (\d{1,9})(?: out of (\d{1,9}))? node\(s\) with delegate \(([^)]*)\) node, yielding "
                       r"(\d{1,9}) partition")
_GPU_SHARE = re.compile(r"(?:(\d{1,9})|No) operations will run on the GPU, and (?:the remaining|all) (\d{1,9})")
_GPU_READY = re.compile(r"^Initialized Open[CG]L-based API")
_NOT_RUN = re.compile(r"^Though (\S+) delegate is explicitly applied, the model graph will not be"
                      r"|^Failed to apply (\S+) delegate")
_UNDONE = re.compile(r"Restored original execution plan after delegate application failure")
_ACCELERATORS = re.compile(r"^Accelerators:\s*(\w+)\s*$")
_ACCELERATED = re.compile(r"^Fully accelerated:\s*(?:True|yes)$", re.IGNORECASE)


def delegate_named(text: str) -> str | None:
    """The kit's name of a delegate by any of its names in logs, such as "TfLiteGpuDelegateV2"; None: not known."""
    lower = text.lower()
    return next((name for part, name in _NAMES.items() if part in lower), None)


class _Evidence:
    """What was said of one delegate."""

    def __init__(self) -> None:
        self.created = self.ran = False
        self.refused = ""
        self.facts: dict[str, int] = {}


class _Reader:
    def __init__(self) -> None:
        self.of: dict[str, _Evidence] = {}
        self.last = ""
        self.accelerator, self.accelerated = "", False

    def evidence(self, name: str) -> _Evidence:
        self.last = name
        return self.of.setdefault(name, _Evidence())

    def read(self, line: str) -> None:
        if (match := _NOT_RUN.match(line)) and (name := delegate_named(match.group(1) or match.group(2))):
            self.evidence(name).refused = line
        elif _UNDONE.search(line) and self.last:
            self.of[self.last].refused = line
        elif (match := _CREATED.search(line)) and (name := delegate_named(next(filter(None, match.groups())))):
            self.evidence(name).created = True
        elif match := _REPLACED.search(line):
            self._replaced(match)
        elif match := _GPU_SHARE.search(line):
            self._gpu_share(line, int(match.group(1) or 0), int(match.group(2)))
        elif (match := _APPLIED.match(line)) and (name := delegate_named(match.group(1))):
            found = self.evidence(name)
            found.ran = True
            if "completely executed" in match.group(2):
                found.facts["partitions"] = 1
            self._kernels(line, found)
        elif _KERNELS.match(line):
            self._kernels(line, self.evidence("gpu"))
        elif _GPU_READY.match(line):
            self.evidence("gpu").ran = True
        elif match := _ACCELERATORS.match(line):
            self.accelerator = match.group(1).lower()
        elif _ACCELERATED.match(line):
            self.accelerated = True

    def _replaced(self, match: re.Match[str]) -> None:
        taken, total, name, parts = match.groups()
        known = delegate_named(name)
        if known is None or not int(taken):
            return
        found = self.evidence(known)
        found.ran = True
        if int(taken) >= found.facts.get("delegated_nodes", 0):  # of several subgraphs the largest
            found.facts |= {"delegated_nodes": int(taken), "graph_parts": int(parts)} | ({"nodes": int(total)} if total else {})
            if int(parts) <= 2:  # one part, or the delegate's and the rest
                found.facts.setdefault("partitions", 1)

    def _gpu_share(self, line: str, taken: int, left: int) -> None:
        found = self.evidence("gpu")
        found.facts.setdefault("nodes", taken + left if taken else left)
        found.facts.setdefault("delegated_nodes", taken)
        if not taken:
            found.refused = line

    def _kernels(self, line: str, found: _Evidence) -> None:
        match = _KERNELS.search(line)
        if match and int(match.group(1) or match.group(2)):
            found.ran, found.facts["partitions"] = True, int(match.group(1) or match.group(2))


def read_delegates(lines: Sequence[str]) -> dict[str, Any]:
    """What :class:`mnv3_tf.export.benchmark.runners.logs.BenchmarkLog` tells of delegates, as far as the lines do.

    Where an accelerator ran a part of the graph, and XNNPACK what it left, the accelerator is named.
    """
    reader = _Reader()
    for line in lines:
        reader.read(line)
    if reader.accelerated and reader.accelerator in ("gpu", "npu"):
        reader.evidence(reader.accelerator).ran = True
    refused = next((item.refused for item in reader.of.values() if item.refused), "")
    ran = [name for name, item in reader.of.items() if item.ran and not item.refused and name != "xnnpack"]
    xnnpack = reader.of.get("xnnpack")
    if not ran and xnnpack and (xnnpack.ran or xnnpack.created) and not xnnpack.refused:
        ran = ["xnnpack"]
    found: dict[str, Any] = {"not_executed": refused, "cpu_only": not ran and (bool(refused) or reader.accelerator == "cpu")}
    return {**found, **({"delegate": ran[0], **reader.of[ran[0]].facts} if ran else {})}
