"""Timerfds armed again: where the deadline lies and how many expirations count, in every time model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from livecr.kernel import clock
from livecr.kinds import timerfd
from livecr.waits.clocks import Instant, ProgramTime

MS = 1_000_000
HOUR = 3_600_000 * MS
PAST = 5000 * MS  # the program was frozen when its clocks showed 5 s less than now


def frozen_at() -> Instant:
    """The moment of a freeze on the program's own clocks."""
    return Instant(
        monotonic_ns=clock.host_now_ns(clock.MONOTONIC) - PAST,
        boottime_ns=clock.host_now_ns(clock.BOOTTIME) - PAST,
        realtime_ns=clock.host_now_ns(clock.REALTIME) - PAST,
    )


@contextmanager
def armed(record: timerfd.TimerFd, now: ProgramTime) -> Iterator[int]:
    """A timer made from ``record``."""
    fd = timerfd.load(record)
    try:
        timerfd.arm(record, fd, now)
        yield fd
    finally:
        os.close(fd)


def record(
    clock_id: int, deadline_ns: int, *, flags: int = 0, ticks: int = 0, interval_ns: int = 0, left_ns: int = 0
) -> timerfd.TimerFd:
    """A record with what matters here."""
    return timerfd.TimerFd(
        clock=clock_id,
        flags=os.O_NONBLOCK,
        settime_flags=flags,
        ticks=ticks,
        interval_ns=interval_ns,
        remaining_ns=left_ns,
        deadline_ns=deadline_ns,
    )


def unread(fd: int) -> int:
    """How many expirations a read gives; 0 if it would block."""
    try:
        return int.from_bytes(os.read(fd, 8), "little")
    except BlockingIOError:
        return 0


@pytest.mark.parametrize("namespace", [True, False], ids=["namespace", "no-namespace"])
@pytest.mark.parametrize("clock_id", [clock.MONOTONIC, clock.BOOTTIME, clock.REALTIME])
def test_the_time_in_the_image_does_not_count(clock_id: int, namespace: bool) -> None:
    """An hour that was left at the freeze is left now, also of a relative timer on CLOCK_REALTIME."""
    at = frozen_at()
    began = clock.host_now_ns(clock.MONOTONIC)
    now = ProgramTime(at, namespace=namespace)
    frozen = at.boottime_ns if clock_id == clock.BOOTTIME else at.monotonic_ns
    with armed(record(clock_id, frozen + HOUR, left_ns=HOUR), now) as fd:
        _, _, remaining, _ = timerfd._look(fd, clock.MONOTONIC)
    passed = clock.host_now_ns(clock.MONOTONIC) - began
    assert HOUR - passed - MS <= remaining <= HOUR


def test_an_absolute_time_of_the_real_clock_stands() -> None:
    """An alarm for twelve o'clock is for twelve o'clock, however long the image lay."""
    now = ProgramTime(frozen_at())
    deadline = clock.now_ns(clock.REALTIME) + HOUR
    wanted = record(clock.REALTIME, deadline, flags=timerfd.TFD_TIMER_ABSTIME, left_ns=HOUR + PAST)
    with armed(wanted, now) as fd:
        _, _, _, found = timerfd._look(fd, clock.REALTIME)
    assert deadline <= found <= deadline + MS


def test_what_expired_meanwhile_is_counted_with_what_was_unread() -> None:
    """Ticks are those of the record and one for each interval that is over on the real clock."""
    now = ProgramTime(frozen_at())
    deadline = clock.now_ns(clock.REALTIME) - 3 * HOUR - HOUR // 2
    for ticks in (0, 7):
        wanted = record(
            clock.REALTIME,
            deadline,
            flags=timerfd.TFD_TIMER_ABSTIME,
            ticks=ticks,
            interval_ns=HOUR,
            left_ns=HOUR,
        )
        with armed(wanted, now) as fd:
            _, interval, remaining, _ = timerfd._look(fd, clock.REALTIME)
            assert unread(fd) == ticks + 4
        assert interval == HOUR
        assert HOUR // 2 - 60_000 * MS < remaining <= HOUR // 2


@pytest.mark.parametrize("clock_id", [clock.MONOTONIC, clock.REALTIME])
def test_expirations_between_the_freeze_and_the_look_are_still_to_come(clock_id: int) -> None:
    """The program's clock goes on from the freeze, and would show fewer intervals than there are ticks."""
    at = frozen_at()
    deadline = (
        at.monotonic_ns + 2 * HOUR + HOUR // 2
    )  # those half an hour and 1.5 h after the freeze are over
    wanted = record(clock_id, deadline, ticks=3, interval_ns=HOUR, left_ns=HOUR // 2)
    with armed(wanted, ProgramTime(at)) as fd:
        _, _, remaining, _ = timerfd._look(fd, clock.MONOTONIC)
        assert unread(fd) == 1
    assert HOUR // 2 - 60_000 * MS < remaining <= HOUR // 2


def test_one_that_has_fired_stays_so() -> None:
    """It is read once, and not set."""
    with armed(record(clock.MONOTONIC, 0, ticks=1), ProgramTime(frozen_at())) as fd:
        assert timerfd._look(fd, clock.MONOTONIC) == (1, 0, 0, 0)
        assert (unread(fd), unread(fd)) == (1, 0)


def test_looking_consumes_nothing_and_finds_the_deadline() -> None:
    """The deadline is never told too early, whatever has expired unread."""
    at = Instant(monotonic_ns=clock.host_now_ns(clock.MONOTONIC), boottime_ns=0, realtime_ns=0)
    due = at.monotonic_ns + 2 * MS
    wanted = record(clock.MONOTONIC, due, flags=timerfd.TFD_TIMER_ABSTIME, interval_ns=HOUR, left_ns=2 * MS)
    now = ProgramTime(at)
    assert now.offsets is not None
    offset = now.offsets[clock.MONOTONIC]
    with armed(wanted, now) as fd:
        while clock.host_now_ns(clock.MONOTONIC) < due - offset + MS:
            pass
        first = timerfd._look(fd, clock.MONOTONIC)
        second = timerfd._look(fd, clock.MONOTONIC)
        assert unread(fd) == 1
    for ticks, interval, _, deadline in (first, second):
        assert (ticks, interval) == (1, HOUR)
        assert due + HOUR - offset <= deadline <= due + HOUR - offset + MS
