"""What is mounted where, as livecr sees it: /proc/self/mountinfo (proc_pid_mountinfo(5)).

Called by file_handles, and by the kinds that need to know a file system.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Mount", "mounts"]


class Mount:
    """One line. ``device``: major and minor number; ``root``: what of the file system is mounted at
    ``point``; ``options``: those of the file system."""

    __slots__ = ("device", "kind", "number", "options", "point", "root")

    def __init__(self, line: bytes) -> None:
        words = line.split()
        major, _, minor = words[2].partition(b":")
        self.number = int(words[0])
        self.device = int(major), int(minor)
        self.root, self.point = _plain(words[3]), _plain(words[4])
        kind_at = words.index(b"-", 6) + 1  # behind any number of optional fields
        self.kind = os.fsdecode(words[kind_at])
        self.options = os.fsdecode(words[kind_at + 2]).split(",")


def mounts() -> Iterator[Mount]:
    """All that livecr sees, in the order in which they were mounted."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            yield Mount(line)


def _plain(path: bytes) -> str:
    """Without the octal escapes."""
    return os.fsdecode(path.decode("unicode_escape").encode("latin-1"))
