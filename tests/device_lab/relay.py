"""Passes connections on: ``python relay.py unix PATH PORT`` from a UNIX socket to a TCP port, or ``tcp PATH`` the other way.

A UNIX socket with a path crosses network namespaces, TCP does not. As "tcp" it prints "READY PORT".
"""

import contextlib
import os
import socket
import sys
import threading


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def main(kind: str, path: str, port: str = "0") -> None:
    if kind == "unix":
        with contextlib.suppress(OSError):
            os.unlink(path)
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
    else:
        server = socket.create_server(("127.0.0.1", 0))
        print(f"READY {server.getsockname()[1]}", flush=True)
    while True:
        peer, _ = server.accept()
        other = socket.socket(socket.AF_UNIX if kind == "tcp" else socket.AF_INET)
        try:
            other.connect(path if kind == "tcp" else ("127.0.0.1", int(port)))
        except OSError:
            peer.close()
            continue
        threading.Thread(target=pass_on, args=(peer, other), daemon=True).start()
        threading.Thread(target=pass_on, args=(other, peer), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
