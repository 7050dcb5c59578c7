"""Rounds and their waiting for a device to cool, with a clock, a device and a runner that are made up."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mnv3_tf.export.benchmark.devices.state import DeviceState
from mnv3_tf.export.benchmark.measure import BenchmarkSettings, Job, Measurement, Slice, measure
from mnv3_tf.progress import Silent


class MadeUp:
    """Time passes when somebody sleeps, asks for the state (1 s) or runs a slice (10 s)."""

    def __init__(self, temperature: Callable[[float], float]):
        self.seconds, self.slept, self.temperature = 0.0, [], temperature  # type: ignore[var-annotated]

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def state(self) -> DeviceState:
        self.seconds += 1
        return DeviceState(cpu_temperature_c=self.temperature(self.seconds))

    def slice(self, job: Job, runs: int, seconds: float, warmup: int) -> Slice:
        self.seconds += 10
        return Slice((5000.0,), {}, 1.0, 1.0, "xnnpack")

    def memory(self, job: Job) -> tuple[float | None, str]:
        return 1.0, ""

    def profile(self, job: Job, runs: int) -> None:
        raise AssertionError("nobody asked for it")


def measured(world: MadeUp, cool_down: float) -> Measurement:
    settings = BenchmarkSettings(runs=1, min_seconds=1, warmup=0, rounds=3, cool_down=cool_down)
    return measure([Job(Path("m"), 1, None, "all")], world, settings, name="made up", state=world.state,  # type: ignore[arg-type]
                   progress=Silent(), clock=world)


def test_a_device_that_stays_cool_is_not_waited_for() -> None:
    world = MadeUp(lambda seconds: 40 + 8 * (seconds > 5))  # just not too warm
    found = measured(world, 60)
    assert world.slept == [] and found.waited == 0 and found.measuring == 15
    assert [point.seconds for point in found.states] == [0, 11, 22, 33] and found.seconds == 34
    assert found.overhead == pytest.approx(1 - 15 / 34)


def test_a_warm_device_is_waited_for_until_it_is_cool() -> None:
    """After the first round it is too warm for ten seconds."""
    world = MadeUp(lambda seconds: 49 if 5 < seconds < 22 else 40)
    found = measured(world, 60)
    assert world.slept == [3, 3, 3] and found.waited == 12 and found.rounds == 3  # each look takes a second
    assert [point.state.cpu_temperature_c for point in found.states] == [40, 49, 49, 49, 40, 40, 40]


def test_the_waiting_has_a_limit_in_all() -> None:
    """It is waited for in two pauses, and measured although it stays warm."""
    world = MadeUp(lambda seconds: 40 + 20 * (seconds > 5))
    found = measured(world, 9)
    assert world.slept == [3, 3, 1] and found.waited == 10 and len(found.results[0].slices) == 3
    world = MadeUp(lambda seconds: 40 + 20 * (seconds > 5))
    assert measured(world, 0).waited == 0 and world.slept == []
