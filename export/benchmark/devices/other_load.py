"""What else a device did during a measurement: the CPU time of its other processes between two moments, by name.

Only names are kept, and those only of the busiest; numbers of processes never leave this module's objects.
"""

import re
from dataclasses import dataclass, field
from typing import Any

#: Prints the seconds since the device started, the numbers of its shell and of what started that, and of every process its
#: number, its parent's, its CPU time in user and system mode in ticks, and its name. A tick of these files is a hundredth of a
#: second everywhere.
PROCESSES_SCRIPT = (
    "value_of /proc/uptime; echo \"$v\"; echo \"$$ $PPID\"; cat /proc/[0-9]*/stat 2>/dev/null | "
    r"sed -nE 's/^([0-9]+) \((.*)\) [A-Za-z] ([0-9]+)( [-0-9]+){9} ([0-9]+) ([0-9]+) .*/\1 \3 \5 \6 \2/p'")
_TICKS = 100.0
_LINE = re.compile(r"^([0-9]{1,9}) ([0-9]{1,9}) ([0-9]{1,15}) ([0-9]{1,15}) (.*)$", re.MULTILINE)
# Of what a kernel's thread is called, the part that is the same on every device.
_KERNEL_THREAD = re.compile(r"^(kworker|ksoftirqd|migration|rcu\w*|irq|cpuhp|kswapd)\b.*")
#: Share of the cores that a row used above which other processes are said in its flags.
MOST_OTHER = 0.10
_NAMED, _SAID = 3, 0.01


@dataclass(frozen=True)
class ProcessTimes:
    """CPU time of the processes that run at a moment.

    Attributes:
        uptime_s: seconds since the device started.
        used_s: number of a process -> its name, and the seconds of CPU time that it has used.
    """

    uptime_s: float
    used_s: dict[int, tuple[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class OtherLoad:
    """What other processes used between two moments.

    Attributes:
        cores: CPU seconds per second, so 1.0 is one core all the time.
        busiest: the same of the busiest names, the busiest first.
    """

    cores: float
    busiest: tuple[tuple[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"cores": round(self.cores, 3), "busiest": {name: round(cores, 3) for name, cores in self.busiest}}

    def sentence(self) -> str:
        """Such as "0.42 cores (system_server 0.30, surfaceflinger 0.12)"."""
        names = ", ".join(f"{name} {cores:.2f}" for name, cores in self.busiest)
        return f"{self.cores:.2f} cores{f' ({names})' if names else ''}"


def parse_processes(text: str) -> ProcessTimes | None:
    """Reads what :data:`PROCESSES_SCRIPT` printed; None where a device does not say it."""
    head, _, rest = text.lstrip().partition("\n")
    uptime = re.match(r"([0-9]{1,12}(?:\.[0-9]+)?)\b", head)
    if uptime is None:
        return None
    own_line, _, rest = rest.partition("\n")
    own = own_line.split()
    used = {int(pid): (_KERNEL_THREAD.sub(r"\1", name).strip(), (int(user) + int(system)) / _TICKS)
            for pid, parent, user, system, name in _LINE.findall(rest) if pid not in own and parent not in own[:1]}
    # Where processes of other users are hidden, the first of all is too, and what is seen says nothing of the device.
    return ProcessTimes(float(uptime.group(1)), used) if 1 in used else None


def other_load(before: ProcessTimes | None, after: ProcessTimes | None) -> OtherLoad | None:
    """What processes that run at the second moment used since the first; None where that is not known.

    The programs that measure have ended by then, so they are not among them, and neither is any other short-lived one.
    """
    if before is None or after is None or after.uptime_s <= before.uptime_s:
        return None
    seconds = after.uptime_s - before.uptime_s
    spent: dict[str, float] = {}
    for pid, (name, used) in after.used_s.items():
        known, earlier = before.used_s.get(pid, (name, 0.0))
        since = used - earlier if known == name else used
        spent[name] = spent.get(name, 0.0) + max(0.0, since) / seconds
    busiest = [item for item in sorted(spent.items(), key=lambda item: -item[1])[:_NAMED] if item[1] >= _SAID]
    return OtherLoad(sum(spent.values()), tuple(busiest))


def load_flags(found: OtherLoad | None, threads: int) -> list[str]:
    """Whether other processes took more than :data:`MOST_OTHER` of the cores that a row's threads use, in words."""
    if found is None or found.cores <= MOST_OTHER * threads:
        return []
    return [f"busy device: other processes took {found.sentence()} during the measurement, and the row used {threads}"]
