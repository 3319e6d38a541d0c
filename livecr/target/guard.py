"""A process that ends others if livecr comes to its end before it is dismissed (native/ext/guard.c).

What has to happen to all processes of a tree takes a moment for each, and livecr may be killed in between.
Called by kin, where a restored tree is let go, and by tree, where a frozen one is ended.
"""

from __future__ import annotations

import os

from livecr._native import ffi, lib
from livecr.errors import Failed

__all__ = ["Guard"]


class Guard:
    """From when it has been made until it is dismissed, the processes end if livecr does.

    ``pidfds``: theirs; they have to stay open. Raises Failed.
    """

    def __init__(self, pidfds: list[int]) -> None:
        self._pipe = ffi.new("int *")
        self._pid = lib.lcr_guard(ffi.new("int[]", pidfds), len(pidfds), self._pipe)
        if self._pid < 0:
            raise Failed(f"making a guard: {os.strerror(-self._pid)}", where=f"{len(pidfds)} processes")

    def dismiss(self) -> None:
        """And wait until it has gone."""
        lib.lcr_dismiss_guard(self._pid, self._pipe[0])
