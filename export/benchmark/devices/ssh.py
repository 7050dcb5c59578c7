"""Linux boards, through the system's ssh client and its own configuration (hosts, keys, jump hosts)."""

import re
import shlex
import shutil
from pathlib import Path

from mnv3_tf.errors import InputError, KitError, NoDeviceError
from mnv3_tf.export.benchmark.devices.remote import DeviceLost, RemoteDevice, digest_script, last_line, run_client

# Never asks: a benchmark that waits for a password is a hung one.
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


class SshDevice(RemoteDevice):
    """A board.

    Args:
        host: as for ssh: a name of its configuration, HOST, or USER@HOST.

    Raises:
        NoDeviceError: there is no ssh client.
        InputError: the host is malformed.
    """

    kind = "ssh"
    other_bases = ("/var/tmp", "$HOME", "/dev/shm")

    def __init__(self, host: str):
        if not re.fullmatch(r"[\w.@:%\[\]-]+", host) or host.startswith("-"):
            raise InputError(f"{host!r}: is not a host. Give HOST or USER@HOST, as for ssh.")
        program = shutil.which("ssh")
        if program is None:
            raise NoDeviceError("ssh was not found. Install it (Debian and Ubuntu: apt install openssh-client).")
        super().__init__(host)
        self._words = [program, *_OPTIONS, host]

    def execute(self, script: str, seconds: float) -> tuple[str, str]:
        done = run_client([*self._words, script], f"ssh {self.name}", seconds)
        return done.stdout, done.stderr

    def push(self, local: Path, remote: str, *, executable: bool = False, seconds: float = 300.0) -> None:
        # All in one connection: setting one up takes longer than most files.
        name = shlex.quote(remote)
        mode = f" && chmod 755 {name}" if executable else ""
        script = f"cat > {name}{mode} && {{ {digest_script(remote)}; }}"
        done = run_client([*self._words, script], f"ssh {self.name}", seconds, given=local)
        if done.returncode:
            raise self.push_error(local, remote, done.stdout + done.stderr)
        self.compare_digest(local, remote, done.stdout)

    def pull(self, remote: str, local: Path, *, seconds: float = 300.0) -> None:
        # Text clients would spoil bytes; base64 passes everything.
        answer = self.shell(f"base64 < {shlex.quote(remote)}", seconds=seconds)
        if answer.code:
            raise KitError(f"{self.name}: {remote} cannot be read: {last_line(answer.errors)}")
        import base64

        local.write_bytes(base64.b64decode(answer.output))

    def raise_if_lost(self, text: str, doing: str) -> None:
        low = text.lower()
        if "permission denied (" in low or "host key verification failed" in low:
            raise NoDeviceError(f"{self.name}: ssh is not let in: {last_line(text)}. ssh {self.name} must work without a "
                                "question; set up a key (ssh-copy-id) and accept the host's key once.")
        if any(words in low for words in ("could not resolve", "connection refused", "timed out", "no route to host",
                                          "connection closed", "connection reset", "broken pipe", "not responding")):
            raise DeviceLost(f"{self.name}: ssh failed ({doing}): {last_line(text)}.")
