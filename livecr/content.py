"""What the manifest of an image holds: the processes of a tree, their waits, and when they were frozen."""

from __future__ import annotations

from livecr.image.record import Record
from livecr.kinds.descriptors import Table
from livecr.kinds.directories import Removed
from livecr.kinds.files import File
from livecr.kinds.memfd import MemFd
from livecr.kinds.process import Process
from livecr.kinds.sysv import Sysv
from livecr.kinds.zombies import Zombie
from livecr.waits.classify import Wait
from livecr.waits.clocks import RELATIVE, Instant

__all__ = ["Content", "Waiting"]


class Waiting(Record):
    """A task and the call that it is blocked in."""

    tid: int
    wait: Wait


class Content(Record):
    """The image of a tree of processes.

    ``processes``: parents before their children, the root first. ``table``: what they have open;
    ``unlinked``: mapped files that no name leads to; ``removed``: directories that are gone.
    ``left_behind``: numbers of sessions and groups that only the tree belongs to, with leaders that ended.
    """

    name: str
    frozen_at: Instant
    processes: list[Process]
    zombies: list[Zombie]
    left_behind: list[int]
    table: Table
    unlinked: list[File | MemFd]
    removed: list[Removed]
    waits: list[Waiting]
    sysv: Sysv
    time_model: str = RELATIVE  # what the program itself has wished for
    time_model_from: str = ""  # and by what: see waits/wishes
