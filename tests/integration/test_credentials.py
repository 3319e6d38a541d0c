"""A program of another user: who it is, and what it may, is as it was.

It would have noticed another id, group, capability or limit, and its owner in `ps`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WHO = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Umask")
USERS = {
    "ordinary": ["--reuid=1234", "--regid=2345", "--groups=2345,3456"],
    "no-new-privs": ["--reuid=1234", "--regid=2345", "--clear-groups", "--no-new-privs"],
    "bounded": ["--reuid=1234", "--regid=2345", "--clear-groups", "--bounding-set=-sys_admin,-kill"],
    "ambient": [
        *("--reuid=1234", "--regid=2345", "--clear-groups"),
        *("--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"),
    ],
    "root-with-less": ["--bounding-set=-sys_boot", "--inh-caps=-all"],
}


def who(pid: int) -> dict[str, str]:
    """What /proc tells of it."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    limits = Path(f"/proc/{pid}/limits").read_text()
    return {name: lines[name].strip() for name in WHO} | {"limits": limits}


@pytest.mark.parametrize("user", USERS)
def test_a_program_of_another_user(user: str, target: Callable[..., Any], image: Path, livecr: Any) -> None:
    """It sleeps on, as who it was."""
    limited = ["prlimit", "--nofile=100:200", "--core=0:0", "setpriv", *USERS[user], "sleep", "4"]
    one = target(limited)
    one.until_blocked(230)
    before = who(one.pid)
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    assert who(one.pid) == before
    assert one.wait() == 0
