"""Unix sockets that are connected to another program: here to the test itself.

By default that refuses a checkpoint, but for datagram sockets that send to a server by its name, as syslog(3)
does. With --unix-peer close the restored program finds such a connection closed by the other side.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The first argument is the address. SIGUSR1: it uses its connection and says what it finds.
CLIENT = """
import os, signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
s = socket.socket(socket.AF_UNIX, getattr(socket, sys.argv[2]))
s.connect(sys.argv[1])
print('ready', flush=True)
signal.sigwait({signal.SIGUSR1})
"""
STREAM = """
got = [s.recv(100), s.recv(100)]
try: s.send(b'x'); sent = 'sent'
except BrokenPipeError: sent = 'EPIPE'
print(got, sent, flush=True)
"""
RECVFROM = 45
DATAGRAM = "s.send(b'after'); print('sent', flush=True)\n"


@pytest.fixture
def address() -> Iterator[str]:
    """Short, since sun_path has room for 107 characters."""
    with tempfile.TemporaryDirectory(prefix="livecr-peer-") as directory:
        yield str(Path(directory) / "socket")


@pytest.fixture
def connected(address: str, target: Callable[..., Any]) -> Iterator[tuple[Any, socket.socket]]:
    """The program, and the test's end of its stream, into which a message has been written."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        one = target([sys.executable, "-c", CLIENT + STREAM, address, "SOCK_STREAM"])
        ours, _ = server.accept()
        with ours:
            one.until_printed("ready")
            ours.send(b"before")
            yield one, ours


def test_a_connection_is_refused_with_the_way_out(
    connected: tuple[Any, socket.socket], livecr: Any, image: Path
) -> None:
    """Nothing is closed behind the program's back; `check` foretells what `checkpoint` does."""
    one, _ = connected
    for words in (["check", one.pid], ["checkpoint", one.pid, "-o", image]):
        said = livecr(*words, exit_code=3).stderr
        assert "is connected to process" in said
        assert "--unix-peer close" in said
    livecr("check", one.pid, "--unix-peer", "close")
    livecr("check", one.pid, "--unix-peer", "keep", exit_code=2)


def test_a_closed_connection_ends_like_any_other(
    connected: tuple[Any, socket.socket], livecr: Any, image: Path
) -> None:
    """It still reads what had come, then the end; the other program is told that it ended before that."""
    one, ours = connected
    livecr("checkpoint", one.pid, "-o", image, "--unix-peer", "close")
    one.killed()
    with pytest.raises(ConnectionResetError):
        ours.recv(100)
    one.restore(image)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\n[b'before', b''] EPIPE\n")


def test_a_program_that_runs_on_keeps_its_connection(
    connected: tuple[Any, socket.socket], livecr: Any, image: Path
) -> None:
    """Only the image has it closed."""
    one, ours = connected
    livecr("checkpoint", one.pid, "-o", image, "--unix-peer", "close", "--leave-running")
    one.signal(signal.SIGUSR1)
    one.until_blocked(RECVFROM)  # it has read what was there
    ours.send(b"later")
    assert (one.wait(), one.output()) == (0, "ready\n[b'before', b'later'] sent\n")


def test_a_datagram_socket_is_connected_to_its_server_again(
    address: str, target: Callable[..., Any], livecr: Any, image: Path
) -> None:
    """What it sends arrives; without the server it is not restored."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(20)
        one = target([sys.executable, "-c", CLIENT + DATAGRAM, address, "SOCK_DGRAM"])
        one.until_printed("ready")
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        Path(address).rename(address + "-away")
        said = livecr("restore", image, exit_code=3).stderr
        assert f"the other program's socket {address} cannot be reached" in said
        Path(address + "-away").rename(address)
        one.restore(image)
        one.signal(signal.SIGUSR1)
        assert server.recv(100) == b"after"
        assert (one.wait(), one.output()) == (0, "ready\nsent\n")


# SIGUSR1: it accepts who waits, and says what it finds.
SERVER = """
import os, signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
print('ready', flush=True)
signal.sigwait({signal.SIGUSR1})
s.settimeout(20)
c, _ = s.accept()
print([c.recv(100), c.recv(100)], flush=True)
"""


def test_another_program_waits_to_be_accepted(
    address: str, target: Callable[..., Any], livecr: Any, image: Path
) -> None:
    """That is a connection like any other: refused, or found closed after what had come by it."""
    one = target([sys.executable, "-c", SERVER, address])
    one.until_printed("ready")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        client.send(b"before")
        for words in (["check", one.pid], ["checkpoint", one.pid, "-o", image]):
            said = livecr(*words, exit_code=3).stderr
            assert f"has a connection that waits to be accepted, of process {os.getpid()} (" in said
            assert "--unix-peer close" in said
        livecr("check", one.pid, "--unix-peer", "close")
        livecr("checkpoint", one.pid, "-o", image, "--unix-peer", "close")
        one.killed()
        one.restore(image)
        one.signal(signal.SIGUSR1)
        assert (one.wait(), one.output()) == (0, "ready\n[b'before', b'']\n")
