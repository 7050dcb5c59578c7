"""Figures of a run for TensorBoard, written at once, so that a full disk is met where it can be said."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from mnv3_tf.files import writing


class EventFile:
    """One file of a sitting.

    Args:
        folder: made where it is missing.

    Raises:
        KitError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Adds the figures of an epoch.

        Raises:
            KitError: the file cannot be written.
        """
        with writing(self._folder):
            for name, value in figures.items():
                self._writer.write_event(Event(summary=scalar(name, value), step=number, wall_time=time.time()))
            self._writer.flush()
