"""The layout of an address space: where code, data, heap, stack, arguments, environment are; the executable.

What ps, /proc/PID/cmdline and brk(2) go by. Relies on /proc/PID/stat, and on prctl(PR_SET_MM, PR_SET_MM_MAP).
Called by memory.
"""

from __future__ import annotations

import os

from livecr.kernel import procfs
from livecr.target.program import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.target.engine import Borrowed
    from livecr.target.spawn import Seed

__all__ = ["load", "save"]

PR_SET_MM, PR_SET_MM_MAP = 35, 14

# struct prctl_mm_map of <linux/prctl.h>, 8 bytes each; then auxv, auxv_size (4), exe_fd (4).
_MM_MAP = (
    *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack"),
    *("arg_start", "arg_end", "env_start", "env_end"),
)
_NAMES = {"startcode": "start_code", "endcode": "end_code", "startstack": "start_stack"}  # as in stat


def save(pid: int, borrowed: Borrowed) -> dict[str, int]:
    """The fields of struct prctl_mm_map, by their names."""
    asking = Program()
    asking.add("brk", 0)
    (brk,) = borrowed.run(asking)
    return {_NAMES.get(name, name): value for name, value in procfs.layout(pid).items()} | {"brk": brk}


def load(layout: dict[str, int], exe: str, auxv: bytes, seed: Seed) -> None:
    """Set it; the mappings that it names are in place."""
    ours = os.open(exe, os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = seed.fetch([ours])[ours]
    finally:
        os.close(ours)
    fields = b"".join(layout[name].to_bytes(8, "little") for name in _MM_MAP)
    auxv_at = seed.put(auxv)
    fields += auxv_at.to_bytes(8, "little") + len(auxv).to_bytes(4, "little") + theirs.to_bytes(4, "little")
    program = Program()
    program.add("prctl", PR_SET_MM, PR_SET_MM_MAP, seed.put(fields), len(fields), 0)
    seed.run(program)
    seed.drop_fetched()
