"""A log's lines without what surrounds them (logcat's columns, levels, source files, carriage returns), and its numbers."""

import math
import re
from dataclasses import dataclass

#: A number as C++ streams print it, also in scientific notation, or what is printed where there is none.
NUMBER = r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|nan|inf)"
_DAY = r"(?:\d{4}-)?\d\d-\d\d \d\d:\d\d:\d\d\.\d+"
# What a line may begin with; one may come behind another. The group `level`, where there is one, says how grave the line is.
_PREFIXES = tuple(re.compile(pattern, re.ASCII) for pattern in (
    rf"^{_DAY}(?: [+-]\d{{4}})?\s+(?:\w+\s+)?\d+\s+\d+\s+(?P<level>[VDIWEFS])\s+(?P<tag>[^:]*?)\s*:(?:\s|$)",  # logcat
    rf"^(?:{_DAY}\s+)?(?P<level>[VDIWEFS])/(?P<tag>[\w.-]+)\s*(?:\(\s*\d+\))?\s*:(?:\s|$)",  # logcat -v time, brief and tag
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: (?P<level>[IWEF]) \S+:\d+\](?:\s|$)",  # TensorFlow
    r"^(?P<level>[IWEF])\d{4} [\d:.]+\s+\d+ \S+:\d+\](?:\s|$)",  # Abseil
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:,\d+)? (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+:(?:\s|$)",  # Python
    r"^(?P<level>VERBOSE|DEBUG|INFO|WARN|WARNING|ERROR|FATAL):(?:\s|$)",  # TFLite
    r"^\[[^\[\]\s]+:\d+\](?:\s|$)",  # LiteRT's source file and line
))
_LEVELS = {"W": "WARN", "WARNING": "WARN", "E": "ERROR", "F": "ERROR", "FATAL": "ERROR", "CRITICAL": "ERROR"}
# Of logcat's lines only those of the runtime say something about this run by their level.
_OWN_TAGS = re.compile(r"tflite|litert|benchmark", re.IGNORECASE)
# Two streams in one: a level that sticks to the end of something else begins a line of its own.
_GLUED = re.compile(r"(?<=[^\s\"'(\[/])(?<![A-Z])(?=(?:VERBOSE|INFO|WARN|WARNING|ERROR): )")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Line:
    """A line of a log.

    Attributes:
        text: without prefixes and surrounding blanks.
        level: "WARN", "ERROR", another word for less grave ones, or "" where the line does not say.
    """

    text: str
    level: str


def split_lines(text: str) -> list[Line]:
    """Cuts a log into its lines; old versions of adb end them with several carriage returns."""
    found = []
    for raw in re.split(r"\r+\n|\n|\r", _COLOURS.sub("", text)):
        found += [_line(piece) for piece in _GLUED.split(raw)]
    return found


def _line(text: str) -> Line:
    text, level = text.strip(), ""
    while match := next((found for prefix in _PREFIXES if (found := prefix.match(text))), None):
        groups = match.groupdict()
        if groups.get("level") and (groups.get("tag") is None or _OWN_TAGS.search(groups["tag"])):
            level = _LEVELS.get(groups["level"], groups["level"])
        text = text[match.end():].strip()
    return Line(text, level)


def read_number(text: str) -> float | None:
    """A finite number, or None."""
    value = float(text) if re.fullmatch(NUMBER, text.strip()) else math.nan
    return value if math.isfinite(value) else None
