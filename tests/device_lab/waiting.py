"""Waiting for a condition: it ends as soon as that holds, and its limit is far above what any machine needs."""

import time
from collections.abc import Callable

PATIENCE = 240.0


def wait(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Waits until a condition holds, and gives whether it does."""
    until, pause = time.monotonic() + seconds, 0.005
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(0.1, 1.5 * pause)
    return True
