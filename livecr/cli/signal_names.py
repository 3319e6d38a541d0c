"""Signals by the names that signal(7) has for them."""

from __future__ import annotations

__all__ = ["SIGNALS", "signal_name"]

SIGNALS, _SIGRTMIN = 64, 34  # the kernel's own SIGRTMIN is 32; glibc keeps two


def signal_name(number: int) -> str:
    """SIGHUP …, SIGRTMIN+n, or the bare number."""
    from signal import Signals

    if _SIGRTMIN <= number <= SIGNALS:
        return "SIGRTMIN" + (f"+{number - _SIGRTMIN}" if number > _SIGRTMIN else "")
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"
