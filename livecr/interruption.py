"""Signals that ask livecr itself to end wait until the target is out of its hands.

A Python exception between any two steps of a borrowed task's way home would harm the target, and a livecr
that ends at once leaves half an image behind. So SIGINT, SIGTERM and their like are blocked
(pthread_sigmask(3)) for as long as a checkpoint takes, and asked for (sigpending(2)) where it is safe to
break off. Called by checkpoint.py.
"""

from __future__ import annotations

# Not the module `signal`: importing that takes as long as starting Python does, for its enums.
import _signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Interrupted", "Postponed"]

_ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)
# Nor may livecr be stopped (^Z) while the target stands still.
_BLOCKED = (*_ENDING, _signal.SIGTSTP, _signal.SIGTTOU)


class Interrupted(KeyboardInterrupt):
    """A signal asked livecr to end; the target has not been ended and nothing is left of the image."""


class Postponed:
    """In ``with``, these signals are only noted; they take effect when it is left."""

    def __enter__(self) -> Postponed:
        self._before: Any = _signal.pthread_sigmask(_signal.SIG_BLOCK, _BLOCKED)
        return self

    def __exit__(self, *exc: object) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)

    def check(self) -> None:
        """Raises Interrupted if one has come that is not ignored (a blocked one is noted also if it is)."""
        for number in _signal.sigpending():
            if number in _ENDING and _signal.getsignal(number) != _signal.SIG_IGN:
                raise Interrupted
