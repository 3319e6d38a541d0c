"""What scripts/bench runs: interleaved rounds, medians of ratios, a table and a picture.

Memory that was given back to the machine (or to its host) is dear to touch again; so before each timed step
as much is touched and freed, on both sides of a comparison. Nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIVECR = ROOT / ".venv" / "bin" / "livecr"
PICTURE = ROOT / "docs" / "bench.svg"
PROGRAMS = ROOT / "tests" / "programs"
CROWDS = {"1000 threads": ("threads_alike", 1000), "200 processes": ("processes_alike", 200)}
STOPS = "times SIGSTOP, SIGCONT"
MEMORY = Path("/dev/shm")  # a tmpfs

HOLD_MEMORY = """
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    size_t words = strtoull(argv[1], 0, 10) * (1 << 17);
    size_t *memory = mmap(0, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc > 2)
        madvise(memory, words * 8, MADV_HUGEPAGE); /* leaves the machine memory of both sizes to give out */
    for (size_t i = 0; i < words; i++)
        memory[i] = i * 0x9E3779B97F4A7C15;
    puts("ready");
    fflush(stdout);
    return argc > 2 ? 0 : pause();
}
"""


def seconds(command: list[str | Path]) -> tuple[float, str]:
    """The wall time of one command, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    took = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"bench: {command}: {done.stderr}")
    return took, done.stdout


class Target:
    """A program to be checkpointed, ended by its PID whatever happens."""

    def __init__(self, command: list[str | Path], ready: str = "") -> None:
        with tempfile.TemporaryFile() as output:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, close_fds=True
            )
            self.pid = self._child.pid
            while self._child.poll() is None and ready:
                if ready.encode() in os.pread(output.fileno(), 1000, 0):
                    break
                time.sleep(0.01)
        time.sleep(0.05)

    def __enter__(self) -> Target:
        return self

    def reap(self) -> None:
        """The checkpoint has ended it."""
        self._child.wait()

    def __exit__(self, *exc: object) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()


def end_restored(pid: int) -> None:
    """A restored and detached program is nobody's child here."""
    os.kill(pid, signal.SIGKILL)
    while (
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(") ")[1][:1]
    ):
        time.sleep(0.01)


def small(directory: Path) -> dict[str, float]:
    """A sleeping program of a megabyte: whole commands against Python's own start."""
    image = directory / "small.livecr"
    with Target(["sleep", "1000"]) as target:
        python, _ = seconds(["/usr/bin/python3", "-c", "pass"])
        running, told = seconds([LIVECR, "checkpoint", str(target.pid), "-o", image, "--leave-running"])
        shutil.rmtree(image)
        killing, _ = seconds([LIVECR, "checkpoint", str(target.pid), "-o", image])
        target.reap()
        restoring, printed = seconds([LIVECR, "restore", "--detach", image])
    end_restored(int(printed))
    shutil.rmtree(image)
    return {
        "checkpoint": running / python,
        "checkpoint, ending it": killing / python,
        "restore": restoring / python,
        "frozen_ms": frozen(told),
    }


