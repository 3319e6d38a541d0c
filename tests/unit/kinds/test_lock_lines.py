"""What the kernel writes of locks in fdinfo (fs/locks.c, lock_get_status), and what is made of it."""

from __future__ import annotations

import os

import pytest
from livecr.kernel.procfs import Descriptor
from livecr.kinds import locks, owners


def held(*lines: str) -> Descriptor:
    """A descriptor with these further lines in its fdinfo."""
    return Descriptor(77, 3, "/data/file", 0, 2, 27, ["ino:\t12", *lines])


@pytest.mark.parametrize(
    ("line", "kind", "write", "start", "length"),
    [
        ("lock:\t1: POSIX  ADVISORY  WRITE 4855 fe:00:12 5 14", "posix", True, 5, 10),
        ("lock:\t1: POSIX  ADVISORY  READ 4855 fe:00:12 7 7", "posix", False, 7, 1),
        ("lock:\t2: OFDLCK ADVISORY  WRITE -1 fe:00:12 50 EOF", "ofd", True, 50, 0),
        ("lock:\t3: FLOCK  ADVISORY  READ 4855 fe:00:12 0 EOF", "flock", False, 0, 0),
    ],
)
def test_a_line_becomes_a_lock(line: str, kind: str, write: bool, start: int, length: int) -> None:
    """The kernel tells the last byte of a range, fcntl(2) wants its length."""
    d = held(line)
    assert locks.obstacle(d) is None
    (lock,) = locks.save(d, 8)
    assert (lock.description, lock.kind, lock.write) == (8, kind, write)
    assert (lock.start_bytes, lock.length_bytes) == (start, length)


def test_a_lease_is_no_lock() -> None:
    """It is kept with the signals that tell of its end."""
    d = held("lock:\t1: LEASE  ACTIVE    WRITE 4855 fe:00:12 0 EOF")
    assert locks.obstacle(d) is None and locks.save(d, 0) == []
    (lease,) = owners.leases(d, os.stat("/dev/null"), 3)
    assert (lease.description, lease.write) == (3, True)


def test_a_lease_that_is_being_broken_is_an_obstacle() -> None:
    """Somebody waits for the program to give it up, and would not be there at the restore."""
    d = held("lock:\t1: LEASE  BREAKING  READ 4855 fe:00:12 0 EOF")
    told = owners.obstacle(d, os.stat("/dev/null"), frozenset())
    assert told is not None
    assert told.object == "somebody waits for the program to give up its lease on /data/file"


def test_no_lock_is_no_obstacle() -> None:
    """Other lines of fdinfo are none of its business."""
    assert locks.obstacle(held()) is None
    assert locks.save(held(), 0) == []
