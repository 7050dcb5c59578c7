"""The process of a simulated phone: ``python server.py ROOT FEATURES``; prints "READY PORT".

SIGUSR1 pulls the cable: every connection breaks, and it prints "PULLED".
"""

import signal
import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from device_lab.protocol import Connection


def main(root: str, features: str) -> None:
    """Serves until it is ended."""
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[Connection] = []

    def pull(*_: object) -> None:
        for connection in connections:
            connection.drop()
        print("PULLED", flush=True)

    signal.signal(signal.SIGUSR1, pull)
    print(f"READY {server.getsockname()[1]}", flush=True)
    while True:
        peer, _ = server.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[:] = [connection for connection in connections if connection.peer.fileno() >= 0]
        connections.append(Connection(peer, Path(root), features))
        threading.Thread(target=connections[-1].serve, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