def large(directory: Path, hold: Path, mib: int) -> dict[str, float]:
    """Much dirty memory: whole commands against dd with the same bytes in the same tmpfs."""
    image, copy = directory / "large.livecr", directory / "copy"

    def warm() -> None:
        seconds([hold, str(mib + mib // 4), "end"])

    with Target([hold, str(mib)], "ready") as target:
        warm()
        saving, _ = seconds([LIVECR, "checkpoint", str(target.pid), "-o", image])
        target.reap()
    core = image / f"{target.pid}.core"
    warm()
    reading, _ = seconds(["dd", f"if={core}", "of=/dev/null", "bs=1M", "status=none"])
    warm()
    restoring, printed = seconds([LIVECR, "restore", "--detach", image])
    end_restored(int(printed))
    warm()
    writing, _ = seconds(["dd", f"if={core}", f"of={copy}", "bs=1M", "status=none"])
    copy.unlink()
    shutil.rmtree(image)
    return {"checkpoint": writing / saving, "restore": reading / restoring}


def tasks(root: int) -> dict[int, list[int]]:
    """The threads of a process and of its descendants, by PID."""
    found, pids = {}, [root]
    for pid in pids:
        found[pid] = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        for tid in found[pid]:
            pids += [int(word) for word in Path(f"/proc/{pid}/task/{tid}/children").read_text().split()]
    return found


def stopped_by_signal(root: int) -> float:
    """Seconds to stop all tasks with SIGSTOP, see that they are, and let them go on: the least that a freeze
    of them can take."""
    of_process = tasks(root)
    files = [f"/proc/{pid}/task/{tid}/stat" for pid, tids in of_process.items() for tid in tids]
    began = time.perf_counter()
    for pid in of_process:
        os.kill(pid, signal.SIGSTOP)
    for name in files:
        while True:
            with open(name, "rb", buffering=0) as file:
                if file.read(512).rpartition(b") ")[2][:1] == b"T":
                    break
    for pid in of_process:
        os.kill(pid, signal.SIGCONT)
    return time.perf_counter() - began


def many(directory: Path, program: Path, count: int) -> dict[str, float]:
    """Many threads, or many processes: how long they stand still, against being stopped by a signal."""
    image = directory / "many.livecr"
    with Target([program, str(count)], "ready") as target:
        signalled = stopped_by_signal(target.pid)
        _, told = seconds([LIVECR, "checkpoint", str(target.pid), "-o", image, "--leave-running"])
        pids = list(tasks(target.pid))
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(image)
    frozen_ms = frozen(told)
    return {"ratio": frozen_ms / signalled / 1000, "frozen_ms": frozen_ms}


def frozen(told: str) -> float:
    """The milliseconds for which a program stood still, as livecr says."""
    found = re.search(r"frozen for ([0-9.]+) ms", told)
    assert found, told
    return float(found[1])


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


class Row:
    """One bar: what, its ratio, the bound and whether it is one from above."""

    def __init__(self, what: str, value: float, unit: str, bound: float | None, *, at_most: bool) -> None:
        self.what, self.value, self.unit, self.bound, self.at_most = what, value, unit, bound, at_most

    @property
    def kept(self) -> bool:
        return self.bound is None or (self.value <= self.bound if self.at_most else self.value >= self.bound)

    def __str__(self) -> str:
        sign = "at most" if self.at_most else "at least"
        wanted = "" if self.bound is None else f"{sign} {self.bound:g}: {'kept' if self.kept else 'MISSED'}"
        return f"{self.what:<58}{self.value:8.2f} {self.unit:<22}{wanted}"


def rows(
    little: dict[str, float], much: dict[str, float], mib: int, crowds: dict[str, dict[str, float]]
) -> list[Row]:
    python = "times python3 -c pass"
    return [
        Row("checkpoint of a small program, left running", little["checkpoint"], python, 3, at_most=True),
        Row("checkpoint of a small program, ended", little["checkpoint, ending it"], python, 3, at_most=True),
        Row("restore of a small program", little["restore"], python, None, at_most=True),
        Row("a small program stands still for", little["frozen_ms"], "ms", 10, at_most=True),
        Row(f"checkpoint of {mib} MiB", much["checkpoint"], "of dd's writing speed", 0.5, at_most=False),
        Row(f"restore of {mib} MiB", much["restore"], "of dd's reading speed", 0.5, at_most=False),
        *(
            Row(f"{who} stand still for", one["ratio"], STOPS, None, at_most=True)
            for who, one in crowds.items()
        ),
        *(
            Row(f"{who} stand still for", one["frozen_ms"], "ms", None, at_most=True)
            for who, one in crowds.items()
        ),
    ]


def draw(table: list[Row]) -> str:
    """The table as bars; the line is the bound, where there is one."""
    width, left, height = 860, 330, 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height * len(table) + 50}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="22" font-weight="bold">livecr: medians of ratios, each measured in one run '
        "(line: the bound that is to be kept)</text>",
    ]
    for i, row in enumerate(table):
        top = 36 + i * height
        scale = 250 / max(row.value, row.bound or 0, 1e-9)
        color = "#3a7d44" if row.kept else "#b33a3a"
        parts.append(f'<text x="{left - 8}" y="{top + 18}" text-anchor="end">{row.what}</text>')
        parts.append(
            f'<rect x="{left}" y="{top + 4}" width="{row.value * scale:.1f}" height="20" fill="{color}"/>'
        )
        if row.bound is not None:
            at = f'x1="{left + row.bound * scale:.1f}" x2="{left + row.bound * scale:.1f}"'
            parts.append(f'<line {at} y1="{top}" y2="{top + 28}" stroke="black" stroke-width="2"/>')
        parts.append(f'<text x="{left + 262}" y="{top + 18}">{row.value:.2f} {row.unit}</text>')
    return "\n".join([*parts, "</svg>", ""])


def repeat(rounds: int, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    measure()  # the first one loads caches
    return medians([measure() for _ in range(rounds)])


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    mib = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="livecr-bench-") as name:
        directory = Path(name)
        hold = directory / "hold"
        subprocess.run(["gcc", "-O2", "-x", "c", "-o", hold, "-"], input=HOLD_MEMORY, text=True, check=True)
        crowds = {}
        for who, (program, count) in CROWDS.items():
            source, built = PROGRAMS / f"{program}.c", directory / program
            subprocess.run(["gcc", "-O2", "-pthread", "-o", built, source], check=True)
            crowds[who] = repeat(rounds, partial(many, directory, built, count))
        table = rows(
            repeat(3 * rounds, lambda: small(directory)),
            repeat(rounds, lambda: large(directory, hold, mib)),
            mib,
            crowds,
        )
    print(*table, sep="\n")
    PICTURE.write_text(draw(table))
    print(f"drawn: {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
