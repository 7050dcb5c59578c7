"""A device's CPU cores, and which of them a benchmark may use."""

import re
from dataclasses import dataclass

from mnv3_tf.errors import InputError

_MARK = "MNV3-CORES"
_CORE = re.compile(r"^([0-9]{1,4}) ([0-9]{1,12}) ([0-9]{1,9})(?: ([\w-]+))?[ ]*$", re.MULTILINE)
# A mask has a letter or says that it is one: "10" is the number of a core.
_MASK = re.compile(r"0x[0-9a-f]{1,256}|(?=[0-9a-f]*[a-f])[0-9a-f]{1,256}")
#: Asks a device for its cores; for Android's and any other POSIX shell.
CORES_SCRIPT = f"""
echo {_MARK} $(cat /sys/devices/system/cpu/online 2>/dev/null || echo 0-$(( $(nproc) - 1 )))
for c in /sys/devices/system/cpu/cpu[0-9]*; do \
echo "${{c##*/cpu}} $(cat "$c/cpufreq/cpuinfo_max_freq" 2>/dev/null || echo 0) \
$(cat "$c/cpu_capacity" 2>/dev/null || echo 0) $(cat "$c/cpufreq/scaling_governor" 2>/dev/null || echo -)"; done
true
"""


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind.

    Attributes:
        cpus: their numbers.
        max_mhz: highest clock; 0: not known.
        capacity: the kernel's measure of their speed, 1024 for the fastest; 0: not known.
        governor: that sets their clocks; "": not known; of several, with "and" between them.
    """

    cpus: tuple[int, ...]
    max_mhz: float
    capacity: int
    governor: str = ""


@dataclass(frozen=True)
class CoreLayout:
    """The cores that are online, slowest cluster first."""

    clusters: tuple[Cluster, ...]

    @property
    def cpus(self) -> tuple[int, ...]:
        """All numbers."""
        return tuple(sorted(cpu for cluster in self.clusters for cpu in cluster.cpus))

    def mask(self, choice: str) -> tuple[int | None, str]:
        """A bit mask for taskset, and the cores in words; None for all of them.

        Args:
            choice: "all", "big" (faster than the slowest), "little" (the slowest), "prime" (the fastest), "mid" (between),
                numbers such as "4-7" or "0,2", or a mask such as "0xf0" or "f0" (digits alone are numbers of cores). Where all
                cores are of one kind, every name means all of them, and the words say so.

        Raises:
            InputError: it names no core that is online, or there are no cores between the slowest and the fastest.
        """
        text = choice.strip().lower()
        if text == "all":
            return None, "all"
        named = self._named(text)
        chosen = named if named is not None else _numbers(text)
        if named == set():
            raise InputError(f"{choice!r}: this device has two kinds of cores only, and none between them. Give little or big.")
        if chosen is None:
            raise InputError(f"{choice!r}: is not a choice of cores. Give all, big, little, prime, mid, numbers such as 4-7, or "
                             "a mask such as 0xf0.")
        found = tuple(cpu for cpu in self.cpus if cpu in chosen)
        if not found:
            hint = f" For the mask, give 0x{text}." if re.fullmatch(r"[0-9]{1,4}", text) else ""
            raise InputError(f"{choice!r}: names no core of this device; cpu{spans(self.cpus)} are online.{hint}")
        alone = " (one kind of cores only)" if named is not None and len(self.clusters) == 1 else ""
        kind = f" ({text})" if named is not None else ""
        return sum(1 << cpu for cpu in found), f"cpu{spans(found)}{kind}{alone}"

    def _named(self, text: str) -> set[int] | None:
        first, last = self.clusters[0], self.clusters[-1]
        if len(self.clusters) == 1:
            return set(first.cpus) if text in ("big", "little", "prime", "mid") else None
        groups = {"little": (first,), "big": self.clusters[1:], "prime": (last,), "mid": self.clusters[1:-1]}
        return {cpu for cluster in groups[text] for cpu in cluster.cpus} if text in groups else None


def parse_cores(text: str) -> CoreLayout:
    """Reads what :data:`CORES_SCRIPT` printed.

    Raises:
        InputError: it names no core.
    """
    text = text.replace("\r", "")
    online = re.search(rf"{_MARK} ([\d,-]+)", text)
    allowed = _numbers(online.group(1)) if online else None
    kinds: dict[tuple[int, float], dict[int, str]] = {}
    for cpu, khz, capacity, governor in _CORE.findall(text):
        if allowed is None or int(cpu) in allowed:
            kinds.setdefault((int(capacity), int(khz) / 1000), {})[int(cpu)] = governor.strip("-")
    if not kinds and allowed:
        kinds[0, 0.0] = dict.fromkeys(allowed, "")
    if not kinds:
        raise InputError("the device names no CPU core.")
    known = all(capacity for capacity, _ in kinds)
    order = sorted(kinds.items(), key=lambda item: item[0] if known else (item[0][1], 0.0))
    return CoreLayout(tuple(Cluster(tuple(sorted(cpus)), mhz, capacity, " and ".join(sorted(filter(None, set(cpus.values())))))
                            for (capacity, mhz), cpus in order))


def spans(numbers: tuple[int, ...]) -> str:
    """Such as "0-3,7"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _numbers(text: str) -> set[int] | None:
    """Of "4-7,0" or a mask; None where it is neither."""
    if _MASK.fullmatch(text):
        mask = int(text, 16)
        return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part.strip())
        if not match:
            return None
        found.update(range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1))
    return found
