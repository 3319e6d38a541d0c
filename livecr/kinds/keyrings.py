"""Keyrings of a process and its threads (keyrings(7)): nobody but itself is told of them, so BPF reads them.

What a thread or process keyring holds is refused. A session keyring is inherited, and lives as long as
somebody has it; a process cannot be given one by its number, so the user is told when it is another one
after a restore. Called by process.
"""

from __future__ import annotations

import os

from livecr._native import lib
from livecr.errors import Obstacle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from livecr.kernel.bpf import TaskState

__all__ = ["compare", "obstacles", "save"]

_NR_KEYCTL, _GET_KEYRING_ID, _SESSION = 250, 0, -3


def obstacles(pid: int, seen: dict[int, TaskState]) -> list[Obstacle]:
    """``seen``: what BPF has read of its tasks, by TID; without it nothing is known."""
    found = []
    for tid, state in seen.items():
        where = f"task {tid} of process {pid}"
        way_out = "let it keep keys in its session's keyring, or its user's: those stay where they are"
        for name, keys in (("thread", state.thread_keys), ("process", state.process_keys)):
            if keys:
                text = f"there are keys in its {name} keyring (KEY_SPEC_{name.upper()}_KEYRING)"
                found.append(Obstacle(where, text, way_out))
    # The keyring of a process is every thread's.
    return list({one.object: one for one in found}.values())


def save(pid: int, seen: dict[int, TaskState]) -> int:
    """The serial number of its session keyring; 0 for none of its own, or where BPF is not to be had."""
    return seen[pid].session_keyring if pid in seen else 0


def compare(pid: int, wanted: int) -> list[str]:
    """A warning if a process, which has that of livecr now, had another session keyring."""
    if not wanted:
        return []
    now = lib.lcr_syscall(_NR_KEYCTL, _GET_KEYRING_ID, _SESSION & 0xFFFFFFFFFFFFFFFF, 0, 0, 0, 0)
    if wanted == now:
        return []
    text = f"{now:#x}" if now >= 0 else os.strerror(-now)  # without CONFIG_KEYS, or filtered
    return [f"process {pid}: its session keyring was {wanted:#x}; it has that of livecr now ({text})"]
