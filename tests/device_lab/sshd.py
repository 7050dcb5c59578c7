"""A real sshd (OpenSSH's, from Debian's package where it is not installed), with keys and a configuration of its own.

As root it runs in namespaces of its own: it asks for a user and a folder that this machine need not have, nothing of this machine
is changed, and no start-up files of its user are read. Otherwise it lets in only the user who runs the tests.
"""

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from device_lab.downloads import NotHere, debian_packages, loader_of
from device_lab.keeper import MARK, keep, mark
from device_lab.waiting import PATIENCE, wait

_PORTS, _LISTENING = 20, "Server listening on"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SEPARATED = r"""
set -e
grep -v '^sshd:' /etc/passwd | sed "s|^\(root:.*:\)[^:]*\(:[^:]*\)$|\1$W\2|" > "$W/passwd"
echo 'sshd:x:65533:65534::/nonexistent:/usr/sbin/nologin' >> "$W/passwd"
mount --bind "$W/passwd" /etc/passwd; mount -t tmpfs none /run; mkdir -m 755 /run/sshd
exec "$@"
"""


def _program(name: str, package: str) -> list[str]:
    """The words that start an installed program, or that of Debian's package."""
    installed = shutil.which(name, path=_PATH)
    if installed:
        return [installed]
    unpacked = debian_packages([package], "bookworm")
    loader, folders = loader_of(unpacked)
    program = next(path for path in unpacked.rglob(f"bin/{name}" if name != "sshd" else "sbin/sshd"))
    return [str(loader), "--library-path", ":".join(map(str, folders)), str(program)]


class Board:
    """A machine to log in to: this one, through a real sshd on a port of the loopback.

    Args:
        root: an empty folder for keys, configurations and logs.

    Attributes:
        host: what its name is for ssh; a new connection for every command.
        shared: another name, under which commands share a connection.
        bin: a folder with an `ssh` that reads this configuration, for PATH.

    Raises:
        NotHere: there is no sshd or ssh for this machine.
    """

    host, shared = "board", "shared-board"

    def __init__(self, root: Path):
        keep()
        self.root = root
        self._sockets = tempfile.TemporaryDirectory(prefix="ssh-")  # names of sockets must be short
        ssh, keygen = _program("ssh", "openssh-client"), _program("ssh-keygen", "openssh-client")
        sshd = _program("sshd", "openssh-server")
        for name in ("host_key", "user_key"):
            subprocess.run([*keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True, capture_output=True)
        for _ in range(_PORTS):  # another process may be quicker to take the port
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            self._configure(port, ssh)
            self._process = self._start([*sshd, "-D", "-e", "-f", str(root / "sshd_config")], len(sshd) > 1)
            if wait(lambda: _LISTENING in self.log() or self._process.poll() is not None) and self._process.poll() is None:
                return
            self._process.kill()
            self._process.wait()
            if "Address already in use" not in self.log():
                break
        self.close()
        said = self.log().strip().splitlines() or ["it does not listen"]
        raise NotHere(f"sshd does not run here: {said[-1]}")

    def _configure(self, port: int, ssh: list[str]) -> None:
        root = self.root
        (root / "sshd_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host_key\nAuthorizedKeysFile {root}/user_key.pub\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\n" + "".join(f"SetEnv {MARK}={value}\n" for value in mark().values()))
        (root / "ssh_config").write_text(
            f"Host {self.host} {self.shared}\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
            f"  IdentityFile {root}/user_key\n  IdentitiesOnly yes\n  StrictHostKeyChecking yes\n"
            f"  UserKnownHostsFile {root}/known_hosts\n"
            f"Host {self.shared}\n  ControlMaster auto\n  ControlPath {self._sockets.name}/%C\n  ControlPersist 60\n")
        (root / "known_hosts").write_text(f"[127.0.0.1]:{port} {(root / 'host_key.pub').read_text()}")
        self.bin = root / "bin"
        self.bin.mkdir(exist_ok=True)
        (self.bin / "ssh").write_text(f"#!/bin/sh\nexec {shlex.join(ssh)} -F {root}/ssh_config \"$@\"\n")
        (self.bin / "ssh").chmod(0o755)

    def _start(self, words: list[str], fetched: bool) -> "subprocess.Popen[bytes]":
        if fetched:
            words.append("-r")  # it would start itself anew for each connection, without its libraries
        if os.geteuid() == 0:
            if not shutil.which("unshare"):
                raise NotHere("unshare is not installed (Debian: util-linux), and sshd as root would need this machine's state")
            words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", _SEPARATED, "sh",
                     *words]
        with open(self.root / "log", "wb") as log:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    env={"PATH": _PATH, "W": str(self.root), **mark()})

    def log(self) -> str:
        """What sshd said."""
        return (self.root / "log").read_text(errors="replace")

    def close(self) -> None:
        """Ends it, with everything that was started through it."""
        subprocess.run([str(self.bin / "ssh"), "-O", "exit", self.shared], capture_output=True, timeout=PATIENCE)
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        self._sockets.cleanup()
