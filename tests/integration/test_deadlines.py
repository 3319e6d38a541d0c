"""A program that waits knows until when; livecr must read the same moment out of the kernel.

The program of each test is blocked in one call and has said its own deadline. It would notice nothing: it is
looked at as it runs, or frozen and let go again, and the kernel goes on with its call by itself.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from livecr import cli
from livecr.kernel import clock
from livecr.kernel.bpf import TaskIterator, TaskState, Unavailable
from livecr.restore import read as read_image
from livecr.target.freeze import freeze, thaw
from livecr.waits import restart
from livecr.waits.catalog import CATALOG
from livecr.waits.classify import Wait, classify_all
from livecr.waits.deadlines import Evidence, moment
from livecr.waits.live import LiveWait, live_waits, obstacles_before_freeze, waiting_calls
from tests.integration.conftest import Disturbed
from tests.integration.waiting import again

SOURCE = Path(__file__).parent.parent / "programs" / "wait_until.c"
MINUTE_MS = 60_000
NS_PER_MS = 1_000_000

#: kind -> (name of the call, restart code, what the restart block is called)
RESTARTED = {
    "nanosleep": ("nanosleep", restart.ERESTART_RESTARTBLOCK, "nanosleep"),
    "relative-realtime": ("clock_nanosleep", restart.ERESTART_RESTARTBLOCK, "nanosleep"),
    "relative-monotonic": ("clock_nanosleep", restart.ERESTART_RESTARTBLOCK, "nanosleep"),
    "relative-boottime": ("clock_nanosleep", restart.ERESTART_RESTARTBLOCK, "nanosleep"),
    "relative-tai": ("clock_nanosleep", restart.ERESTART_RESTARTBLOCK, "nanosleep"),
    "futex-wait": ("futex", restart.ERESTART_RESTARTBLOCK, "futex"),
    "futex-bitset-monotonic": ("futex", restart.ERESTART_RESTARTBLOCK, "futex"),
    "futex-bitset-realtime": ("futex", restart.ERESTART_RESTARTBLOCK, "futex"),
    "poll": ("poll", restart.ERESTART_RESTARTBLOCK, "poll"),
}
REDONE = {
    "absolute-realtime": ("clock_nanosleep", restart.ERESTARTNOHAND, ""),
    "absolute-monotonic": ("clock_nanosleep", restart.ERESTARTNOHAND, ""),
    "absolute-boottime": ("clock_nanosleep", restart.ERESTARTNOHAND, ""),
    "absolute-tai": ("clock_nanosleep", restart.ERESTARTNOHAND, ""),
    "ppoll": ("ppoll", restart.ERESTARTNOHAND, ""),
    "select": ("select", restart.ERESTARTNOHAND, ""),
}
ENDED_BY_A_FREEZE = {
    "epoll": "epoll_wait",
    "sigtimedwait": "rt_sigtimedwait",
    "semtimedop": "semtimedop",
    "rcvtimeo": "recvfrom",
}
NAMES = {kind: name for kind, (name, _, _) in (RESTARTED | REDONE).items()} | ENDED_BY_A_FREEZE


class Waiter:
    """The running program. Its call was entered between the deadline's reckoning and ``seen_ns``."""

    def __init__(self, process: subprocess.Popen[bytes], milliseconds: int) -> None:
        assert process.stdout is not None
        self.pid = process.pid
        self.process = process
        self.timeout_ns = milliseconds * NS_PER_MS
        self.clock, self.deadline_ns, self.semaphore = map(int, process.stdout.readline().split())
        self.seen_ns = 0

    def wait_until_in(self, name: str) -> None:
        numbers = {row.name: row.number for row in CATALOG.values()}
        number = numbers.get(name, restart.NR_RESTART_SYSCALL)
        give_up = time.monotonic() + 20
        while waiting_calls(self.pid).get(self.pid) != number:
            assert time.monotonic() < give_up, f"it is not in {name}: {waiting_calls(self.pid)}"
        self.seen_ns = time.clock_gettime_ns(self.clock)

    def agrees(self, deadline_ns: int, uncertainty_ns: int) -> None:
        """A relative wait began after the deadline was reckoned and before it was seen to be blocked."""
        assert self.deadline_ns - uncertainty_ns <= deadline_ns
        assert deadline_ns <= self.seen_ns + self.timeout_ns + uncertainty_ns


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("program") / "wait_until"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-pthread", "-o", made, SOURCE], check=True)
    return made


