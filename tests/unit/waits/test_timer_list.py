"""/proc/timer_list is text for people: the parser takes what it knows and passes over the rest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from livecr.kernel import clock
from livecr.kernel.timer_list import Timer, parse

TWO_CPUS = """\
Timer List Version: v0.10
HRTIMER_MAX_CLOCK_BASES: 8
now at 5000000000 nsecs

cpu: 0
 clock 0:
  .base:       00000000aaaaaaaa
  .index:      0
  .resolution: 1 nsecs
  .offset:     0 nsecs
active timers:
 #0: <0000000011111111>, tick_nohz_handler, S:01
 # expires at 5004000000-5004000000 nsecs [in 4000000 to 4000000 nsecs]
 #1: <0000000022222222>, hrtimer_wakeup, S:01
 # expires at 7000000000-7000050000 nsecs [in 2000000000 to 2000050000 nsecs]
 clock 1:
  .base:       00000000bbbbbbbb
active timers:
 #0: <0000000033333333>, hrtimer_wakeup, S:01
 # expires at 1700000000000000001-1700000000000000002 nsecs [in 1 to 2 nsecs]
  .expires_next   : 5004000000 nsecs
  .hres_active    : 1
cpu: 1
 clock 6:
active timers:
 #0: <0000000044444444>, timerfd_tmrproc, S:01
 # expires at 9000000000-9000000000 nsecs [in 4000000000 to 4000000000 nsecs]
 clock 3:
active timers:
 #0: <0000000055555555>, hrtimer_wakeup, S:01, hrtimer_start_range_ns, sleeper/77
 # expires at 8000000000-8000000000 nsecs [in 3000000000 to 3000000000 nsecs]

Tick Device: mode:     1
Per CPU device: 0
 next_event:     5004000000 nsecs
"""


def facts(timer: Timer) -> tuple[str, int, int, int]:
    return (timer.function, timer.clockid, timer.soft_ns, timer.hard_ns)


def test_every_timer_is_found_with_its_clock() -> None:
    assert [facts(timer) for timer in parse(TWO_CPUS)] == [
        ("tick_nohz_handler", clock.MONOTONIC, 5004000000, 5004000000),
        ("hrtimer_wakeup", clock.MONOTONIC, 7000000000, 7000050000),
        ("hrtimer_wakeup", clock.REALTIME, 1700000000000000001, 1700000000000000002),
        ("timerfd_tmrproc", clock.BOOTTIME, 9000000000, 9000000000),
        ("hrtimer_wakeup", clock.TAI, 8000000000, 8000000000),
    ]


def test_the_same_arming_has_the_same_identity() -> None:
    first, second = parse(TWO_CPUS), parse(TWO_CPUS.replace("7000000000-7000050000", "7500000000-7500050000"))
    gone = {timer.identity() for timer in first} - {timer.identity() for timer in second}
    assert gone == {first[1].identity()}


@given(st.lists(st.sampled_from([*TWO_CPUS.splitlines(), "", " #", " # expires", "cpu:", " clock x:"])))
def test_lines_in_any_order_do_no_harm(lines: list[str]) -> None:
    for timer in parse("\n".join(lines)):
        assert timer.soft_ns <= timer.hard_ns
