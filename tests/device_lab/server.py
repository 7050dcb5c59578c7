"""The process of a simulated phone: ``python server.py ROOT FEATURES``; prints "READY PORT"."""

import contextlib
import json
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from device_lab.protocol import Connection
from device_lab.state import apply_state, put


def _clockwork(root: Path, connections: list[Connection]) -> None:
    """Does what is to happen at a time: steps of the state, and the pulled cable."""
    steps, pull = root / "data/sim/steps.json", root / "data/sim/pull"
    while True:
        time.sleep(0.02)
        if pull.exists():
            for connection in connections:
                connection.drop()
            pull.unlink()
        with contextlib.suppress(OSError, ValueError):
            waiting = json.loads(steps.read_text())
            due = [step for step in waiting if step[0] <= time.time()]
            for _, state in due:
                apply_state(root, state)
            if due:
                put(steps, json.dumps(waiting[len(due):]))


def main(root: str, features: str) -> None:
    """Serves until it is ended."""
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[Connection] = []
    threading.Thread(target=_clockwork, args=(Path(root), connections), daemon=True).start()
    print(f"READY {server.getsockname()[1]}", flush=True)
    while True:
        peer, _ = server.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[:] = [connection for connection in connections if connection.peer.fileno() >= 0]
        connections.append(Connection(peer, Path(root), features))
        threading.Thread(target=connections[-1].serve, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
