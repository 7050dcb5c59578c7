"""A simulated phone, for the real adb client."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from device_lab.tree import set_state, write_tree


class SimulatedPhone:
    """A phone that listens on this machine, as a process of its own.

    Args:
        root: its folder.
        properties: of Android, changed.
        shell_v2: whether its adbd tells exit codes.
        faults: see :mod:`device_lab.protocol`.

    Attributes:
        serial: what adb calls it.
    """

    def __init__(self, root: Path, *, properties: dict[str, str] | None = None, shell_v2: bool = True, **faults: Any):
        self.root = root
        write_tree(root, properties)
        self.set_faults(**faults)
        features = "cmd,stat_v2,ls_v2,fixed_push_mkdir" + (",shell_v2" if shell_v2 else "")
        self._process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("protocol.py")), str(root), features],
                                         stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.serial = f"127.0.0.1:{self._process.stdout.readline().split()[1]}"

    def set_faults(self, **faults: Any) -> None:
        """Sets what goes wrong from now on; nothing where none is given."""
        (self.root / "data/sim/faults.json").write_text(json.dumps(faults))

    def set_state(self, **state: Any) -> None:
        """Sets battery, temperature and thermal status, see :func:`device_lab.tree.set_state`."""
        set_state(self.root, **state)

    def left(self) -> list[str]:
        """What lies in /data/local/tmp."""
        return sorted(path.name for path in (self.root / "data/local/tmp").iterdir())

    def calls(self) -> str:
        """What the phone's commands noted."""
        log = self.root / "data/sim/calls.log"
        return log.read_text() if log.exists() else ""

    def running(self) -> list[str]:
        """Command lines of the processes that run from the phone's folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                except OSError:
                    continue
                if f"{self.root}/data/local/tmp/" in line:
                    found.append(line)
        return found

    def settled(self, seconds: float = 5.0) -> bool:
        """Waits until nothing is left and nothing runs."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.left() and not self.running():
                return True
            time.sleep(0.05)
        return False

    def close(self) -> None:
        """Switches it off."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