@pytest.fixture(scope="module")
def iterator() -> Iterator[TaskIterator]:
    with TaskIterator.open() as opened:
        yield opened


@contextmanager
def waiting(
    binary: Path, kind: str, name: str, milliseconds: int = MINUTE_MS, under: tuple[str, ...] = ()
) -> Iterator[Waiter]:
    command = [*under, str(binary), kind, str(milliseconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        waiter = None
        try:
            waiter = Waiter(process, milliseconds)
            waiter.wait_until_in(name)
            yield waiter
        finally:
            process.kill()
            if waiter is not None and waiter.semaphore >= 0:
                subprocess.run(["ipcrm", "-s", str(waiter.semaphore)], check=True)


def live(waiter: Waiter, iterator: TaskIterator | None) -> LiveWait:
    return next(wait for wait in live_waits(waiter.pid, iterator) if wait.tid == waiter.pid)


def frozen(waiter: Waiter, iterator: TaskIterator | None) -> Wait:
    """The main thread's wait as a checkpoint sees it; afterwards the program runs on."""
    evidence = Evidence.before_freeze(waiter.pid, iterator)
    process = freeze(waiter.pid)
    try:
        evidence.after_freeze(waiter.pid, moment())
        waits = classify_all(
            [(task.tid, task.registers()) for task in process.tasks], evidence, process.leader.read
        )
    finally:
        thaw(process)
    return waits[waiter.pid]


def voluntary_switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


# -- a running program -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NAMES)
def test_a_running_programs_deadline_is_seen(binary: Path, iterator: TaskIterator, kind: str) -> None:
    """Also of the calls that a freeze would end; and the program is not even woken by being looked at."""
    with waiting(binary, kind, NAMES[kind]) as waiter:
        switches = voluntary_switches(waiter.pid)
        wait = live(waiter, iterator)
        assert voluntary_switches(waiter.pid) == switches
        assert (wait.call, wait.clock, wait.source) == (NAMES[kind], waiter.clock, "sleeper")
        assert wait.deadline_ns is not None
        waiter.agrees(wait.deadline_ns, wait.uncertainty_ns)
        # Only a socket's timeout is kept in ticks; all others are exact.
        assert (wait.uncertainty_ns == 0) == (kind != "rcvtimeo")
        if kind.startswith(("absolute", "futex-bitset")):
            assert wait.deadline_ns == waiter.deadline_ns


def test_what_a_thread_waits_for_is_said_in_words(binary: Path, iterator: TaskIterator) -> None:
    with waiting(binary, "read", "read") as waiter:
        give_up = time.monotonic() + 20
        while True:
            by_call = {wait.call: wait for wait in live_waits(waiter.pid, iterator)}
            if set(by_call) == {"read", "pause"}:
                break
            assert time.monotonic() < give_up, f"its threads are in {set(by_call)}"
        assert by_call["read"].on.startswith("fd 0 -> pipe:")
        assert by_call["read"].remaining_ns is None


# -- a frozen program ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RESTARTED)
def test_the_restart_block_holds_the_programs_deadline(
    binary: Path, iterator: TaskIterator, kind: str
) -> None:
    """Frozen twice: the second time the task sits in restart_syscall, and the deadline is still the same."""
    name, code, block = RESTARTED[kind]
    with waiting(binary, kind, name) as waiter:
        first = frozen(waiter, iterator)
        assert (first.name, first.restart_code, first.how, first.kind) == (name, code, "rearm", block)
        assert (first.clock, first.source, first.uncertainty_ns) == (waiter.clock, "restart-block", 0)
        assert first.deadline_ns is not None
        waiter.agrees(first.deadline_ns, 0)
        assert first.disagreement_ns == 0
        waiter.wait_until_in("restart_syscall")
        second = frozen(waiter, iterator)
        assert (second.name, second.restarted, second.deadline_ns) == (name, True, first.deadline_ns)
        assert second.arguments == first.arguments


@pytest.mark.parametrize("kind", REDONE)
def test_a_call_that_the_kernel_redoes_keeps_its_deadline(
    binary: Path, iterator: TaskIterator, kind: str
) -> None:
    name, code, _ = REDONE[kind]
    with waiting(binary, kind, name) as waiter:
        wait = frozen(waiter, iterator)
        assert (wait.name, wait.restart_code, wait.how) == (name, code, "redo")
        assert (wait.clock, wait.source, wait.uncertainty_ns) == (waiter.clock, "sleeper", 0)
        assert wait.deadline_ns is not None
        waiter.agrees(wait.deadline_ns, 0)
        assert wait.disagreement_ns == 0


@pytest.mark.parametrize("kind", ["pause", "read"])
def test_a_call_without_timeout_has_no_deadline(binary: Path, iterator: TaskIterator, kind: str) -> None:
    with waiting(binary, kind, kind) as waiter:
        wait = frozen(waiter, iterator)
        assert (wait.name, wait.how) == (kind, "redo")
        assert (wait.clock, wait.deadline_ns, wait.remaining_ns, wait.source) == (None, None, None, "")


def test_the_remaining_time_is_counted_from_the_freeze(binary: Path, iterator: TaskIterator) -> None:
    with waiting(binary, "absolute-monotonic", "clock_nanosleep") as waiter:
        before_ns = time.monotonic_ns()
        wait = frozen(waiter, iterator)
        after_ns = time.monotonic_ns()
        assert wait.remaining_ns is not None
        assert waiter.deadline_ns - after_ns <= wait.remaining_ns <= waiter.deadline_ns - before_ns


def test_a_program_that_was_classified_sleeps_its_time_out(binary: Path, iterator: TaskIterator) -> None:
    with waiting(binary, "nanosleep", "nanosleep", milliseconds=1500) as waiter:
        frozen(waiter, iterator)
        frozen(waiter, iterator)
        assert waiter.process.stdout is not None
        assert waiter.process.stdout.readline() == b"returned 0 errno 0\n"
        assert time.clock_gettime_ns(waiter.clock) >= waiter.deadline_ns


@pytest.mark.parametrize(
    "kind", ["absolute-monotonic", "futex-bitset-monotonic", "relative-boottime", "poll"]
)
def test_deadlines_are_on_the_clock_of_the_programs_time_namespace(
    binary: Path, iterator: TaskIterator, kind: str
) -> None:
    """The program's clocks are 1000 s and 5000 s ahead of ours, and so is what it knows of its deadline."""
    ahead = ("unshare", "--time", "--monotonic", "1000", "--boottime", "5000")
    with waiting(binary, kind, NAMES[kind], under=ahead) as waiter:
        offset_ns = clock.offsets_ns(waiter.pid)[waiter.clock]
        assert offset_ns == {clock.MONOTONIC: 1000, clock.BOOTTIME: 5000}[waiter.clock] * 1_000_000_000
        waiter.seen_ns += offset_ns
        for wait in (live(waiter, iterator), frozen(waiter, iterator)):
            assert wait.deadline_ns is not None
            waiter.agrees(wait.deadline_ns, wait.uncertainty_ns)
            assert wait.remaining_ns is not None
            assert wait.remaining_ns <= waiter.timeout_ns


# -- the lesser sources ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ("restart-block", "sleeper"),
        ("bpf", "timer-list"),
        ("bpf,timer-list", "scheduler"),
        ("bpf,timer-list,scheduler", "argument"),
    ],
)
@pytest.mark.parametrize("kind", ["nanosleep", "relative-tai", "futex-wait", "poll"])
def test_each_source_agrees_with_the_program_within_what_it_claims(
    binary: Path, monkeypatch: pytest.MonkeyPatch, kind: str, without: str, expected: str
) -> None:
    monkeypatch.setenv("LIVECR_WITHOUT", without)

    def attempt(number: int) -> None:
        try:
            iterator = TaskIterator.open()
        except Unavailable:
            iterator = None
        assert (iterator is None) == ("bpf" in without)
        try:
            with waiting(binary, kind, NAMES[kind]) as waiter:
                wait = frozen(waiter, iterator)
        finally:
            if iterator is not None:
                iterator.close()
        assert wait.clock == waiter.clock
        assert wait.deadline_ns is not None
        waiter.agrees(wait.deadline_ns, wait.uncertainty_ns)
        if expected == "timer-list" and wait.source == "scheduler":
            raise Disturbed("another program's timer looked just like this one's")
        assert wait.source == expected

    again(attempt)


