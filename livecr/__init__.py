"""livecr: a live-process checkpointer for x86-64 Linux.

    done = livecr.checkpoint(pid, "job.livecr", leave_running=True)
    again = livecr.restore("job.livecr")
    content = livecr.inspect("job.livecr")
    for wait in livecr.waits(pid): ...

Results are typed; everything that can go wrong is a LivecrError: UsageError, Refused, Failed, BadImage.
"""

from __future__ import annotations

import sys

from livecr.errors import BadImage, Failed, LivecrError, Refused, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.checkpoint import Checkpoint
    from livecr.content import Content
    from livecr.restore import Restored
    from livecr.waits.live import LiveWait

__all__ = [
    "BadImage",
    "Failed",
    "LivecrError",
    "Refused",
    "UsageError",
    "advise",
    "checkpoint",
    "inspect",
    "restore",
    "waits",
]


def advise(*, time_model: str) -> None:
    """What the calling program wishes for its checkpoints: whether time in the image counts.

    ``time_model``: "relative" or "absolute". ``livecr restore --time-model`` and LIVECR_TIME_MODEL in the
    environment win over it. Raises UsageError for another.
    """
    from livecr.waits.wishes import advise as act

    act(time_model)


def checkpoint(
    pid: int,
    image: str | None = None,
    *,
    leave_running: bool = False,
    unix_peer: str = "refuse",
    seccomp: str = "respect",
) -> Checkpoint:
    """Write the running process ``pid`` to the directory ``image`` (default ./COMM-PID.livecr) and end it.

    With ``leave_running`` it runs on. ``unix_peer``: whether a unix socket that is connected to another
    program makes it "refuse", or is restored as if that had been "close"d by the other side. ``seccomp``:
    whether to "respect" filters that would kill the program if livecr were killed in the freeze, and refuse;
    or only to "suspend" them. Raises Refused (nothing was touched) or Failed (it runs on unharmed).
    """
    from livecr.checkpoint import checkpoint as act

    return act(pid, image, leave_running=leave_running, unix_peer=unix_peer, filter_policy=seccomp)


def restore(
    image: str,
    *,
    time_model: str | None = None,
    file_policy: str = "grown",
    new_pid_namespace: bool = False,
) -> Restored:
    """Make the program of ``image`` live again, as a child of the caller.

    ``time_model``: "relative" or "absolute", whether time in the image counts; by default its own wish.
    ``file_policy``: how its open files may differ: not at all ("same"), they may have "grown", or "any".
    ``new_pid_namespace``: although its numbers are taken, in a PID namespace of its own; the caller's
    child is then an init, which ends as the program does.
    Raises BadImage, Refused (nothing was made) or Failed (nothing is left of what was made).
    """
    if new_pid_namespace:
        from livecr.pid_namespace import restore_in_namespace

        return restore_in_namespace(image, time_model=time_model, file_policy=file_policy)
    from livecr.restore import restore as act

    return act(image, time_model=time_model, file_policy=file_policy)


def inspect(image: str) -> Content:
    """What is in ``image``, every byte of which has been checked. Raises BadImage."""
    from livecr.restore import read

    return read(image)


def waits(pid: int) -> list[LiveWait]:
    """What each task of a running process is blocked in, found without stopping it. Raises Refused."""
    from livecr.waits.live import live_waits

    return live_waits(pid)


class _Package(type(sys)):  # type: ignore[misc]
    """Importing a submodule makes it an attribute of the package; a function of that name stays."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, type(sys))):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
