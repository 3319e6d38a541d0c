"""Servers of many processes: PostgreSQL and its sessions, nginx and its workers, a prefork server.

Of a restore that is not exact they would notice shared memory that is not common any more, locks that nobody
gives back, workers that are not the master's children, or a socket that only some of them listen on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.conftest import APPS
from tests.integration.apps.serving import answers, ask, server
from tests.integration.conftest import until
from tests.integration.waiting import checkpoint

NOBODY = 65534
WORKERS = 3


def children(pid: int) -> set[int]:
    """The children of a process of one thread."""
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.fixture
def sessions(target: Callable[..., Any]) -> Iterator[Any]:
    """A PostgreSQL with five sessions: the tree, and its directory. It refuses to run as root."""
    bin = Path(server("postgres")).resolve().parent
    directory = Path(tempfile.mkdtemp())  # pytest's own is root's, and its path too long for a socket
    try:
        os.chown(directory, NOBODY, NOBODY)
        subprocess.run(
            [
                *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
                *(bin / "initdb", "-D", directory / "data", "-A", "trust", "-U", "postgres"),
                *("--no-sync", "--no-locale", "--encoding=UTF8"),
            ],
            check=True,
            capture_output=True,
            cwd="/",
        )
        one = target(["bash", APPS / "sessions.bash", directory, bin, directory / "data"])
        yield one, directory
        one.end()  # before its files are gone
    finally:
        shutil.rmtree(directory)


def test_postgresql_with_sessions(sessions: Any, livecr: Any, tmp_path: Path) -> None:
    """A transaction is open, one waits for its lock; one has a snapshot, a temporary table; one listens."""
    one, directory = sessions
    one.until_printed("ready\n")

    def out(number: int) -> list[str]:
        return Path(directory, f"out{number}").read_text().splitlines()

    def say(number: int, sql: str) -> None:
        Path(directory, f"in{number}").write_text(f"{sql}\n")

    def query(number: int, sql: str) -> str:
        """The first line of the answer."""
        before = len(out(number))
        say(number, f"{sql}; SELECT 'end';")
        until(lambda: out(number)[before:][-1:] == ["end"], f"an answer to {sql}: {out(number)}")
        return out(number)[before]

    query(1, "CREATE TABLE t (n int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old')")
    query(1, "BEGIN; UPDATE t SET v = 'new'")
    say(2, "BEGIN; UPDATE t SET v = v || '!' WHERE n = 1; COMMIT; SELECT 'updated';")
    query(3, "CREATE TEMPORARY TABLE mine AS SELECT generate_series(1, 1000) i")
    query(3, "PREPARE total AS SELECT sum(i) FROM mine")
    assert query(5, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT v FROM t") == "old"
    query(4, "LISTEN news")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    until(lambda: query(3, waiting) == "1", "session 2 waits for the lock")

    checkpoint(one, tmp_path / "left-running.livecr", livecr, leave_running=True)
    assert query(3, waiting) == "1"
    checkpoint(one, tmp_path / "restored.livecr", livecr)
    one.restore(tmp_path / "restored.livecr")

    assert query(3, waiting) == "1"
    assert query(3, "SELECT v FROM t") == "old"
    assert query(3, "EXECUTE total") == "500500"
    assert query(1, "SELECT v FROM t") == "new"
    assert not out(2)
    query(1, "COMMIT")
    until(lambda: out(2) == ["updated"], "session 2 gets the lock")
    assert query(3, "SELECT v FROM t") == "new!"
    assert query(5, "SELECT v FROM t") == "old"
    query(3, "NOTIFY news, 'of today'")
    query(4, "SELECT 1")
    assert any("news" in line and "of today" in line for line in out(4))
    for number in range(1, 6):
        say(number, r"\q")
    assert one.wait() == 0
    assert one.output().endswith("\npostmaster 0\n")
    assert "has failed" not in one.output() and "PANIC" not in one.output()


def test_nginx_with_workers(
    port: int, target: Callable[..., Any], lives_on: Callable[..., Iterator[str]], tmp_path: Path
) -> None:
    """The workers serve; the master replaces one that has died, and all of them when it is told to."""
    (tmp_path / "page").write_text("the page\n")
    places = " ".join(
        f"{name}_temp_path {tmp_path};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; worker_processes {WORKERS}; user root; pid {tmp_path}/pid; events {{}} http {{ {places}"
        f" keepalive_timeout 0; log_format uri $uri; access_log {tmp_path}/log uri;"
        f" server {{ listen 127.0.0.1:{port}; root {tmp_path}; }} }}"
    )
    one = target([server("nginx"), "-c", tmp_path / "nginx.conf", "-e", tmp_path / "errors"])
    until(lambda: answers(port), "it listens")
    until(lambda: len(children(one.pid)) == WORKERS, "it has its workers")
    asked = 0

    def ask_for_pages() -> None:
        nonlocal asked
        for _ in range(5):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=20) as page:
                assert page.read() == b"the page\n"
            asked += 1

    workers = children(one.pid)
    for _ in lives_on(one):
        assert children(one.pid) == workers
        ask_for_pages()
    os.kill(min(workers), signal.SIGKILL)
    until(lambda: len(children(one.pid) - {min(workers)}) == WORKERS, "it has replaced a worker")
    ask_for_pages()
    workers = children(one.pid)
    one.signal(signal.SIGHUP)
    until(lambda: len(children(one.pid) - workers) == WORKERS, "it has new workers")
    until(lambda: not children(one.pid) & workers, "the old ones have gone")
    ask_for_pages()
    one.signal(signal.SIGQUIT)
    assert one.wait() == 0, one.output()
    assert (tmp_path / "log").read_text().split() == ["/page"] * asked


def test_a_prefork_server_of_perl(
    port: int, target: Callable[..., Any], lives_on: Callable[..., Iterator[str]]
) -> None:
    """All children accept from one queue; the parent sees when one of them ends, in each of its lives."""
    one = target(["perl", APPS / "prefork.pl", str(port)])
    until(lambda: answers(port), "it listens")
    served: dict[str, int] = {}
    for _ in lives_on(one):
        for _request in range(10):
            child, parent, count = ask(port, end="\n").split()
            assert int(child) in children(one.pid)
            assert int(parent) == one.pid
            assert int(count) > served.get(child, 0)
            served[child] = int(count)
        killed = min(children(one.pid))
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(children(one.pid) - {killed}) == 4, "it is replaced")  # noqa: B023 (called at once)
    one.signal(signal.SIGTERM)
    assert (one.wait(), one.output()) == (0, "started 7, ended 4\n")
