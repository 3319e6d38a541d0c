"""Unix sockets whose both ends are in the program, which checks every one of them itself."""

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
from tests.integration.conftest import until


@pytest.fixture(params=["left-running", "left-running-twice", "restored", "restored-twice"])
def fate(request: pytest.FixtureRequest, livecr: Any, tmp_path: Path) -> Callable[[Any], None]:
    """What becomes of a program: checkpointed and left running, or killed and restored; and that again."""

    def befall(one: Any) -> None:
        for turn in range(2 if request.param.endswith("twice") else 1):
            image = tmp_path / f"{turn}.livecr"
            if request.param.startswith("left"):
                livecr("checkpoint", one.pid, "-o", image, "--leave-running")
            else:
                livecr("checkpoint", one.pid, "-o", image)
                one.killed()
                one.restore(image)

    return befall


@pytest.fixture
def directory() -> Iterator[Path]:
    """One with a short name, since sun_path has room for 107 characters."""
    with tempfile.TemporaryDirectory(prefix="livecr-unix-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def checks_itself(one: Any) -> None:
    """It finds everything as it was."""
    one.signal(signal.SIGUSR1)
    assert (one.wait(), one.output()) == (0, "ready\nok\n")


@pytest.mark.parametrize("user", [0, 1234])
def test_sockets_are_as_they_were(
    user: int,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    fate: Callable[[Any], None],
    directory: Path,
) -> None:
    """It would notice a lost or joined message, another name, peer, option, creator or end of file."""
    one = target([program("kind_unix_sockets"), directory, str(user)])
    one.until_printed("ready")
    fate(one)
    checks_itself(one)


def test_connections_wait_to_be_accepted(
    program: Callable[[str], Path], target: Callable[..., Any], fate: Callable[[Any], None], directory: Path
) -> None:
    """It would notice a connection that is lost, out of order or somebody else's; what was sent before it was
    accepted, by whom, and what its client did meanwhile."""
    one = target([program("kind_unix_backlog"), directory])
    one.until_printed("ready")
    fate(one)
    checks_itself(one)


def test_without_bpf_waiting_connections_are_refused(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, directory: Path
) -> None:
    """Only accept would tell of them, and it takes them."""
    one = target([program("kind_unix_backlog"), directory])
    one.until_printed("ready")
    said = livecr("check", one.pid, exit_code=3, LIVECR_WITHOUT="bpf").stderr
    assert "has connections that wait to be accepted, which takes BPF to look at" in said


def test_an_image_can_be_restored_again(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, image: Path, directory: Path
) -> None:
    """The socket files that the first restore made and left behind are not in the way of the second."""
    one = target([program("kind_unix_sockets"), directory, "0"])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    one.restore(image)
    one.end()
    one.restore(image)
    checks_itself(one)


def test_an_empty_message_is_kept_or_refused(
    program: Callable[[str], Path], target: Callable[..., Any], livecr: Any, tmp_path: Path, directory: Path
) -> None:
    """Peeking shows an empty datagram only once: the second time it must not be lost in silence."""
    one = target([program("kind_unix_sockets"), directory, "0", "empty"])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", tmp_path / "first", "--leave-running")
    said = livecr("checkpoint", one.pid, "-o", tmp_path / "second", exit_code=3).stderr
    assert "it holds an empty message that was peeked before" in said
    one.signal(signal.SIGKILL)
    one.killed()
    one.restore(tmp_path / "first")
    checks_itself(one)


# -- refusals ----------------------------------------------------------------------------------------------

START = "import os, socket, sys, time\na, b = socket.socketpair()\nname = f'\\0refused-{os.getpid()}'\n"
LISTEN = "l = socket.socket(1); l.bind(name); l.listen(); c = socket.socket(1); c.connect(name)"
WAIT = "\nprint('ready', flush=True)\nwhile True: time.sleep(0.01)\n"

# What a program does, and how the refusal names it; {pid} is its own.
REFUSED = {
    "urgent data": ("a.send(b'x'); a.send(b'y', socket.MSG_OOB)", "urgent data"),
    "a waiting connection with a descriptor": (
        LISTEN + "; socket.send_fds(c, [b'x'], [1])",
        "a connection that waits holds a message with descriptors",
    ),
    "a waiting connection with much in it": (
        LISTEN + "; c.send(bytes(10000))",
        "a connection that waits holds a message of several pages",
    ),
    "a waiting connection with urgent data": (
        LISTEN + "; c.send(b'x', socket.MSG_OOB)",
        "a connection that waits holds urgent data",
    ),
    "a waiting connection with other options": (
        LISTEN + "; l.setsockopt(1, socket.SO_PASSCRED, 1)",
        "a connection that waits holds other options",
    ),
    "a waiting connection of a child that has ended": (
        "l = socket.socket(1); l.bind(name); l.listen()\n"
        "if not (child := os.fork()): socket.socket(1).connect(name); os._exit(0)\n"
        "os.waitpid(child, 0)",
        "(SO_PEERCRED), which is not there",
    ),
    "a replaced file": (
        "s = socket.socket(1); p = sys.argv[1]; s.bind(p); os.unlink(p); open(p, 'w')",
        "is bound to a file that has been replaced",
    ),
    "a sender that is gone": (
        "r = socket.socket(1, 2); r.bind(name); s = socket.socket(1, 2); s.bind(name + 's')\n"
        "s.sendto(b'x', name); s.close()",
        "it holds a message from",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(
    what: str, target: Callable[..., Any], livecr: Any, image: Path, directory: Path
) -> None:
    """The program would lose it; it stays as it is, also for the next attempt."""
    does, named = REFUSED[what]
    one = target([sys.executable, "-c", START + does + WAIT, directory / "bound"])
    one.until_printed("ready")
    for words in ([], ["--leave-running"]):
        said = livecr("checkpoint", one.pid, "-o", image, *words, exit_code=3).stderr
        assert named.format(pid=one.pid) in said
        assert f"process {one.pid}, " in said
    assert not image.exists() and not one.has_ended()


def test_an_outside_peer_is_named(
    target: Callable[..., Any], livecr: Any, image: Path, directory: Path
) -> None:
    """The other process would find its connection cut."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "server"))
        listener.listen()
        does = "c = socket.socket(1); c.connect(sys.argv[1])"
        one = target([sys.executable, "-c", START + does + WAIT, directory / "server"])
        one.until_printed("ready")
        assert "is not connected yet" in livecr("check", one.pid, exit_code=3).stderr
        with listener.accept()[0] as theirs:
            for command in (["check"], ["checkpoint", "-o", image]):
                said = livecr(*command, one.pid, exit_code=3).stderr
                comm = Path("/proc/self/comm").read_text().strip()
                assert f"connected to process {os.getpid()} ({comm}, descriptor {theirs.fileno()})" in said
            assert not one.has_ended() and not image.exists()


def test_a_shared_socket_names_who_else_has_it(target: Callable[..., Any], livecr: Any) -> None:
    """Two processes would have two sockets of what was one."""
    one = target([sys.executable, "-c", START + WAIT])
    one.until_printed("ready")
    livecr("check", one.pid)
    pidfd = os.pidfd_open(one.pid)
    try:
        from livecr._native import lib

        ours = lib.lcr_syscall(438, pidfd, 3, 0, 0, 0, 0)
        try:
            said = livecr("check", one.pid, exit_code=3).stderr
            assert f"is shared with process {os.getpid()} (" in said and f"descriptor {ours})" in said
        finally:
            os.close(ours)
    finally:
        os.close(pidfd)
    livecr("check", one.pid)


# -- what uses them ----------------------------------------------------------------------------------------

ASYNCIO = """
import asyncio, os, signal
async def main():
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, done.set)  # comes in by the loop's self-pipe
    path = os.environ['SERVER']
    async def answer(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
    await asyncio.start_unix_server(answer, path)
    reader, writer = await asyncio.open_unix_connection(path)
    async def ask(word):
        writer.write(word + b'\\n')
        return await reader.readline()
    assert await ask(b'before') == b'BEFORE\\n'
    print('ready', flush=True)
    await done.wait()
    assert await ask(b'after') == b'AFTER\\n'
    again, other = await asyncio.open_unix_connection(path)
    other.write(b'new\\n')
    assert await again.readline() == b'NEW\\n'
    print('ok', flush=True)
asyncio.run(main())
"""


def test_asyncio_goes_on(target: Callable[..., Any], fate: Callable[[Any], None], directory: Path) -> None:
    """Its event loop is woken by its self-pipe, and its server still has its clients and takes new ones."""
    one = target([sys.executable, "-c", ASYNCIO], SERVER=str(directory / "server"))
    one.until_printed("ready")
    one.until_blocked()
    fate(one)
    one.signal(signal.SIGUSR1)
    until(one.has_ended, "it ends")
    assert (one.wait(), one.output()) == (0, "ready\nok\n")
