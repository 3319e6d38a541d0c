"""The timers of real programs: event loops, thread libraries, shells, a daemon. Each program judges its own.

Three twins of one program, each with all the timers and timed waits of its language pending at once. One is
left alone, one is checkpointed and runs on, one is ended by its checkpoint and restored. A program would have
noticed a wait that ends early or late by the clock that it goes by, is cut short, or never ends.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.conftest import APPS
from tests.integration.conftest import Disturbed
from tests.integration.waiting import FATES, PRIORITY, in_time, meet_all, milliseconds

NS_PER_MS = 1_000_000


class Runtime:
    """How a program is started, what waits it tells of, and the grain of its own timers."""

    def __init__(
        self, command: list[str], waits: tuple[str, ...], *, of_each: int = 1, grain_ns: int = 0
    ) -> None:
        self.command = command
        self.waits = dict.fromkeys(waits, of_each)
        self.grain_ns = grain_ns


# In a command "APPS/x" is a file of tests/programs/apps, "BUILT/x" what has been compiled of it, FIFO a new
# FIFO, and MS the length of the waits in milliseconds.
RUNTIMES = {
    "asyncio": Runtime(
        ["/usr/bin/python3", "APPS/tasks.py", "MS"],
        ("sleep", "wait_for", "queue_get", "wait", "call_later", "call_at", "to_thread"),
        grain_ns=NS_PER_MS,
    ),
    "python-threads": Runtime(
        ["/usr/bin/python3", "APPS/threads.py", "-", "MS", "quiet"],
        ("sleep", "event_wait", "timer", "condition_wait", "queue_get", "lock_acquire"),
        of_each=2,
    ),
    "java": Runtime(
        ["java", "-XX:+UseSerialGC", "-Xmx64m", "-cp", "BUILT/Threads.java", "Threads", "-", "MS", "quiet"],
        ("sleep", "wait", "park", "poll", "scheduled"),
        of_each=3,
        grain_ns=NS_PER_MS,
    ),
    "go": Runtime(
        ["BUILT/goroutines.go", "-", "MS", "quiet"], ("sleep", "select", "context", "ticker"), of_each=2
    ),
    "node": Runtime(
        ["node", "APPS/timers.js", "MS"],
        ("setTimeout", "setInterval", "promise", "AbortSignal", "Atomics.wait"),
        grain_ns=2 * NS_PER_MS,
    ),
    "rust": Runtime(
        ["BUILT/threads.rs", "-", "MS", "quiet"], ("sleep", "condvar", "channel", "park"), of_each=2
    ),
    "glibc": Runtime(
        ["BUILT/waits.c", "MS"],
        (
            *("pthread_cond_timedwait", "pthread_cond_timedwait-realtime", "pthread_cond_clockwait"),
            *("sem_timedwait-realtime", "sem_clockwait", "pthread_mutex_timedlock-realtime"),
            *("pthread_mutex_clocklock", "pthread_mutex_timedlock-pi-realtime", "cnd_timedwait-realtime"),
            *("pthread_rwlock_timedrdlock-realtime", "pthread_timedjoin_np-realtime", "thrd_sleep", "usleep"),
            *("poll", "sigtimedwait", "setitimer", "timer_create"),
        ),
    ),
    "perl": Runtime(["perl", "APPS/waits.pl", "MS"], ("select", "select_pipe", "sleep", "nanosleep")),
    "bash": Runtime(["bash", "APPS/read.bash", "FIFO", "MS"], ("read-t",), grain_ns=20 * NS_PER_MS),
}
DAEMON = Runtime(
    ["BUILT/daemon.c", "MS"],
    ("monotonic", "monotonic-absolute", "boottime-absolute", "realtime-absolute", "periodic"),
)


def told(one: Any) -> list[tuple[str, int, int]]:
    """Name, asked_ns and took_ns of each wait that has ended."""
    lines = re.findall(r"^(\S+?)(?:-\d+)? (\d+) (\d+)$", one.output(), re.MULTILINE)
    return [(name, int(asked_ns), int(took_ns)) for name, asked_ns, took_ns in lines]


@pytest.fixture
def meet_fates(
    built: Callable[[str], Path], target: Callable[..., Any], livecr: Any, tmp_path: Path
) -> Callable[[Runtime], dict[str, Any]]:
    """Start the twins and let each meet its fate while all that it waits for is still to come."""

    def start(runtime: Runtime, wait_ms: int) -> Any:
        words: list[str | Path] = [*PRIORITY]
        fifo = tmp_path / f"fifo{next(numbers)}"
        for word in runtime.command:
            place, _, name = word.partition("/")
            if word == "FIFO":
                os.mkfifo(fifo)
            known: dict[str, str | Path] = {"APPS": APPS / name, "MS": str(wait_ms), "FIFO": fifo}
            words.append(built(name) if place == "BUILT" else known.get(place, word))
        return target(words)

    def meet(runtime: Runtime) -> dict[str, Any]:
        wait_ms = milliseconds(2)  # there are two fates in which livecr has something to do
        twins = {fate: start(runtime, wait_ms) for fate in FATES}
        for one in twins.values():
            one.until_printed("ready")
        meet_all([(fate, one, tmp_path / f"{one.pid}.livecr") for fate, one in twins.items()], livecr)
        if any(told(one) for one in twins.values()):
            raise Disturbed(f"{wait_ms} ms were over before livecr was done")
        return twins

    numbers = count()
    return meet


def late_ns(runtime: Runtime, twins: dict[str, Any], kinds: list[str]) -> dict[tuple[str, str], int]:
    """By how much each of ``kinds`` was late at most under each fate, beyond its grain. And any early."""
    late: dict[tuple[str, str], int] = {}
    for fate, one in twins.items():
        assert one.wait() == 0, f"{fate}: {one.output()}"
        assert one.output().splitlines()[-1] == "done", f"{fate}: {one.output()}"
        ended = told(one)
        assert Counter(name for name, _, _ in ended) == runtime.waits, f"{fate}: {one.output()}"
        for name, asked_ns, took_ns in ended:
            beyond_ns = took_ns - asked_ns
            if beyond_ns > 0:
                beyond_ns = max(0, beyond_ns - runtime.grain_ns)
            # One that is early must not be hidden by another that is late.
            late[name, fate] = min((beyond_ns, late.get((name, fate), 0)), key=lambda ns: (ns >= 0, -ns))
    return {(name, fate): ns for (name, fate), ns in late.items() if name in kinds or ns < 0}


@pytest.mark.parametrize("name", RUNTIMES)
def test_timers_of(name: str, meet_fates: Callable[[Runtime], dict[str, Any]]) -> None:
    """All that the program waits for comes when it should, by the program's own clocks."""
    runtime = RUNTIMES[name]
    in_time(runtime.waits, lambda kinds: late_ns(runtime, meet_fates(runtime), kinds))


def test_a_daemon_of_timerfds_and_signals(meet_fates: Callable[[Runtime], dict[str, Any]]) -> None:
    """Its timerfds expire when they should, none twice; a SIGHUP comes by the signalfd, as does SIGTERM."""

    def run(kinds: list[str]) -> dict[tuple[str, str], int]:
        twins = meet_fates(DAEMON)
        for one in twins.values():
            one.signal(signal.SIGHUP)
            one.until_printed("signal reloaded")
        for one in twins.values():
            one.until_printed("\nperiodic ")
            for name in DAEMON.waits:
                one.until_printed(f"\n{name} ")
            one.signal(signal.SIGTERM)
        late = late_ns(DAEMON, twins, kinds)
        for one in twins.values():
            assert [line for line in one.output().splitlines() if line.startswith("signal")] == [
                *("signal HUP", "signal reloaded", "signal TERM")
            ]
        return late

    in_time(DAEMON.waits, run)
