"""The running high-resolution timers, as /proc/timer_list prints them (kernel/time/timer_list.c).

The file names no task, but a timer that is there while a task sleeps and gone when the task was frozen is a
candidate for its wait. Readable by root. Used by livecr.waits.deadlines where BPF is not to be had.
"""

from __future__ import annotations

from livecr.kernel.clock import BOOTTIME, MONOTONIC, REALTIME, TAI

__all__ = ["PATH", "Timer", "parse", "sleepers"]

PATH = "/proc/timer_list"

#: enum hrtimer_base_type, <linux/hrtimer_defs.h>: the hard bases, then the soft ones in the same order.
CLOCK_OF_BASE = (MONOTONIC, REALTIME, BOOTTIME, TAI, MONOTONIC, REALTIME, BOOTTIME, TAI)

#: The timer function of every task that sleeps until a time, kernel/time/hrtimer.c.
SLEEPER_FUNCTION = "hrtimer_wakeup"


class Timer:
    """One armed timer. ``key``: its hashed address, the same for as long as it is armed. Times on the host's
    clock."""

    __slots__ = ("clockid", "function", "hard_ns", "key", "soft_ns")

    def __init__(self, key: str, function: str, clockid: int, soft_ns: int, hard_ns: int) -> None:
        self.key = key
        self.function = function
        self.clockid = clockid
        self.soft_ns = soft_ns
        self.hard_ns = hard_ns

    def identity(self) -> tuple[str, int, int]:
        """Equal for the same arming of the same timer, in two readings."""
        return (self.key, self.clockid, self.soft_ns)

    def __repr__(self) -> str:
        return f"Timer({self.key!r}, {self.function!r}, {self.clockid}, {self.soft_ns}, {self.hard_ns})"


def parse(text: str) -> list[Timer]:
    """Every timer in the text of a timer list. Lines of any other form are passed over."""
    timers = []
    base, key, function = -1, "", ""
    for line in text.splitlines():
        words = line.split()
        if line.startswith(("cpu:", "Tick Device:")):
            base, key = -1, ""
        elif line.startswith(" clock ") and len(words) == 2:
            number = words[1].rstrip(":")
            base, key = int(number) if number.isdigit() else -1, ""
        elif line.startswith(" #") and len(words) >= 3 and words[0] != "#":
            key, function = words[1].rstrip(","), words[2].rstrip(",")
        elif line.startswith(" # expires at") and key and 0 <= base < len(CLOCK_OF_BASE):
            soft, _, hard = words[3].partition("-")
            timers.append(Timer(key, function, CLOCK_OF_BASE[base], int(soft), int(hard or soft)))
            key = ""
    return timers


def sleepers() -> list[Timer] | None:
    """The timers that will wake a task, now; None where the list cannot be read."""
    try:
        with open(PATH, encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    return [timer for timer in parse(text) if timer.function == SLEEPER_FUNCTION]
