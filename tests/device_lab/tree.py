"""The file tree of a test phone: /data, /system with small commands of Android's, /sys and /proc/cpuinfo."""

from pathlib import Path

PROPERTIES = {
    "ro.product.name": "simphone", "ro.product.model": "Sim Phone", "ro.product.device": "sim",
    "ro.product.manufacturer": "Simulated", "ro.product.cpu.abi": "x86_64", "ro.product.cpu.abilist": "x86_64",
    "ro.build.version.release": "14", "ro.build.version.sdk": "34",
    "ro.build.fingerprint": "sim/simphone/sim:14/SIM1/1:user/release-keys", "ro.soc.manufacturer": "SimSoC",
    "ro.soc.model": "SS8000", "ro.serialno": "SIM0001"}
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  status: 2
  health: 2
  level: {level}
  scale: 100
  temperature: {tenths}
"""
THERMAL = """IsStatusOverride: false
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=1.0, mType=0, mName=CPU0, mStatus=0}}
Current temperatures from HAL:
\tTemperature{{mValue=34.2, mType=3, mName=skin, mStatus=0}}
\tTemperature{{mValue={cpu}, mType=0, mName=CPU0, mStatus=0}}
"""
POWER = "  mWakefulness=Awake\n  mLowPowerModeEnabled=false\n"
# First CPU, number, highest clock in kHz, capacity.
CLUSTERS = ((0, 4, 1804800, 325), (4, 3, 2419200, 828), (7, 1, 2841600, 1024))

# Under the simulated phone SYSROOT is its folder; under a real adbd, which sees the tree as its own root, it is empty.
COMMANDS = {
    "getprop": 'P="$SYSROOT/data/sim/props"\nv=$(sed -n "s|^$1=||p" "$P" | tail -1); echo "${v:-$2}"',
    "dumpsys": 'f="$SYSROOT/data/sim/dumpsys/$1"\n[ -f "$f" ] && exec cat "$f"; echo "Can\'t find service: $1" >&2; exit 20',
    "uname": 'case "$1" in -m) echo x86_64;; *) echo "Linux localhost 5.10.0-sim";; esac',
    "cmd": 'echo "cmd $*" >> "$SYSROOT/data/sim/calls.log"',
    # The mask is checked against the phone's cores, and then nothing is pinned: this machine has others.
    "taskset": 'm=$1; shift\nn=$(ls -d "$SYSROOT"/sys/devices/system/cpu/cpu[0-9]* | wc -l)\n'
               'if [ $(( 0x$m & ((1<<n)-1) )) -eq 0 ]; then echo "taskset: bad mask: Invalid argument" >&2; exit 1; fi\n'
               'echo "taskset $m" >> "$SYSROOT/data/sim/calls.log"; exec "$@"',
}


def write_tree(root: Path, properties: dict[str, str] | None = None,
               clusters: tuple[tuple[int, int, int, int], ...] = CLUSTERS) -> None:
    """Writes the tree of a phone into a folder."""
    for folder in ("data/local/tmp", "data/sim/dumpsys", "system/bin", "sdcard", "proc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    values = {**PROPERTIES, **(properties or {})}
    (root / "data/sim/props").write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    for name, body in COMMANDS.items():
        program = root / "system/bin" / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    set_state(root)
    cpu = root / "sys/devices/system/cpu"
    total = sum(count for _, count, _, _ in clusters)
    _put(cpu / "online", f"0-{total - 1}")
    for first, count, khz, capacity in clusters:
        for number in range(first, first + count):
            for name, value in (("cpuinfo_max_freq", khz), ("scaling_max_freq", khz), ("scaling_cur_freq", khz),
                                ("scaling_governor", "schedutil")):
                _put(cpu / f"cpu{number}/cpufreq/{name}", str(value))
            _put(cpu / f"cpu{number}/cpu_capacity", str(capacity))
    for number, (kind, value) in enumerate((("cpu-0-0", 41000), ("gpuss-0", 39500), ("broken", -274000))):
        _put(root / f"sys/class/thermal/thermal_zone{number}/type", kind)
        _put(root / f"sys/class/thermal/thermal_zone{number}/temp", str(value))
    _put(root / "proc/cpuinfo", "".join(f"processor\t: {number}\n\n" for number in range(total)) + "Hardware\t: SimSoC SS8000")


def set_state(root: Path, *, level: int = 84, cpu: float = 41.0, status: int = 0) -> None:
    """Sets battery level, CPU temperature and thermal status."""
    folder = root / "data/sim/dumpsys"
    (folder / "battery").write_text(BATTERY.format(level=level, tenths=271))
    (folder / "thermalservice").write_text(THERMAL.format(status=status, cpu=cpu))
    (folder / "power").write_text(POWER)
    _put(root / "sys/class/thermal/thermal_zone0/temp", str(int(cpu * 1000)))


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
