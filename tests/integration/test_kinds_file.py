"""Files, paths, owners of signals, leases, pidfds, which a program checks itself; what a file may become."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.errors import Refused
from livecr.kernel import file_handles
from livecr.kinds import other_names
from tests.integration.conftest import is_as_it_was, until

HOLDS = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
os.lseek(fd, 4, 0)
print("ready", flush=True)
while not os.path.exists("go"):
    time.sleep(0.01)
print(os.read(fd, 99))
"""


def restore_refused(livecr: Any, image: Path, *options: str) -> str:
    """What it says, but not that for a moment another process has the program's number."""
    told: list[str] = []

    def is_told() -> bool:
        told.append(livecr("restore", image, *options, exit_code=3).stderr)
        return " is taken by process " not in told[-1]

    until(is_told, "its number is free")
    return told[-1]


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
def test_files_are_as_they_were(
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
    place: Path,
    tmp_path: Path,
) -> None:
    """It would notice a nameless file that cannot be named, a signal to nobody, a child that is another."""
    one = target([program("kind_file"), tmp_path])
    is_as_it_was(one, fate, place, livecr)


@pytest.mark.parametrize(
    ("now", "policies"),
    [
        (b"1234567", {"same": "been written to", "grown": "", "any": ""}),
        (b"12345678", {"same": "8 bytes, and had 7", "grown": "", "any": ""}),
        (b"123", {"same": "3 bytes, and had 7", "grown": "only 3 bytes", "any": ""}),
        (None, {"same": "No such file", "grown": "No such file", "any": "No such file"}),
    ],
)
def test_what_a_file_may_become(
    now: bytes | None,
    policies: dict[str, str],
    target: Callable[..., Any],
    livecr: Any,
    image: Path,
    tmp_path: Path,
) -> None:
    """Refused or not, as --file-policy says; then the program reads on where it was."""
    file = tmp_path / "file"
    file.write_bytes(b"1234567")
    one = target([sys.executable, "-c", HOLDS, file])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    file.unlink()
    if now is not None:
        file.write_bytes(now)
    for policy, said in policies.items():
        if said:
            options = ["--file-policy", policy] if policy != "grown" else []
            assert said in restore_refused(livecr, image, *options)
    allowed = [policy for policy, said in policies.items() if not said]
    if allowed:
        one.restore(image, "--file-policy", allowed[0])
        (tmp_path / "target0" / "go").touch()
        assert (one.wait(), one.output()) == (0, f"ready\n{(now or b'')[4:]!r}\n")


def test_an_unchanged_file_is_the_same(
    target: Callable[..., Any], livecr: Any, image: Path, tmp_path: Path
) -> None:
    """The strictest policy is no obstacle where nothing has changed."""
    file = tmp_path / "file"
    file.write_bytes(b"1234567")
    one = target([sys.executable, "-c", HOLDS, file])
    one.until_printed("ready")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    livecr("restore", image, "--file-policy", "none", exit_code=2)
    one.restore(image, "--file-policy", "same")
    (tmp_path / "target0" / "go").touch()
    assert (one.wait(), one.output()) == (0, "ready\nb'567'\n")


REFUSED = {
    "a pidfd of others": ("os.pidfd_open(int(sys.argv[1]))", "it is a pidfd of process "),
    "an owner outside": (
        "r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, int(sys.argv[1]))",
        "sends signals to pid ",
    ),
    "a path that is gone": (
        "os.symlink('x', 'l'); os.open('l', os.O_PATH | os.O_NOFOLLOW); os.unlink('l')",
        "the symbolic link ",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str, target: Callable[..., Any], livecr: Any) -> None:
    """`livecr check` tells it beforehand, by name, and `livecr checkpoint` the same."""
    line, said = REFUSED[what]
    code = f"import fcntl, os, sys, time\nx = {line}" if line.startswith("os.pidfd") else line
    code = f"import fcntl, os, sys, time\n{code}\nprint('ready', flush=True)\ntime.sleep(600)"
    one = target([sys.executable, "-c", code, str(os.getpid())])
    one.until_printed("ready")
    told = livecr("check", one.pid, exit_code=3).stderr
    assert said in told
    assert said in livecr("checkpoint", one.pid, exit_code=3).stderr


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
@pytest.mark.parametrize("where", ["tmp", "shm"])
def test_files_with_other_names(
    where: str,
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
    place: Path,
    tmp_path: Path,
) -> None:
    """It would notice a copy in place of a file, in what it has open or mapped."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if where == "shm" else tmp_path) as directory:
        one = target([program("kind_names"), directory])
        is_as_it_was(one, fate, place, livecr)
        assert sorted(os.listdir(directory)) in (
            ["below", "beside", "direct", "named"],
            ["below", "beside", "direct"],  # a file system without O_TMPFILE
        )
        assert sorted(os.listdir(f"{directory}/below")) == ["lost", "other"]


def test_a_file_that_only_its_handle_finds() -> None:
    """Opened by it with the flags that it had; refused when it is gone, and not another one opened."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = f"{directory}/file"
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        mount, told, inode = file_handles.mount_of(fd), file_handles.of(fd), os.fstat(fd).st_ino
        assert mount == "/dev/shm" and told
        handle = other_names.Handle(mount="/dev/shm", type=told[0], content=told[1], inode=inode)
        for flags in (os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_NOFOLLOW, os.O_PATH):
            again = other_names.load(handle, path, flags)
            assert os.path.samestat(os.fstat(again), os.fstat(fd))
            assert fcntl.fcntl(again, fcntl.F_GETFL) & (flags | os.O_ACCMODE) == flags
            os.close(again)
        os.close(fd)
        os.unlink(path)
        with pytest.raises(Refused, match="cannot be opened"):
            other_names.load(handle, path, os.O_RDONLY)


@pytest.mark.parametrize("device", ["/dev/net/tun", "/dev/fuse", "userfaultfd"])
def test_devices_with_a_state_of_their_own(device: str, target: Callable[..., Any], livecr: Any) -> None:
    """Refused by name, each with its own way out."""
    opening = "os.open(sys.argv[1], os.O_RDWR)"
    if device == "userfaultfd":
        opening = "ctypes.CDLL(None).syscall(323, 1)"  # UFFD_USER_MODE_ONLY
    elif not os.path.exists(device):
        pytest.skip(f"{device} is not here")
    code = f"import ctypes, os, sys, time\nfd = {opening}\nassert fd >= 0\n"
    code += "print('ready', flush=True)\ntime.sleep(600)"
    one = target([sys.executable, "-c", code, device])
    one.until_printed("ready")
    said = livecr("check", one.pid, exit_code=3).stderr
    assert device in said and "cannot be saved" in said
