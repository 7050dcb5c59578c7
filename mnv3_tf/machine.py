"""What this process may use of the machine, and what it is."""

import functools
import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """Cores that this process may run on (its affinity)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The CPU's name as the system gives it."""
    return _listed(_CPUINFO, "model name", "Hardware") or platform.processor() or platform.machine() or "unknown"


def _listed(cpuinfo: Path, *names: str) -> str:
    """What the system first lists under one of these names; empty where it lists nothing."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    pairs = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() in names and value.strip()), "")


# What /proc/cpuinfo calls them: VNNI on x86, dotprod on ARM.
_DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "asimddp"}


def has_integer_dot_products(cpuinfo: Path = _CPUINFO) -> bool | None:
    """Whether the processor multiplies and adds 8-bit integers in one instruction; None where the system does not say.

    Without them, an x86 processor computes int8 convolutions no faster than float32 ones.

    Args:
        cpuinfo: where the system lists the processor's features.
    """
    features = _listed(cpuinfo, "flags", "Features").split()
    return not _DOT_PRODUCTS.isdisjoint(features) if features else None


def processor_in_words() -> str:
    """The CPU and whether it has integer dot products."""
    has = has_integer_dot_products()
    return cpu_model() + ("" if has is None else f", {'with' if has else 'without'} integer dot products")


@functools.cache
def memory_bytes() -> int:
    """Memory of this machine, or what a container may use of it; 8 GiB where the system does not say."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        memory = 8 << 30
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdecimal() else memory


def free_memory() -> int | None:
    """Bytes of memory that programs may still take; None where the system does not say."""
    kilobytes = _listed(Path("/proc/meminfo"), "MemAvailable").split()
    return int(kilobytes[0]) * 1024 if kilobytes and kilobytes[0].isdigit() else None
