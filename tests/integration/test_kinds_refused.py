"""Every kind of descriptor that is refused: `check` foretells in the same words what `checkpoint` says.

Each program opens one and holds it. A kernel or a container that has not that kind is told by the program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import until

# ``call`` makes a system call, ``bytes_of`` lays words of so many bytes out as a structure.
START = """
import ctypes, os, select, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    given = [arg if isinstance(arg, (bytes, ctypes.Array)) else ctypes.c_long(arg) for arg in args]
    result = libc.syscall(number, *given)
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def bytes_of(*words): return b''.join(value.to_bytes(size, 'little') for value, size in words)
a, b = socket.socketpair(1, socket.SOCK_DGRAM)
udp = socket.socket(2, 2); udp.bind(('127.0.0.1', 0))
try:
"""
HOLD = """
except (OSError, AttributeError) as error: print('without:', error, flush=True)
else: print('ready', flush=True)
while True: time.sleep(0.01)
"""

#: What the program does, and how the refusal names it.
KINDS = {
    "fanotify": ("call(300, 0, 0)", "a fanotify group"),
    "userfaultfd": ("call(323, 0)", "a userfaultfd"),
    "perf event": (
        "call(298, bytes_of((1, 4), (112, 4), (0, 32), (0x21, 8), (0, 64)), 0, -1, -1, 0)",
        "a perf event",
    ),
    "BPF map": ("call(321, 0, bytes_of((2, 4), (4, 4), (8, 4), (1, 4), (0, 56)), 72)", "a BPF map"),
    "Landlock ruleset": ("call(444, bytes_of((1, 8)), 8, 0)", "a Landlock ruleset"),
    "secret memory": ("call(447, 0)", "secret memory (memfd_secret)"),
    "fsopen": ("call(430, b'tmpfs\\0', 0)", "a mount being configured (fsopen)"),
    "seccomp listener": (
        "code = ctypes.create_string_buffer(bytes_of((6, 4), (0x7FFF0000, 4)))\n"
        "    libc.prctl(38, 1, 0, 0, 0)\n"
        "    call(317, 1, 8, bytes_of((1, 8), (ctypes.addressof(code), 8)))",
        "seccomp",
    ),
    "network namespace": ("os.open('/proc/self/ns/net', 0)", "a network namespace"),
    "tun": ("os.open('/dev/net/tun', 2)", "the network interface of /dev/net/tun"),
    "fuse": ("os.open('/dev/fuse', 2)", "the FUSE connection of /dev/fuse"),
    "kernel log": ("os.open('/dev/kmsg', 0)", "the device /dev/kmsg"),
    "packet socket": ("s = socket.socket(17, 3)", "a packet socket"),
    "vsock": ("s = socket.socket(40, 1)", "a vsock socket"),
    "AF_ALG": ("s = socket.socket(38, 5)", "a crypto socket (AF_ALG)"),
    "XDP": ("s = socket.socket(44, 3)", "an XDP socket"),
    "MPTCP": ("s = socket.socket(2, 1, 262)", "a multipath TCP socket"),
    "generic netlink": ("s = socket.socket(16, 3, 16)", "NETLINK_GENERIC cannot be saved"),
    "TCP connection": (
        "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname())\n"
        "    s, _ = l.accept()",
        "a TCP connection cannot be saved",
    ),
    "TCP backlog": (
        "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname())\n"
        "    c.close()",
        "connections wait to be accepted on TCP",
    ),
    "UDP-Lite datagrams": (
        "s = socket.socket(2, 2, 136); s.bind(('127.0.0.1', 0)); s.sendto(b'x', s.getsockname())",
        "has datagrams that are not read yet",
    ),
    "UDP errors": (
        "s = socket.socket(2, 2); s.connect(('127.0.0.1', 9)); s.send(b'x')",
        "has errors that are not read yet",
    ),
    "corked datagrams": (
        "udp.setsockopt(17, 1, 1); udp.sendto(b'x', udp.getsockname())",
        "has data that is not sent yet",
    ),
    "inotify events": (
        "i = call(294, 0); call(254, i, os.fsencode(sys.argv[1]), 0x100); open(sys.argv[1] + '/new', 'w')",
        "of events that are not read yet",
    ),
    "stale epoll item": (
        "e = select.epoll(); e.register(a); d = os.dup(a.fileno()); a.close()",
        "the epoll instance watches a file that was descriptor",
    ),
    "pidfd of init": ("os.pidfd_open(1)", "it is a pidfd of process 1"),
    "owner outside": (
        "import fcntl; fcntl.fcntl(a, fcntl.F_SETOWN, 1)",
        "sends signals to pid 1",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_check_foretells_it(
    kind: str, target: Callable[..., Any], livecr: Any, place: Path, tmp_path: Path
) -> None:
    """The program would lose it; the message has a way out, nothing is left, and the program runs on."""
    does, named = KINDS[kind]
    own = tmp_path / "own"
    own.mkdir()
    one = target([sys.executable, "-c", f"{START}    {does}{HOLD}", own])
    until(lambda: one.output(), "it says something")
    if one.output().startswith("without:"):
        pytest.skip(f"{kind}: {one.output()}")
    foretold = livecr("check", one.pid, exit_code=3).stderr
    assert named in foretold and f"process {one.pid}" in foretold
    way_out = foretold.splitlines()[1]
    assert way_out.startswith("    ") and way_out.strip()
    for words in ([], ["--leave-running"]):
        said = livecr("checkpoint", one.pid, "-o", place / "image", *words, exit_code=3).stderr
        assert [line for line in foretold.splitlines() if line.strip() not in said] == []
    assert not list(place.iterdir()) and not one.has_ended()
