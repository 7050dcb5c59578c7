"""Kinds of cores, and masks of them."""

import os
import subprocess
from pathlib import Path

import pytest
from device_lab.tree import write_tree
from device_lab.waiting import PATIENCE
from hypothesis import given
from hypothesis import strategies as st

from mnv3_tf.errors import InputError
from mnv3_tf.export.benchmark.devices.cores import CORES_SCRIPT, Cluster, CoreLayout, parse_cores, spans


def layout(*kinds: tuple[int, int, int], online: str = "") -> CoreLayout:
    """Cores from (number, kHz, capacity) of each kind."""
    cpus = [(khz, capacity) for count, khz, capacity in kinds for _ in range(count)]
    lines = "".join(f"{cpu} {khz} {capacity} schedutil\n" for cpu, (khz, capacity) in enumerate(cpus))
    return parse_cores(f"MNV3-CORES {online or f'0-{len(cpus) - 1}'}\n{lines}")


THREE = layout((4, 1804800, 325), (3, 2419200, 828), (1, 2841600, 1024))
TWO = layout((6, 1800000, 400), (2, 2200000, 1024))
ONE = layout((4, 1500000, 0))


def test_the_script_in_a_real_shell(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-2,4-7\n")
    (tmp_path / "sys/devices/system/cpu/cpu7/cpufreq/scaling_governor").write_text("performance\n")
    script = CORES_SCRIPT.replace("/sys/", f"{tmp_path}/sys/")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE,
                          env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0 and done.stderr == ""
    assert parse_cores(done.stdout.replace("\n", "\r\n")).clusters == (
        Cluster((0, 1, 2), 1804.8, 325, "schedutil"), Cluster((4, 5, 6), 2419.2, 828, "schedutil"),
        Cluster((7,), 2841.6, 1024, "performance"))


@pytest.mark.parametrize(("cores", "choice", "mask", "text"), [
    (THREE, "big", 0xF0, "cpu4-7 (big)"), (THREE, "prime", 0x80, "cpu7 (prime)"), (THREE, "mid", 0x70, "cpu4-6 (mid)"),
    (THREE, " Little ", 0x0F, "cpu0-3 (little)"), (THREE, "f0", 0xF0, "cpu4-7"), (THREE, "0xF0", 0xF0, "cpu4-7"),
    (THREE, "0x10", 0x10, "cpu4"), (THREE, "4,5", 0x30, "cpu4-5"), (THREE, "0-1,7", 0x83, "cpu0-1,7"),
    (TWO, "big", 0xC0, "cpu6-7 (big)"), (TWO, "prime", 0xC0, "cpu6-7 (prime)"),
    (ONE, "little", 0x0F, "cpu0-3 (little) (one kind of cores only)"),
    (ONE, "big", 0x0F, "cpu0-3 (big) (one kind of cores only)")])
def test_choices(cores: CoreLayout, choice: str, mask: int, text: str) -> None:
    assert cores.mask(choice) == (mask, text)


@pytest.mark.parametrize(("cores", "choice", "words"), [
    (THREE, "0x300", "names no core of this device; cpu0-7 are online"), (THREE, "30", "For the mask, give 0x30"),
    (THREE, "9-4", "names no core"), (TWO, "mid", "two kinds of cores only.*Give little or big"),
    (THREE, "fast", "is not a choice of cores"), (THREE, "", "is not a choice of cores"),
    (THREE, "-1", "is not a choice of cores"), (THREE, "4-99999", "is not a choice of cores"),
    (layout((8, 1, 1), online="0-3"), "4-7", "cpu0-3 are online")])
def test_wrong_choices(cores: CoreLayout, choice: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        cores.mask(choice)


def test_order_is_by_capacity_and_else_by_clock() -> None:
    assert layout((2, 2000000, 1024), (2, 2500000, 500)).mask("big")[0] == 0b0011
    assert layout((2, 2000000, 0), (2, 2500000, 0)).mask("big")[0] == 0b1100
    # Where not all tell their capacity, the clock decides.
    assert layout((2, 2000000, 1024), (2, 2500000, 0)).mask("big")[0] == 0b1100


def test_devices_that_say_little() -> None:
    assert parse_cores("MNV3-CORES 0-3\n").cpus == (0, 1, 2, 3)
    assert parse_cores("MNV3-CORES\n0 1000 5\n1 1000 5\n").cpus == (0, 1)
    with pytest.raises(InputError, match="names no CPU core"):
        parse_cores("Permission denied")
    assert THREE.clusters[2] == Cluster((7,), 2841.6, 1024, "schedutil")


@given(st.sets(st.integers(0, 7), min_size=1))
def test_lists_and_masks_agree(cpus: set[int]) -> None:
    mask = sum(1 << cpu for cpu in cpus)
    assert THREE.mask(",".join(map(str, cpus))) == THREE.mask(hex(mask)) == THREE.mask(spans(tuple(cpus)))
    assert THREE.mask(hex(mask)) == (mask, f"cpu{spans(tuple(sorted(cpus)))}")


@pytest.mark.slow
@given(st.one_of(st.text(max_size=100), st.text("0123456789 -,\nMNV3CORES", max_size=60)),
       st.text("0123456789abcdefx,- ²", max_size=12))
def test_any_text_is_read_or_refused(text: str, choice: str) -> None:
    for cores in (lambda: THREE, lambda: parse_cores(f"MNV3-CORES {text}")):
        try:
            mask, words = cores().mask(choice)
        except InputError as error:
            assert "\n" not in str(error) or "\n" in choice
        else:
            assert words and mask
