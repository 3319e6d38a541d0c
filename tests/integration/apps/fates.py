"""What may happen to a program, and what it must not have noticed of it: the tests of real programs use this.

The programs of tests/programs/apps print "NAME ASKED_NS TOOK_NS" for each wait that has ended, by their own
monotonic clock, and write numbered lines to a file; they end with "done".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.conftest import Disturbed
from tests.integration.waiting import again, checkpoint, starting_ms

__all__ = ["FATES", "Lives", "check_story"]

#: Fate -> what is done to the program, one after the other.
FATES: dict[str, tuple[str, ...]] = {
    "restored": ("restore",),
    "left-running-thrice": ("leave", "leave", "leave"),
    "restored-thrice": ("restore", "restore", "restore"),
}

#: The time, together, before the checkpoints and in the images. A wait that began anew in a restore would be
#: late by the one; by a clock that did not stand still in the image it would be late by the other.
_BEFORE_S = 1.2
_IN_IMAGE_S = 1.2
#: Less than half of these: what a busy machine may be late by.
_LATE_NS = 550_000_000
#: What livecr does in a fate takes less than starting it so many times.
_STARTS_IN_A_FATE = 20


class Lives:
    """Leads a program through its fate."""

    def __init__(self, livecr: Callable[..., Any], directory: Path) -> None:
        self._livecr = livecr
        self._directory = directory

    def wait_ms(self) -> int:
        """How long each timed wait of a program must be, so that a fate fits in: longer on a busy machine."""
        return min(20_000, 2500 + _STARTS_IN_A_FATE * starting_ms())

    def story(
        self, fate: str, start: Callable[[int], Any], waits: dict[str, int], fed: set[str], lines_file: Path
    ) -> None:
        """A program of tests/programs/apps, from its start, by how many ms it is to wait, to its end."""

        def attempt(number: int) -> None:
            one = start(self.wait_ms())
            one.until_printed("ready")
            self.through(fate, one)
            check_story(one, waits, fed, lines_file)

        again(attempt)

    def through(self, fate: str, one: Any, tick: Callable[[float], None] = time.sleep) -> None:
        """All of a fate. ``tick``: how to let the given number of seconds pass before a checkpoint.

        Disturbed if the program is done before: the machine is too busy for so short a one.
        """
        steps = FATES[fate]
        for number, step in enumerate(steps):
            tick(_BEFORE_S / len(steps))
            image = self._directory / f"image-{one.pid}-{number}.livecr"
            one.must_run()
            checkpoint(one, image, self._livecr, leave_running=step == "leave")
            if step == "restore":
                time.sleep(_IN_IMAGE_S / len(steps))
                one.restore(image)


def check_story(one: Any, waits: dict[str, int], fed: set[str], lines_file: Path) -> None:
    """It ended well; its waits, so many of each kind, ended on time; no line of its file is lost or twice.

    Disturbed if a wait was late, and all else as it should be.

    ``fed``: the values that the program put into a queue, for a thread that waits without a timeout.
    """
    assert one.wait() == 0, one.output()
    first, *told, last = one.output().splitlines()
    assert (first, last) == ("ready", "done"), one.output()
    ended, late = dict.fromkeys(waits, 0), []
    for line in told:
        name, *words = line.split()
        if name == "fed":
            fed = fed - {words[0]}
            continue
        kind, asked_ns, took_ns = name.rpartition("-")[0], *map(int, words)
        assert took_ns >= asked_ns, f"{name} asked for {asked_ns} ns and took {took_ns} ns"
        if took_ns - asked_ns > _LATE_NS:
            late.append(line)
        ended[kind] += 1
    assert ended == waits
    assert not fed, "what was put into a queue has not come out of it"
    lines = lines_file.read_text().splitlines()
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    assert lines, "it has written nothing"
    if late:
        raise Disturbed(f"late, of so many ns that took so many: {late}")
