"""A program of another user: who it is, and what it may, is as it was.

It would have noticed another id, group, capability or limit, and its owner in `ps`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.waiting import RESTORED, again, meet_all, milliseconds

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


def test_programs_of_other_users(target: Callable[..., Any], tmp_path: Path, livecr: Any) -> None:
    """Each sleeps on, as who it was."""

    def attempt(number: int) -> None:
        seconds = milliseconds(len(USERS)) / 1000
        sleepers = {}
        for user, options in USERS.items():
            limited = ["prlimit", "--nofile=100:200", "--core=0:0", "setpriv", *options, "sleep", seconds]
            sleepers[user] = target(limited)
        for one in sleepers.values():
            one.until_blocked(230)
        before = {user: who(one.pid) for user, one in sleepers.items()}
        meet_all(
            [(RESTORED, one, tmp_path / f"{one.pid}.livecr") for one in sleepers.values()],
            livecr,
            dead_seconds=0,
        )
        for one in sleepers.values():
            one.must_run()
        assert {user: who(one.pid) for user, one in sleepers.items()} == before
        assert {user: one.wait() for user, one in sleepers.items()} == dict.fromkeys(USERS, 0)

    again(attempt)
