"""Servers, driven by their own clients: at first, after a checkpoint that lets them run, and after a restore.

Clients have gone when a checkpoint is made. Of a restore that is not exact a server's users would notice data
that is lost, a port on which nobody answers, and timers of the server's that expire early or late.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.conftest import APPS
from tests.integration.apps.fates import Lives
from tests.integration.apps.serving import answers, ask, free_port, server
from tests.integration.conftest import Disturbed, until
from tests.integration.waiting import again

NS_PER_S = 1_000_000_000
#: What a server, its client and a busy machine may take, where a test looks from outside.
SLACK_S = 1.0


def test_redis(
    port: int, target: Callable[..., Any], lives_on: Callable[..., Iterator[str]], tmp_path: Path
) -> None:
    """It has its data; keys expire by the wall clock; its threads work, and it can fork to save."""
    (tmp_path / "redis-server").symlink_to(server("redis-check-rdb"))  # one executable with several names
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path]
    one = target([tmp_path / "redis-server", *options])
    until(lambda: answers(port), "it listens")

    def cli(*words: object) -> str:
        command = ["redis-cli", "-p", str(port), *(str(word) for word in words)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()

    def info(name: str) -> str:
        lines = (line.strip().partition(":") for line in cli("INFO").splitlines())
        return next(value for key, _, value in lines if key == name)

    began_s, run_id, gone_at_ms = time.time(), info("run_id"), 0
    for number, life in enumerate(lives_on(one), start=1):
        assert cli("SADD", "set", *(f"{life}-{i}" for i in range(1000))) == "1000"
        assert cli("SCARD", "set") == str(1000 * number)
        assert info("run_id") == run_id
        if life == "left-running":
            gone_at_ms = round(time.time() * 1000) + 3000
            assert cli("SET", "short", "a value", "PXAT", gone_at_ms) == "OK"
    assert int(cli("PEXPIRETIME", "short")) == gone_at_ms, "it has expired, or will at another time"
    assert cli("GET", "short") == "a value"
    assert abs(int(info("uptime_in_seconds")) - (time.time() - began_s)) <= 1 + SLACK_S
    assert cli("SMISMEMBER", "set", "started-0", "left-running-999", "restored-1000") == "1\n1\n0"
    freed = int(info("lazyfreed_objects"))
    assert cli("UNLINK", "set") == "1"
    until(lambda: int(info("lazyfreed_objects")) > freed, "a thread has freed what was unlinked")
    assert cli("BGSAVE") == "Background saving started"
    until(lambda: info("rdb_bgsave_in_progress") == "0", "its child has saved the data")
    assert info("rdb_last_bgsave_status") == "ok"
    assert (tmp_path / "dump.rdb").read_bytes().startswith(b"REDIS")
    until(lambda: not cli("GET", "short"), "the key expires")
    assert 0 <= time.time() * 1000 - gone_at_ms <= SLACK_S * 1000
    subprocess.run(["redis-cli", "-p", str(port), "SHUTDOWN", "NOSAVE"], timeout=20)
    assert one.wait() == 0


def test_memcached(port: int, target: Callable[..., Any], lives_on: Callable[..., Iterator[str]]) -> None:
    """All its threads serve. Its clock is CLOCK_MONOTONIC: an item does not grow older in the image."""
    one = target([server("memcached"), "-u", "root", "-l", "127.0.0.1", "-p", str(port), "-t", "4"])
    until(lambda: answers(port), "it listens")
    stored, keeps_s, dead_s = "STORED\r\n", 1000, 3.0

    def left_s() -> int:
        return int(ask(port, "mg item t", end="\r\n").removeprefix("HD t"))

    assert ask(port, f"set item 0 {keeps_s} 1", "0", end=stored) == stored
    set_at_s = time.monotonic()
    for number, life in enumerate(lives_on(one, dead_s), start=1):
        for client in range(8):  # connections are given to the threads in turn
            assert ask(port, f"set key{client} 0 0 {len(life)}", life, end=stored) == stored
            assert f"\r\n{life}\r\n" in ask(port, f"get key{client}", end="END\r\n")
        assert int(ask(port, "incr item 1", end="\r\n")) == number
    left = left_s()
    lived_s = time.monotonic() - set_at_s - dead_s
    assert keeps_s - lived_s - 1 <= left <= keeps_s  # it counts whole seconds
    until(lambda: left_s() <= left - 2, "it counts on")
    assert time.monotonic() - set_at_s - dead_s >= lived_s + 1
    one.signal(signal.SIGTERM)
    assert one.wait() == 0


def test_nginx(
    port: int, target: Callable[..., Any], lives_on: Callable[..., Iterator[str]], tmp_path: Path
) -> None:
    """It serves files and counts its requests; every request is in its log, once."""
    (tmp_path / "page").write_text("the page\n")
    places = " ".join(
        f"{name}_temp_path {tmp_path};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; user root; pid {tmp_path}/pid; events {{}} http {{ {places}"
        f" keepalive_timeout 0; log_format uri $uri; access_log {tmp_path}/log uri;"
        f" server {{ listen 127.0.0.1:{port}; root {tmp_path}; location /status {{ stub_status; }} }} }}"
    )
    one = target([server("nginx"), "-c", tmp_path / "nginx.conf", "-e", tmp_path / "errors"])
    until(lambda: answers(port), "it listens")
    for _ in lives_on(one):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=20) as page:
            assert page.read() == b"the page\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=20) as status:
        accepts, handled, requests = map(int, status.read().splitlines()[2].split())
    assert accepts == handled >= requests == 4
    one.signal(signal.SIGTERM)
    assert one.wait() == 0, one.output()
    assert (tmp_path / "log").read_text().split() == ["/page"] * 3 + ["/status"]
    assert not (tmp_path / "errors").read_text()


def json_by_line(port: int) -> dict[str, Any]:
    """From server.py."""
    answer: dict[str, Any] = json.loads(ask(port, "hello", end="\n"))
    return answer


def json_by_http(port: int) -> dict[str, Any]:
    """From server.js."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello", timeout=20) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