def test_sources_that_disagree_are_compared_and_told(
    binary: Path, monkeypatch: pytest.MonkeyPatch, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sleeper before the freeze is made to say five seconds more than the restart block after it."""
    read = TaskIterator.read

    def with_a_wrong_sleeper(self: TaskIterator, pid: int) -> dict[int, TaskState]:
        tasks = read(self, pid)
        for task in tasks.values():
            if task.sleeper is not None:
                task.sleeper.soft_ns += 5_000_000_000
        return tasks

    monkeypatch.setattr(TaskIterator, "read", with_a_wrong_sleeper)
    with waiting(binary, "nanosleep", "nanosleep") as waiter:
        assert cli.main(["checkpoint", str(waiter.pid), "-o", str(image), "--leave-running"]) == 0
    said = capsys.readouterr().out
    (told,) = re.findall(r"the sources for nanosleep disagree by (\d+\.\d+) ms", said)
    assert 4990 <= float(told) <= 5000  # what either may be off is taken off
    (wait,) = [one.wait for one in read_image(str(image)).waits if one.wait.name == "nanosleep"]
    assert (wait.source, wait.disagreement_ns) == ("restart-block", round(float(told) * NS_PER_MS))
    assert wait.deadline_ns is not None
    waiter.agrees(wait.deadline_ns, 0)  # the better source counts
    assert cli.main(["show", str(image), "--json"]) == 0
    assert f'"disagreement_ns": {wait.disagreement_ns}' in capsys.readouterr().out


def test_a_point_in_time_needs_no_source_but_the_argument(
    binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVECR_WITHOUT", "bpf,timer-list,scheduler")
    with waiting(binary, "futex-bitset-realtime", "futex") as waiter:
        wait = frozen(waiter, None)
        assert (wait.deadline_ns, wait.source, wait.uncertainty_ns) == (waiter.deadline_ns, "argument", 0)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nanosleep", "poll", "read", "pause"])
def test_a_restarted_call_is_no_obstacle(binary: Path, kind: str) -> None:
    with waiting(binary, kind, kind) as waiter:
        assert obstacles_before_freeze(waiter.pid) == []


# -- the iterator's cache --------------------------------------------------------------------------


def test_the_kept_program_reads_what_the_relocated_one_reads(
    binary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from livecr._native import lib

    monkeypatch.setattr("livecr.kernel.bpf.CACHE", str(tmp_path / "cache"))
    with waiting(binary, "absolute-monotonic", "clock_nanosleep") as waiter:
        for cached in (0, 1):
            with TaskIterator.open() as opened:
                assert lib.lcr_bpf_was_cached() == cached
                sleeper = opened.read(waiter.pid)[waiter.pid].sleeper
                assert sleeper is not None
                assert sleeper.soft_ns == waiter.deadline_ns


@pytest.mark.parametrize("damage", ["cut", "garbage", "other-owner"])
def test_a_cache_that_cannot_be_trusted_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    from livecr._native import lib

    cache = tmp_path / "cache"
    monkeypatch.setattr("livecr.kernel.bpf.CACHE", str(cache))
    TaskIterator.open().close()
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    if damage == "cut":
        kept.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        kept.write_bytes(content[:64] + b"\xff" * (len(content) - 64))
    else:
        cache.chmod(0o777)
    with TaskIterator.open():
        assert lib.lcr_bpf_was_cached() == 0
