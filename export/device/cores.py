"""A device's CPU cores, and which of them a benchmark may use."""

import re
from dataclasses import dataclass

from mnv3_tf.errors import InputError

_MARK = "MNV3-CORES"
#: Asks a device for its cores; for Android's and any other POSIX shell.
CORES_SCRIPT = f"""
echo {_MARK} $(cat /sys/devices/system/cpu/online 2>/dev/null || echo 0-$(( $(nproc) - 1 )))
for c in /sys/devices/system/cpu/cpu[0-9]*; do \
echo "${{c##*/cpu}} $(cat "$c/cpufreq/cpuinfo_max_freq" 2>/dev/null || echo 0) \
$(cat "$c/cpu_capacity" 2>/dev/null || echo 0)"; done
true
"""


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind: their numbers, highest clock in MHz (0 where not known) and capacity (0 where not known)."""

    cpus: tuple[int, ...]
    max_mhz: float
    capacity: int


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
                numbers such as "4-7" or "0,2", or a mask such as "0xf0".

        Raises:
            InputError: it names no core that is online.
        """
        text = choice.strip().lower()
        if text == "all":
            return None, "all"
        named = self._named(text)
        chosen = named if named is not None else _numbers(text)
        if chosen is None:
            raise InputError(f"{choice!r}: is no choice of cores. Give all, big, little, prime, mid, numbers such as 4-7, or a "
                             "mask such as 0xf0.")
        found = tuple(cpu for cpu in self.cpus if cpu in chosen)
        if not found:
            raise InputError(f"{choice!r}: names no core of this device; cpu{spans(self.cpus)} are online.")
        alone = " (one kind of cores only)" if named is not None and len(self.clusters) == 1 else ""
        kind = f" ({text})" if named is not None else ""
        return sum(1 << cpu for cpu in found), f"cpu{spans(found)}{kind}{alone}"

    def _named(self, text: str) -> set[int] | None:
        first, last = self.clusters[0], self.clusters[-1]
        if len(self.clusters) == 1:
            return set(first.cpus) if text in ("big", "little", "prime", "mid") else None
        groups = {"little": (first,), "big": self.clusters[1:], "prime": (last,), "mid": self.clusters[1:-1] or (first,)}
        return {cpu for cluster in groups[text] for cpu in cluster.cpus} if text in groups else None


def parse_cores(text: str) -> CoreLayout:
    """Reads what :data:`CORES_SCRIPT` printed.

    Raises:
        InputError: it names no core.
    """
    text = text.replace("\r", "")
    online = re.search(rf"{_MARK} ([\d,-]+)", text)
    allowed = _numbers(online.group(1)) if online else None
    kinds: dict[tuple[int, float], list[int]] = {}
    for cpu, khz, capacity in re.findall(r"^(\d+) (\d+) (\d+)\s*$", text, re.MULTILINE):
        if allowed is None or int(cpu) in allowed:
            kinds.setdefault((int(capacity), int(khz) / 1000), []).append(int(cpu))
    if not kinds and allowed:
        kinds[0, 0.0] = sorted(allowed)
    if not kinds:
        raise InputError("the device names no CPU core.")
    known = all(capacity for capacity, _ in kinds)
    order = sorted(kinds.items(), key=lambda item: item[0] if known else (item[0][1], 0.0))
    return CoreLayout(tuple(Cluster(tuple(sorted(cpus)), mhz, capacity) for (capacity, mhz), cpus in order))


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
    if re.fullmatch(r"0x[0-9a-f]+", text) or re.fullmatch(r"[0-9a-f]*[a-f][0-9a-f]*", text):
        mask = int(text, 16)
        return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match or int(match.group(2) or match.group(1)) > 4096:
            return None
        found.update(range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1))
    return found
