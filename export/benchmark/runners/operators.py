"""Which operator of a file, and which layer of the network, each time of a profile belongs to.

The runtime runs a part of the graph as one delegate partition, in which XNNPACK names its own operators: "Convolution (NHWC, QC8)
IGEMM", in order, some of them made of several of the file's. They are laid beside the file's operators. A time gets a layer's
name only where exactly one way to do that fits, from the first to the last; otherwise it is said why, and no name is given.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mnv3_tf.export.benchmark.runners.log_profile import OpTime
from mnv3_tf.tflite.file import TfliteFile

# How XNNPACK's names begin, and which of the file's operators they may stand for.
_CONVOLUTIONS = ("CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D")
_KERNELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"Convolution \(.*\) (DWConv|VMulCAddC)", ("DEPTHWISE_CONV_2D",)), (r"Convolution ", _CONVOLUTIONS),
    (r"Fully Connected ", _CONVOLUTIONS), (r"(Mean|Sum) |(Global )?Average Pooling ", ("MEAN", "SUM", "AVERAGE_POOL_2D")),
    (r"Max Pooling ", ("MAX_POOL_2D",)), (r"Add ", ("ADD",)), (r"Subtract ", ("SUB",)), (r"Multiply ", ("MUL",)),
    (r"(Static )?Reshape |Copy ", ("RESHAPE",)), (r"(Constant )?Pad ", ("PAD", "PADV2")), (r"Softmax ", ("SOFTMAX",)),
    (r"Concat", ("CONCATENATION",)), (r"Resize Bilinear ", ("RESIZE_BILINEAR",)))
# One of XNNPACK's may be a chain of several of these, as a table of 256 values.
_ELEMENTWISE = frozenset({"ADD", "SUB", "MUL", "HARD_SWISH", "LOGISTIC", "RELU", "RELU6", "TANH", "QUANTIZE", "DEQUANTIZE"})
_ONE_INPUT = re.compile(r"(Invalid )?Unary|Lookup|LUT|Clamp|Convert|Hard ?Swish|Sigmoid|Tanh|Elu|Leaky")
_LONGEST_CHAIN = 4
# Makes float activations int8 for the convolution behind it, which alone is in the file.
_FOR_THE_NEXT = re.compile(r"Convert .*Q[DP]8")
# A sum of times that is so much above the median of the timed runs is no description of them.
MOST_OF_MEDIAN = 1.25
# The layers' names as mnv3_tf.network.build gives and prints them; that module would load Keras.
_ALONE = "classifier|logits|predictions|rescale|input_units"
_LAYER = re.compile(rf"(?:quant_)?((stem|head|block_\d+|expanded_conv(?:_\d+)?)_(\w+)|{_ALONE})$")
_BLOCK = re.compile(rf"(stem|head|block_\d+|expanded_conv(_\d+)?)/|({_ALONE})$")


@dataclass(frozen=True)
class Event:
    """A time of a profile.

    Attributes:
        name: a kernel's: the file's operator, such as "CONV_2D"; inside a delegate: the delegate's own name.
        mean_ms: of a run.
        index: of the file's operator, for one that the runtime's own kernels ran; None inside a delegate.
    """

    name: str
    mean_ms: float
    index: int | None = None


@dataclass(frozen=True)
class Profile:
    """The times of operators, measured in runs of their own. Milliseconds.

    Attributes:
        ops: with the layers' names where `problem` is "", else with those that the runtime gives.
        method: how they were measured, in words.
        runs: that they are means of.
        low_ms, high_ms: quartiles of all operators' time in a run; None where only means are known.
        problem: why the layers are not known, or "".
    """

    ops: tuple[OpTime, ...]
    method: str
    runs: int
    low_ms: float | None = None
    high_ms: float | None = None
    problem: str = ""

    @property
    def sum_ms(self) -> float:
        """Of all operators."""
        return sum(op.mean_ms for op in self.ops)

    def to_fields(self, median_ms: float | None) -> dict[str, Any]:
        """`ops` and `profile` of a row, as plain values for JSON.

        Args:
            median_ms: of the timed runs of the same row.
        """
        return {"ops": [asdict(op) for op in self.ops],
                "profile": {"method": self.method, "runs": self.runs, "sum_ms": self.sum_ms, "low_ms": self.low_ms,
                            "high_ms": self.high_ms, "of_median": self.sum_ms / median_ms if median_ms else None,
                            "problem": self.problem or None}}

    def flags(self, median_ms: float | None) -> list[str]:
        """What to be careful about, in words."""
        found = [f"profile without layers: {self.problem}"] if self.problem else []
        if median_ms and self.sum_ms > MOST_OF_MEDIAN * median_ms:
            found.append(f"profile: the operators' times add up to {self.sum_ms / median_ms:.2f} times the median, so they are "
                         "too long")
        return found


def layer_of(tensor: str) -> str:
    """The layer that made a tensor, as reports print it: "model/quant_block_07_depthwise/Relu;..." -> "block_07/depthwise"."""
    pieces = [piece for part in tensor.split(";") for piece in part.split("/")]
    for match in filter(None, map(_LAYER.match, pieces)):
        return f"{match.group(2)}/{match.group(3)}" if match.group(2) else match.group(1)
    first = tensor.split(";")[0].split("/")
    return first[1] if len(first) > 2 else first[0]


def block_of(layer: str) -> str:
    """The block of a layer of our networks, or "other": "block_07/depthwise" -> "block_07"."""
    return layer.partition("/")[0] if _BLOCK.match(layer) else "other"


def sum_by_block(ops: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Milliseconds by block, in the network's order, of a row's `ops`; instructions where these were counted."""
    found: dict[str, float] = {}
    for op in ops:
        block = block_of(op["name"])
        found[block] = found.get(block, 0.0) + op.get("instructions", op.get("mean_ms"))
    return found


