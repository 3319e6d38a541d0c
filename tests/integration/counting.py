"""What tests know of tests/programs/counter.c: how far it has counted, and that it has found nothing wrong.

It would notice a sleep cut short, a changed word of memory or a descriptor that is another, says so and ends
with 1. Used by test_cli.py and test_cli_images.py; the fixture `counter` starts one.
"""

from __future__ import annotations

import signal

from tests.integration.conftest import Target, until

__all__ = ["count", "runs_on_unharmed"]


def count(one: Target) -> int:
    """What the program has published last."""
    return int.from_bytes((one.output_file.parent / "count").read_bytes(), "little")


def runs_on_unharmed(one: Target) -> None:
    """It goes on counting, and has found nothing wrong when it is asked to end."""
    now = count(one)
    until(lambda: count(one) > now + 3 or one.has_ended(), "it goes on counting")
    one.signal(signal.SIGTERM)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