@pytest.mark.parametrize(
    ("interpreter", "source", "client", "grain_ms"),
    [("/usr/bin/python3", "server.py", json_by_line, 1), ("node", "server.js", json_by_http, 2)],
)
def test_a_server_with_timers(
    interpreter: str,
    source: str,
    client: Callable[[int], dict[str, Any]],
    grain_ms: int,
    target: Callable[..., Any],
    lives_on: Callable[..., Iterator[str]],
    lives: Lives,
) -> None:
    """An event loop accepts clients, goes on counting, and is in time for what it had set before."""

    def attempt(_: int) -> None:
        port, deadline_ms, ticks = free_port(), lives.wait_ms(), 0
        one = target([interpreter, APPS / source, str(port), str(deadline_ms)])
        until(lambda: answers(port), "it listens")
        for _life in lives_on(one):
            told = client(port)
            assert told["line"].strip("/") == "hello"
            assert told["ticks"] >= ticks
            ticks = told["ticks"]
            until(lambda: client(port)["ticks"] > ticks, "it ticks")  # noqa: B023 (called at once)
        if told["deadline_took_ns"]:
            raise Disturbed("the deadline was over before livecr was done")
        until(lambda: client(port)["deadline_took_ns"], "the deadline is met")
        late_ns = client(port)["deadline_took_ns"] - deadline_ms * 1_000_000
        assert late_ns > -grain_ms * 1_000_000
        if late_ns > SLACK_S * NS_PER_S:
            raise Disturbed(f"{late_ns} ns late")

    again(attempt)


def test_http_server_of_python(
    port: int, target: Callable[..., Any], lives_on: Callable[..., Iterator[str]], tmp_path: Path
) -> None:
    """`python3 -m http.server`, as everybody uses it."""
    (tmp_path / "page").write_text("the page\n")
    options = ["--bind", "127.0.0.1", "--directory", tmp_path, str(port)]
    one = target(["/usr/bin/python3", "-u", "-m", "http.server", *options])
    until(lambda: answers(port), "it listens")
    for _ in lives_on(one):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=20) as page:
            assert page.read() == b"the page\n"
    assert one.output().count('"GET /page HTTP/1.1" 200') == 3


def test_inotifywait(
    target: Callable[..., Any], lives_on: Callable[..., Iterator[str]], tmp_path: Path
) -> None:
    """It tells of every file that is made while it lives, once and in order."""
    watched = tmp_path / "watched"
    watched.mkdir()
    one = target(["inotifywait", "--monitor", "--event", "create", "--format", "%f", watched])
    one.until_printed("Watches established")
    names = []
    for life in lives_on(one):
        for number in range(3):
            names.append(f"{life}-{number}")
            (watched / names[-1]).touch()
        one.until_printed(names[-1])
    assert one.output().split("established.\n")[1].split() == names


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_transaction_of_sqlite(
    journal_mode: str, target: Callable[..., Any], lives_on: Callable[..., Iterator[str]], tmp_path: Path
) -> None:
    """Nobody sees what is not committed, nobody else may write, and it can commit in the end."""
    database = tmp_path / "database"
    one = target(["/usr/bin/python3", APPS / "transaction.py", database, journal_mode])
    one.until_printed("ready")
    for life in lives_on(one):
        with closing(sqlite3.connect(database, timeout=0)) as other:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            if journal_mode == "wal":
                assert other.execute("SELECT count(*) FROM numbers").fetchone() == (1,), life
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\ndone\n")
    with closing(sqlite3.connect(database)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert other.execute("SELECT count(*) FROM numbers").fetchone() == (2000,)