def name_operators(events: Sequence[Event], file: TfliteFile) -> tuple[tuple[OpTime, ...], str]:
    """Gives each time the layer that it belongs to.

    Args:
        events: of one run, in order.
        file: that ran.

    Returns:
        The times, and why they have no layers, or "".
    """
    merged = _merged(events)
    groups, problem = _matched(merged, file)
    total = sum(event.mean_ms for event in merged) or 1.0
    if problem:
        return tuple(OpTime(event.name, event.name, event.mean_ms, event.mean_ms / total, 1) for event in merged), problem
    ops = []
    block_that_made: dict[int, str] = {}
    for event, group in zip(merged, groups, strict=True):
        own = [file.operators[index] for index in group]
        name = layer_of(file.tensors[own[-1].outputs[0]].name)
        before = block_that_made.get(own[0].inputs[0], "other")
        if block_of(name) == "other" != before and own[0].name in _ELEMENTWISE:  # an activation of a network with other names
            name = f"{before}/{name}"
        block_that_made.update(dict.fromkeys(own[-1].outputs, block_of(name)))
        ops.append(OpTime(name, "+".join(op.name for op in own), event.mean_ms, event.mean_ms / total, 1,
                          "" if event.index is not None else event.name))
    return tuple(ops), ""


def _merged(events: Sequence[Event]) -> list[Event]:
    found: list[Event] = []
    waiting = 0.0
    for event in events:
        if event.index is None and _FOR_THE_NEXT.match(event.name):
            waiting += event.mean_ms
        else:
            found.append(replace(event, mean_ms=event.mean_ms + waiting))
            waiting = 0.0
    return found


def _matched(events: Sequence[Event], file: TfliteFile) -> tuple[list[range], str]:
    """The file's operators for each event; or why that is not known.

    ways[place] counts, for the events so far, how many ways there are that use the operators before `place`.
    """
    count = len(file.operators)
    ways: list[dict[int, int]] = [{0: 1}]
    for number, event in enumerate(events):
        reached: dict[int, int] = {}
        for start, so_far in ways[-1].items():
            for begin in _starts(start, file):
                for end in _ends(event, begin, file):
                    reached[end] = min(2, reached.get(end, 0) + so_far)
        if not reached:
            return [], (f"the profile does not fit the file: its operator {number + 1} of {len(events)} is {event.name!r}, and "
                        f"the file has {_expected(ways[-1], file)} there")
        ways.append(reached)
    complete = [place for place in ways[-1] if count in _starts(place, file)]
    if not complete:
        return [], f"the profile has {len(events)} operators, and the file has more after them"
    if len(complete) > 1 or ways[-1][complete[0]] > 1:
        return [], "the profile fits the file in more than one way"
    return _traced(events, ways, complete[0], file), ""


def _traced(events: Sequence[Event], ways: list[dict[int, int]], place: int, file: TfliteFile) -> list[range]:
    """Back from the end; there is one way only."""
    groups: list[range] = []
    for number in range(len(events) - 1, -1, -1):
        begin, start = next((begin, start) for start in ways[number] for begin in _starts(start, file)
                            if place in _ends(events[number], begin, file))
        groups.append(range(begin, place))
        place = start
    return groups[::-1]


def _starts(place: int, file: TfliteFile) -> list[int]:
    """Where the next event may begin: constants that are unpacked when the file is loaded take no time in a run."""
    found = [place]
    for op in file.operators[place:]:
        if op.name != "DEQUANTIZE" or not file.tensors[op.inputs[0]].is_constant:
            break
        found.append(op.index + 1)
    return found


def _ends(event: Event, begin: int, file: TfliteFile) -> list[int]:
    """Behind which operators an event may end that begins at one."""
    if begin >= len(file.operators):
        return []
    op = file.operators[begin]
    if event.index is not None:
        return [begin + 1] if event.index == begin and event.name == op.name else []
    name = event.name.removeprefix("Delegate/")
    for pattern, kinds in _KERNELS:
        if re.match(pattern, name):
            return [begin + 1] if op.name in kinds else []
    return _chain(begin, file) if _ONE_INPUT.match(name) else []


def _chain(begin: int, file: TfliteFile) -> list[int]:
    """Behind which operators a chain may end in which each takes what another of it made, and nothing but that enters."""
    ends: list[int] = []
    made: set[int] = set()
    entered: set[int] = set()
    for place in range(begin, min(begin + _LONGEST_CHAIN, len(file.operators))):
        op = file.operators[place]
        given = {index for index in op.inputs if index >= 0 and not file.tensors[index].is_constant}
        if op.name not in _ELEMENTWISE or (made and not given & made):
            break
        entered |= given - made
        if len(entered) > 1:
            break
        made.update(op.outputs)
        ends.append(place + 1)
    return ends


def _expected(places: dict[int, int], file: TfliteFile) -> str:
    place = max(places)
    if place >= len(file.operators):
        return "no operator"
    op = file.operators[place]
    return f"{op.name} of {layer_of(file.tensors[op.outputs[0]].name)}"
