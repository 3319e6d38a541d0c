"""The program's clocks: when it was frozen, and the time namespace in which its time goes on from there.

By the relative time model CLOCK_MONOTONIC and CLOCK_BOOTTIME of a restored program continue from the freeze,
by the absolute one they stand where they would have been; so deadlines in its own memory are right as well.
CLOCK_REALTIME is never touched. Relies on time_namespaces(7).
"""

from __future__ import annotations

from livecr.image.record import Record
from livecr.kernel import clock

__all__ = ["ABSOLUTE", "MODELS", "RELATIVE", "Instant", "ProgramTime"]

RELATIVE, ABSOLUTE = MODELS = ("relative", "absolute")
_NS = 1_000_000_000


class Instant(Record):
    """One moment on the program's own clocks, in ns (that is with the offsets of its time namespace)."""

    monotonic_ns: int
    boottime_ns: int
    realtime_ns: int


class ProgramTime:
    """What the clocks of a restored program say: the host's, shifted to go on from ``frozen_at``."""

    def __init__(self, frozen_at: Instant, *, model: str = RELATIVE, namespace: bool = True) -> None:
        """``model``: RELATIVE, in which time in the image does not count, or ABSOLUTE, in which it does.

        Without a time ``namespace`` the program's clocks are the host's; only its waits are shifted.
        """
        self.model = model
        now = {c: clock.host_now_ns(c) for c in (clock.MONOTONIC, clock.BOOTTIME)}
        #: What its clocks said at the freeze.
        self.frozen_at_ns = {
            clock.MONOTONIC: frozen_at.monotonic_ns,
            clock.BOOTTIME: frozen_at.boottime_ns,
        }
        self._resumed_ns = now[clock.MONOTONIC]
        self._frozen_ns = frozen_at.monotonic_ns
        # The machine may have booted since, so only CLOCK_REALTIME tells how long the program was away.
        away_ns = max(0, clock.host_now_ns(clock.REALTIME) - frozen_at.realtime_ns)
        self._counted_ns = away_ns if model == ABSOLUTE else 0
        self.offsets = (
            {
                clock.MONOTONIC: frozen_at.monotonic_ns + self._counted_ns - now[clock.MONOTONIC],
                clock.BOOTTIME: frozen_at.boottime_ns + self._counted_ns - now[clock.BOOTTIME],
            }
            if namespace
            else None
        )

    def namespace_text(self) -> str | None:
        """For /proc/PID/timens_offsets: seconds and nanoseconds, the latter never negative."""
        if self.offsets is None:
            return None
        monotonic = divmod(self.offsets[clock.MONOTONIC], _NS)
        boottime = divmod(self.offsets[clock.BOOTTIME], _NS)
        return f"monotonic {monotonic[0]} {monotonic[1]}\nboottime {boottime[0]} {boottime[1]}\n"

    def jump_ns(self) -> int:
        """By how much CLOCK_MONOTONIC jumps for the program: 0 with a time namespace."""
        if self.offsets is not None:
            return 0
        return clock.now_ns(clock.MONOTONIC) - self._frozen_ns - self.elapsed_ns()

    def is_moved(self, clock_id: int | None) -> bool:
        """Whether points in time on this clock, as the program has given them, are no longer right."""
        return clock_id in clock.SHIFTED and self.offsets is None

    def elapsed_ns(self) -> int:
        """How much time has passed for the program since it was frozen."""
        return clock.host_now_ns(clock.MONOTONIC) - self._resumed_ns + self._counted_ns

    def is_shifted(self, clock_id: int) -> bool:
        """Whether this clock goes on from the freeze, so that a deadline on it still stands."""
        return self.offsets is not None and clock_id in clock.SHIFTED
