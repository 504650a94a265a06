"""`make bench`: what a change costs from one device's disk to another's. Prints a table, and JSON.

    python -m ops.bench [W1 W2 W3 W7 start] [--files 10000] [--mib 1024] [--json FILE]

W1 one small file, 30 times · W2 many small files · W3 one large file · W7 idle for 60 s ·
start: cold start of `syncline status`. Standalone server on loopback; every process shares the
machine's cores.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ops.bench import machine
from ops.lab import Device, Lab, Standalone, processes_below, wait_until

MIB = 1024 * 1024
Figures = dict[str, Any]


class Meter:
    """CPU seconds, peak RSS and bytes on the wire of each party, over one workload."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.before = {name: self._cpu_s(pid) for name, pid in self._parties().items()}
        self.wire = self._wire()
        self.begun = time.monotonic()

    def _parties(self) -> dict[str, int]:
        assert isinstance(self.lab.server, Standalone)
        return {"server": self.lab.server.process.process.pid} | {
            device.name: device.pid for device in self.lab.devices
        }

    def _wire(self) -> dict[str, int]:
        totals = [device.status()["bytes"] for device in self.lab.devices]
        return {k: sum(t[k] for t in totals) for k in ("up_total", "down_total")}

    @staticmethod
    def _cpu_s(pid: int) -> float:
        total = 0.0
        for one in processes_below(pid):
            times = psutil.Process(one).cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
        return total

    @staticmethod
    def _memory(pid: int) -> tuple[int, int]:
        """Return PSS now, and the sum of the peaks of RSS, in bytes."""
        pss = peak = 0
        for one in processes_below(pid):
            pss += psutil.Process(one).memory_full_info().pss
            status = Path(f"/proc/{one}/status").read_text()
            peak += int(status.split("VmHWM:")[1].split()[0]) * 1024
        return pss, peak

    def read(self) -> Figures:
        """Return the figures since the meter was made."""
        figures: Figures = {"wall_s": round(time.monotonic() - self.begun, 3)}
        for name, pid in self._parties().items():
            if name in self.before:
                figures[f"{name}_cpu_s"] = round(self._cpu_s(pid) - self.before[name], 3)
            pss, peak = self._memory(pid)
            figures[f"{name}_pss_mb"] = round(pss / 1e6, 1)
            figures[f"{name}_peak_mb"] = round(peak / 1e6, 1)
        now = self._wire()
        figures["wire_up_bytes"] = now["up_total"] - self.wire["up_total"]
        figures["wire_down_bytes"] = now["down_total"] - self.wire["down_total"]
        return figures


def pair(lab: Lab) -> tuple[Device, Device]:
    """Return the two devices, made on first use."""
    if not lab.devices:
        lab.device("a")
        lab.device("b")
    return lab.devices[0], lab.devices[1]


def w1_latency(lab: Lab, options: argparse.Namespace) -> Figures:
    """One 1 KiB file written on A until it is identical on B."""
    a, b = pair(lab)
    meter = Meter(lab)
    taken: list[float] = []
    for number in range(30):
        content = os.urandom(1024)
        there = b.root / f"w1-{number}.bin"
        (a.root / there.name).write_bytes(content)

        def same(path: Path = there, expected: bytes = content) -> bool:
            return path.exists() and path.read_bytes() == expected

        taken.append(wait_until(same, 30, there.name, step_s=0.001) * 1000)
        time.sleep(0.3)
    ordered = sorted(taken)
    return {
        "p50_ms": round(statistics.median(ordered), 1),
        "p95_ms": round(ordered[28], 1),
        "max_ms": round(ordered[-1], 1),
        **meter.read(),
    }


def w2_small_files(lab: Lab, options: argparse.Namespace) -> Figures:
    """Many files of about 4 KiB in 200 folders, moved into A's folder at once."""
    a, b = pair(lab)
    dice = random.Random(2)
    staging = lab.folder / "w2"
    for folder in range(200):
        (staging / f"{folder}").mkdir(parents=True)
    for number in range(options.files):
        size = dice.randrange(2048, 6144)
        (staging / f"{number % 200}" / f"{number}.bin").write_bytes(dice.randbytes(size))
    copied_s = machine.copy_with_fsync(staging, lab.folder / "w2-copy")
    meter = Meter(lab)
    staging.rename(a.root / "w2")

    def arrived() -> bool:
        return sum(len(files) for _, _, files in os.walk(b.root / "w2")) == options.files

    wait_until(arrived, 600, "all files", step_s=0.1)
    lab.settle(600)
    figures = meter.read()
    return {
        "files": options.files,
        "files_per_s": round(options.files / figures["wall_s"], 1),
        "times_plain_copy": round(figures["wall_s"] / copied_s, 2),
        **figures,
    }


def w3_large_file(lab: Lab, options: argparse.Namespace) -> Figures:
    """One incompressible file."""
    a, b = pair(lab)
    staging = lab.folder / "w3.bin"
    with staging.open("wb") as stream:
        for _ in range(options.mib):
            stream.write(os.urandom(MIB))
    write_mib_s = machine.disk_write_mib_s(lab.folder, min(options.mib, 512))
    meter = Meter(lab)
    staging.rename(a.root / "w3.bin")
    there = b.root / "w3.bin"
    wait_until(there.exists, 600, "the large file", step_s=0.05)
    lab.settle(600)
    figures = meter.read()
    twice_s = 2 * options.mib / write_mib_s
    return {
        "mib": options.mib,
        "mib_per_s": round(options.mib / figures["wall_s"], 1),
        "times_disk_limit": round(figures["wall_s"] / twice_s, 2),
        **figures,
    }


def w7_idle(lab: Lab, options: argparse.Namespace) -> Figures:
    """Nothing happens for 60 s."""
    pair(lab)
    lab.settle()
    time.sleep(5)
    meter = Meter(lab)
    time.sleep(60)
    return meter.read()


def start_of_status(lab: Lab, options: argparse.Namespace) -> Figures:
    """Cold start of `syncline status --json` with a running agent."""
    a, _ = pair(lab)
    taken = []
    for _ in range(10):
        begun = time.monotonic()
        a.run("status")
        taken.append((time.monotonic() - begun) * 1000)
    return {"p50_ms": round(statistics.median(taken), 1), "max_ms": round(max(taken), 1)}


WORKLOADS: dict[str, Callable[[Lab, argparse.Namespace], Figures]] = {
    "W1": w1_latency,
    "W2": w2_small_files,
    "W3": w3_large_file,
    "W7": w7_idle,
    "start": start_of_status,
}


def main() -> int:
    """Run the chosen workloads; print a table."""
    parser = argparse.ArgumentParser(prog="ops.bench")
    parser.add_argument("workloads", nargs="*", default=[], metavar="W")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = options.workloads or list(WORKLOADS)
    results: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="syncline-bench-") as folder:
        results["machine"] = machine.limits(Path(folder))
        print("machine", json.dumps(results["machine"]), flush=True)
        with Lab(Path(folder) / "lab", Standalone) as lab:
            for name in chosen:
                results[name] = WORKLOADS[name](lab, options)
                print(f"{name:6}", json.dumps(results[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
