"""NUMA memory policies, numa(7): of tasks (set_mempolicy(2)) and of mappings (mbind(2)). They are refused.

On a machine with one node they change nothing, and are let go without a word. Called by process.
"""

from __future__ import annotations

from livecr.errors import Obstacle
from livecr.kernel import procfs

__all__ = ["obstacles", "policy"]

_ONLINE = "/sys/devices/system/node/online"


def obstacles(pid: int) -> list[Obstacle]:
    """Of a running process on a machine with more than one node."""
    try:
        with open(_ONLINE, encoding="ascii") as file:
            if file.read().strip() == "0":
                return []
        found = policy(procfs.read(pid, "numa_maps").decode("ascii", "replace"))
    except FileNotFoundError:
        return []  # a kernel without NUMA
    if not found:
        return []
    text = f"it has a NUMA memory policy ({found})"
    return [
        Obstacle(f"process {pid}", text, "this version of livecr cannot save that: start it without numactl")
    ]


def policy(numa_maps: str) -> str:
    """The first policy in the text of numa_maps that is not the default, "" if there is none."""
    policies = (line.split()[1] for line in numa_maps.splitlines() if " " in line)
    return next((one for one in policies if one != "default"), "")
