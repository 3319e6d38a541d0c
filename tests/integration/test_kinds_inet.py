"""Internet sockets without a connection through a checkpoint; whatever has one, or data, is refused by name.

tests/programs/kind_inet.c checks names, options and backlog, then connects to and sends through every socket:
it would notice a port, an option, a buffer size or a peer that is another.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import Target, until


@pytest.fixture
def server(program: Callable[[str], Path], target: Callable[..., Target]) -> Any:
    """Start the program; with it comes the port that it listens on."""

    def start(*words: str) -> tuple[Target, int]:
        one = target([program("kind_inet"), *words])
        one.until_printed("\n")
        assert one.output().startswith("ready ")
        return one, int(one.output().split()[1])

    return start


def is_well(one: Target, port: int) -> None:
    """It checks itself, and ends."""
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, f"ready {port}\nok\n")


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_datagrams_wait(
    fate: str, program: Callable[[str], Path], target: Callable[..., Target], livecr: Any, image: Path
) -> None:
    """It would notice one that is lost, doubled, out of order, or of another sender."""
    one = target([program("kind_udp_queue")])
    one.until_printed("ready")
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    else:
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        one.restore(image)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


def test_without_bpf_datagrams_are_refused(
    program: Callable[[str], Path], target: Callable[..., Target], livecr: Any
) -> None:
    """One that was peeked before would be lost, and nobody would know."""
    one = target([program("kind_udp_queue")])
    one.until_printed("ready")
    said = livecr("check", one.pid, exit_code=3, LIVECR_WITHOUT="bpf").stderr
    assert "has datagrams that are not read yet, and BPF is missing" in said


GROUP = """
import signal, socket
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
group = [socket.socket() for _ in range(3)]
for s in group:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(group[0].getsockname() if s is not group[0] else ('127.0.0.1', 0))
    s.listen(20)
    s.setblocking(False)
print('ready', flush=True)
signal.sigwait({signal.SIGUSR1})
clients = [socket.create_connection(group[0].getsockname()) for _ in range(12)]
accepted = []
for s in group:
    try:
        while True: accepted.append(s.accept())
    except BlockingIOError: pass
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
assert len(accepted) == len(clients), len(accepted)
print('ok', flush=True)
"""


def test_a_group_shares_its_port(target: Callable[..., Target], livecr: Any, image: Path) -> None:
    """SO_REUSEPORT: every client would notice that nobody accepts it."""
    one = target([sys.executable, "-c", GROUP])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


HOLDS = """
import socket, time
s = socket.socket(2, 2)
def with_datagram(data=b'x', host='127.0.0.1'):
    s.bind(('', 0))
    s.sendto(data, (host, s.getsockname()[1]))
