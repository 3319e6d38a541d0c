"""Netlink, raw and UDP-Lite sockets, filters and multicast groups: the program checks and uses them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_sockets_are_as_they_were(
    fate: str, program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, place: Path
) -> None:
    """It would notice another port, a missing group, a filter that lets all through, a lost message."""
    one = target([program("kind_sockets")])
    is_as_it_was(one, fate, place, livecr)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ("message", ": messages or errors in it are not read yet"),
        ("packet", "a packet socket (socket:["),
        ("generic", ": NETLINK_GENERIC cannot be saved"),
        ("vsock", "a vsock socket (socket:["),
    ],
)
def test_what_would_be_lost_is_refused(
    extra: str, named: str, program: Callable[[str], Path], target: Callable[..., Any], livecr: Any
) -> None:
    """`check` foretells it, and the program goes on."""
    one = target([program("kind_sockets"), extra])
    one.until_printed("ready")
    said = livecr("check", one.pid, exit_code=3).stderr
    assert named in said
    assert f"process {one.pid}, descriptor " in said
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
