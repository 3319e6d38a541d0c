"""Everyday programs that compute and write, some with threads: the output is that of an undisturbed run.

Of a restore that is not exact such a program would notice nothing by itself, but its output would: a file
position, a register (the vector registers of a compressor among them) or a page that is not what it was.
"""

from __future__ import annotations

import filecmp
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.fates import FATES, Lives
from tests.integration.conftest import until
from tests.integration.waiting import again

# Each computes for a second or more on as many copies of the text as stand here: the very first start of
# livecr on a machine has modules to compile, and that must not take as long as the first of them computes.
COMMANDS = {
    "xz": (["xz", "-T1", "-2", "-c"], 4),
    "xz-threads": (["xz", "-T2", "-2", "-c", "--block-size=1MiB"], 2),
    "zstd-threads": (["zstd", "-q", "-T2", "-12", "-c"], 7),
    "gzip": (["gzip", "-9", "-n", "-c"], 14),
    "sort": (["sort", "--parallel=2", "--buffer-size=8M", "-k", "3,3", "-k", "7"], 40),
    "openssl": (["openssl", "dgst", "-sha512"], 700),
    "awk": (["awk", "{ for (i = 1; i <= NF; i++) n[$i] += i * NR; print NR, NF, n[$1] }"], 16),
    "perl": (["perl", "-ne", r"for (split) { $n{$_} += length; $s += $n{$_} * $. } print qq($. $s\n)"], 12),
    "dash": (
        ["dash", "-c", "for f; do i=0; while [ $i -lt 40000 ]; do i=$((i + 1)); echo $i; done; done", "dash"],
        10,
    ),
    "bash": (
        [
            "bash",
            "-c",
            "for f; do for ((i = 0; i < 9000; i++)); do a[i % 97]+=$i; echo ${#a}; done; done",
            "bash",
        ],
        10,
    ),
}
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of made-up words, the same in each run."""
    dice = random.Random(1)
    words = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(5000)]
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("".join(" ".join(dice.choices(words, k=12)) + "\n" for _ in range(20_000)))
    return path


def cpu_seconds(pid: int) -> float:
    """What /proc/PID/stat says it has computed, in this life of it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


@pytest.mark.parametrize("fate", [fate for fate in FATES if fate != "restored"])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_output_is_the_same(
    name: str, fate: str, text: Path, target: Callable[..., Any], lives: Lives, tmp_path: Path
) -> None:
    """Three times in the middle of its work, by the CPU time that an undisturbed run takes."""
    words, copies = COMMANDS[name]

    def attempt(number: int) -> None:
        command = [*words, *[str(text)] * (copies << number)]  # more to do, if it was done too soon
        undisturbed = tmp_path / "undisturbed"
        with undisturbed.open("wb") as output:
            child = subprocess.Popen(command, stdout=output, stdin=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        part = (usage.ru_utime + usage.ru_stime) / 7  # three of them before the last checkpoint, four to come
        one = target(command)

        def compute_a_part(_: float) -> None:
            began = cpu_seconds(one.pid)
            until(lambda: one.has_ended() or cpu_seconds(one.pid) >= began + part, "a part is done")

        lives.through(fate, one, tick=compute_a_part)
        assert one.wait() == 0
        assert filecmp.cmp(one.output_file, undisturbed, shallow=False)

    again(attempt)