"""
NOT_KEPT = {
    "time": ("s.setsockopt(1, 29, 1); with_datagram()", "with time of arrival (SO_TIMESTAMP)"),
    "group": (
        "s.setsockopt(0, 35, socket.inet_aton('239.1.2.3') + socket.inet_aton('127.0.0.1'))\n"
        "s.setsockopt(0, 32, socket.inet_aton('127.0.0.1')); with_datagram(host='239.1.2.3')",
        "sent to 239.1.2.3, a group",
    ),
    "shared port": (
        "s.setsockopt(1, 15, 1); with_datagram(); t = socket.socket(2, 2); t.setsockopt(1, 15, 1)\n"
        "t.bind(s.getsockname())",
        "shares its port",
    ),
    "peeked": ("with_datagram(b''); s.recv(9, socket.MSG_PEEK)", "an empty datagram that was peeked before"),
}


@pytest.mark.parametrize("what", NOT_KEPT)
def test_datagrams_that_cannot_be_kept_are_refused(
    what: str, target: Callable[..., Target], livecr: Any, image: Path
) -> None:
    """It would notice that they are not as they came; they are there still."""
    does, named = NOT_KEPT[what]
    rest = "\nprint('ready', flush=True)\nwhile True: time.sleep(0.01)\n"
    one = target([sys.executable, "-c", HOLDS + does + rest])
    one.until_printed("ready")
    for words in ([], ["--leave-running"]):
        said = livecr("checkpoint", one.pid, "-o", image, *words, exit_code=3).stderr
        assert named in said and "the UDP socket 0.0.0.0:" in said
    assert not image.exists() and not one.has_ended()


@pytest.mark.parametrize("fate", ["left-running", "restored"])
def test_sockets_are_as_before(fate: str, server: Any, livecr: Any, image: Path) -> None:
    """Clients find it under the same ports, and it behaves to them as it was told to."""
    one, port = server()
    if fate == "left-running":
        livecr("checkpoint", one.pid, "-o", image, "--leave-running")
    else:
        livecr("checkpoint", one.pid, "-o", image)
        one.killed()
        one.restore(image)
    assert f"TCP listening at 127.0.0.1:{port}, backlog 5" in livecr("show", image).stdout
    is_well(one, port)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ("connection", "a TCP connection cannot be saved: 127.0.0.1:"),
        ("waiting", "1 connections wait to be accepted on TCP 127.0.0.1:"),
    ],
)
def test_what_would_be_lost_is_refused(extra: str, named: str, server: Any, livecr: Any, image: Path) -> None:
    """`check` foretells it, and the program still has it: the connection, the datagram and so on."""
    one, port = server(extra)
    for words in (["check", one.pid], ["checkpoint", one.pid, "-o", image]):
        said = livecr(*words, exit_code=3).stderr
        assert named in said
        assert f"process {one.pid}, descriptor " in said
    assert not image.exists()
    is_well(one, port)


def test_a_socket_shared_with_another_process_is_refused(server: Any, livecr: Any, image: Path) -> None:
    """Both would want the port. The other process is named."""
    one, port = server()
    pidfd = os.pidfd_open(one.pid)
    reader, writer = os.pipe()
    ours = pidfd_getfd(pidfd, 3)  # its first socket
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(ours)
    try:
        said = livecr("check", one.pid, exit_code=3).stderr
        assert f"is shared with process {child} (" in said
    finally:
        for end in (reader, writer, pidfd):
            os.close(end)
        os.waitpid(child, 0)
    livecr("check", one.pid)
    is_well(one, port)


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """The system call, which Python does not have."""
    import ctypes

    got: int = ctypes.CDLL(None).syscall(438, pidfd, fd, 0)
    assert got >= 0
    return got


def test_a_port_that_is_taken_at_restore_is_refused(server: Any, livecr: Any, image: Path) -> None:
    """Nobody would find the program. Once the port is free it is restored."""
    one, port = server()
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    with socket.create_server(("127.0.0.1", port)):
        said = livecr("restore", image, exit_code=3).stderr
        assert f"TCP socket 127.0.0.1:{port}: it cannot be made again: Address already in use" in said
        assert one.has_ended()
    one.restore(image)
    is_well(one, port)


def test_a_web_server_serves_on(target: Callable[..., Target], livecr: Any, image: Path) -> None:
    """Python's own http.server, whole: a page before the checkpoint, and one after the restore."""
    one = target(["/usr/bin/python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"])
    one.until_printed("Serving HTTP on 127.0.0.1 port ")
    url = f"http://127.0.0.1:{one.output().split()[5]}/output"  # it serves the file that it prints to
    assert b"Serving HTTP" in urllib.request.urlopen(url, timeout=10).read()
    until(lambda: sockets(one.pid) == 1, "it has closed the connection")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    assert b"Serving HTTP" in urllib.request.urlopen(url, timeout=10).read()
    assert one.output().count('"GET /output HTTP/1.1" 200') == 2
    one.signal(signal.SIGKILL)
    assert one.wait() == 128 + signal.SIGKILL


def sockets(pid: int) -> int:
    """How many sockets it has."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(link.startswith("socket:") for link in links)
