"""`livecr restore` in the foreground of a shell: it and the program, whose output is a file, are one job.

A user would have noticed that ^C, ^Z or fg do nothing, or reach only a part of the program; a supervisor a
wrong exit status, or a livecr that sleeps while the program runs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from livecr.kernel import procfs
from tests.integration.conftest import LIVECR, until
from tests.integration.console import Console
from tests.integration.test_consoles import child_of, lives


class Job:
    """The program of tests/programs/job.c, checkpointed when it was a job of a shell, or of nobody."""

    def __init__(self, output: Path, root: int, child: int) -> None:
        self.output = output
        self.root = root
        self.child = child

    def until_told(self, *lines: str) -> None:
        """Since the last time, in any order; and nothing else."""
        until(lambda: len(self._new()) >= len(lines), f"it tells {lines}, not {self._new()}")
        assert sorted(self._new()) == sorted(lines)
        self.output.write_text("")  # written by its own offset: zeros come before it then

    def _new(self) -> list[str]:
        return self.output.read_text().replace("\0", "").splitlines()

    def states(self) -> set[str]:
        return {procfs.state(self.root), procfs.state(self.child)}


@pytest.fixture
def shells(tmp_path: Path) -> Iterator[Callable[[], Console]]:
    """Open terminals with a shell in them."""
    opened: list[Console] = []

    def shell() -> Console:
        opened.append(Console("bash", "--norc", cwd=tmp_path))
        opened[-1].until_seen(r"\$ ")
        return opened[-1]

    yield shell
    for one in opened:
        one.close()


def begin(shell: Console, binary: Path, output: Path) -> Job:
    """Start it in the foreground of a shell, and wait until it is ready."""
    shell.type(f"{binary} < /dev/null > {output} 2>&1\n")
    until(lambda: output.exists() and "ready" in output.read_text(), "the job is ready")
    root = child_of(shell.pid)
    return Job(output, root, child_of(root))


@pytest.fixture
def job(
    shells: Callable[[], Console], program: Callable[[str], Path], livecr: Any, image: Path, tmp_path: Path
) -> Job:
    """As a job of a shell in a terminal that is gone then."""
    first = shells()
    one = begin(first, program("job"), tmp_path / "output")
    livecr("checkpoint", one.root, "-o", image)
    first.until_seen(r"\$ ")
    one.output.write_text("")
    return one


def restore(job: Job, shell: Console, image: Path, more: str = "") -> None:
    """It runs in the shell when this returns; a number may be another process' for a moment."""
    while True:
        shell.type(f"{LIVECR} restore {image} --file-policy any {more}; echo ended $?\n")
        until(lambda: lives(job.root) or shell.shows("ended [0-9]"), "it runs again")
        if lives(job.root):
            return
        assert "is taken by process" in shell.until_seen(r"(?s).*ended [0-9].*\$ ")


def test_a_job_goes_on_as_a_job_of_another_shell(
    job: Job, shells: Callable[[], Console], image: Path
) -> None:
    """^C is for all of its group, ^Z stops all and livecr, fg continues all, once; kill is for the root."""
    second = shells()
    restore(job, second, image)
    second.type("\3")
    job.until_told("parent INT", "child INT")
    for _ in range(2):
        second.type("\x1a")
        second.until_seen("Stopped")
        second.until_seen(r"\$ ")
        until(lambda: job.states() == {"T"}, "all of it is stopped")
        second.type("fg\n")
        job.until_told("parent CONT", "child CONT")
    second.type("\x1a")
    second.until_seen(r"\$ ")
    second.type("bg; kill -USR1 %1\n")
    job.until_told("parent CONT", "child CONT", "parent USR1")
    second.type("kill %1; wait %1; echo status $?\n")
    job.until_told("parent TERM")
    second.until_seen("status 7")


def test_one_that_was_stopped_comes_back_stopped(
    shells: Callable[[], Console], program: Callable[[str], Path], livecr: Any, image: Path, tmp_path: Path
) -> None:
    """The shell is told at once, as it was when it was stopped."""
    first = shells()
    job = begin(first, program("job"), tmp_path / "output")
    first.type("\x1a")
    first.until_seen("Stopped")
    livecr("checkpoint", job.root, "-o", image)
    job.output.write_text("")
    second = shells()
    restore(job, second, image)
    second.until_seen("Stopped")
    assert job.states() == {"T"}
    second.type("fg\n")
    job.until_told("parent CONT", "child CONT")
    second.type("\3")
    job.until_told("parent INT", "child INT")


def test_where_no_shell_could_continue_it_livecr_goes_on(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, image: Path
) -> None:
    """A service's program is stopped and continued: livecr is there when it ends, and tells its status."""
    one = target([program("job")])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    one.signal(signal.SIGSTOP)
    until(lambda: procfs.state(one.pid) == "T", "it is stopped")
    one.signal_livecr(signal.SIGCONT)
    until(lambda: procfs.state(one.pid) == "S" and "parent CONT" in one.output(), "livecr passes that on")
    one.signal(signal.SIGSTOP)
    until(lambda: procfs.state(one.pid) == "T", "it is stopped again")
    one.signal(signal.SIGCONT)
    one.signal_livecr(signal.SIGTERM)
    assert one.wait(20) == 7


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT, signal.SIGUSR2])
def test_it_ends_as_the_program_ends(
    number: signal.Signals,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
    image: Path,
) -> None:
    """Killed by a signal: 128 and its number, as a shell tells it."""
    one = target([program("job")])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    one.signal(number)
    assert one.wait(20) == 128 + number
