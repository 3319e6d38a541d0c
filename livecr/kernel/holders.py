"""Which other processes have an object open: the links in /proc/PID/fd of all of them. Called by kinds."""

from __future__ import annotations

import os

__all__ = ["others"]


def others(insiders: frozenset[int], targets: set[str]) -> dict[str, tuple[int, str, int]]:
    """By link target ("socket:[123]"): PID, name and descriptor of a holder that is no insider."""
    found: dict[str, tuple[int, str, int]] = {}
    for name in os.listdir("/proc") if targets else ():
        if not name.isdigit() or int(name) in insiders or int(name) == os.getpid():
            continue
        try:
            for fd in os.listdir(f"/proc/{name}/fd"):
                target = os.readlink(f"/proc/{name}/fd/{fd}")
                if target in targets:
                    with open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
                        found.setdefault(target, (int(name), file.read().strip(), int(fd)))
        except OSError:
            continue  # it has ended, or the descriptor has been closed
    return found
