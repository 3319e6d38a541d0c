"""Character devices without a state of their own: null, zero, full, random, urandom.

Their numbers are fixed (Documentation/admin-guide/devices.txt).
"""

from __future__ import annotations

import os

from livecr.errors import Failed
from livecr.image.record import Record
from livecr.kernel.reopen import open_as_before

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel import procfs
    from livecr.kinds.files import Keeper

__all__ = ["Device", "load", "obstacle", "save"]

# Major and minor number, and the usual name.
_STATELESS = {
    (1, 3): "/dev/null",
    (1, 5): "/dev/zero",
    (1, 7): "/dev/full",
    (1, 8): "/dev/random",
    (1, 9): "/dev/urandom",
}
# What is known and refused: the state is with the driver, or with somebody else.
_KNOWN = {
    (10, 200): ("the network interface of", "let the program close its tun or tap interface"),
    (10, 229): ("the FUSE connection of", "unmount the file system that the program serves"),
    (10, 232): ("the virtual machine of", "let the program end the virtual machine"),
}
_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | 0o100000  # O_LARGEFILE


class Device(Record, tag="device"):
    """An open character device; ``flags``: O_*."""

    path: str
    major: int
    minor: int
    flags: int


def obstacle(d: procfs.Descriptor, stat: os.stat_result) -> tuple[str, str] | None:
    """What stands in the way, and the way out."""
    if (os.major(stat.st_rdev), os.minor(stat.st_rdev)) in _STATELESS:
        return None
    number = os.major(stat.st_rdev), os.minor(stat.st_rdev)
    name, way_out = _KNOWN.get(
        number, ("the device", "start the program with its input and output in files or /dev/null")
    )
    return f"{name} {d.target} cannot be saved", way_out


def save(pid: int, d: procfs.Descriptor, stat: os.stat_result, keeper: Keeper) -> Device:
    """Nothing but its number has to be known."""
    major, minor = os.major(stat.st_rdev), os.minor(stat.st_rdev)
    return Device(path=d.target, major=major, minor=minor, flags=d.flags & _FLAGS)


def load(device: Device) -> int:
    """Open it again; by its usual name if it is not where it was."""
    for path in (device.path, _STATELESS.get((device.major, device.minor), "")):
        try:
            fd = open_as_before(path, device.flags | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            continue
        rdev = os.fstat(fd).st_rdev
        if (os.major(rdev), os.minor(rdev)) == (device.major, device.minor) in _STATELESS:
            return fd
        os.close(fd)
    raise Failed(f"{device.path} cannot be opened as the device that it was", way_out="is /dev complete?")
