"""Servers and their clients: where the executables are, ports, requests. Tests of servers use this."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from shutil import which

from tests.integration.conftest import LIVECR

__all__ = ["answers", "ask", "free_port", "obstacles", "server"]

UNPACKED = Path(__file__).parents[3] / "build" / "servers" / "usr"
#: Where Debian's packages have executables, below /usr.
_PLACES = ("bin", "sbin", "lib/postgresql/15/bin")


def server(name: str) -> str:
    """The executable: installed, or as scripts/setup has unpacked it."""
    places = [f"{usr}/{place}" for usr in ("/usr", UNPACKED) for place in _PLACES]
    found = which(name) or which(name, path=":".join(places))
    assert found, f"there is no {name}: run scripts/setup packages"
    return found


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
        return number


def ask(port: int, *lines: str, end: str) -> str:
    """A client that sends lines, reads until the answer to all ends with ``end``, and goes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall("".join(f"{line}\r\n" for line in lines).encode())
        answer = b""
        while not answer.endswith(end.encode()):
            got = client.recv(65536)
            assert got, f"it hung up after {answer!r}"
            answer += got
        return answer.decode()


def obstacles(pid: int) -> str:
    """What `livecr check` has against a checkpoint of it."""
    done = subprocess.run([LIVECR, "check", str(pid)], capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def answers(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True
