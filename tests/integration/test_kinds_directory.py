"""Current, root and open directories that are gone, or other than usual; a program checks its own.

It would notice a directory that is back, one that has become two, and names that a restore has left behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import is_as_it_was


@pytest.mark.parametrize("fate", ["left-running", "restored", "restored-twice"])
def test_directories_are_as_they_were(
    fate: str,
    program: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
    place: Path,
    tmp_path: Path,
) -> None:
    """Of a process, of a thread with its own, of a child in the same one and of another in another root."""
    directory = tmp_path / "it"
    directory.mkdir()
    one = target([program("kind_directory"), directory])
    is_as_it_was(one, fate, place, livecr)
    assert sorted(os.listdir(directory)) == ["a", "after", "jail", "replaced", "thread"]


def stays(target: Callable[..., Any], line: str, *words: object) -> Any:
    """A program that executes a line of Python, and then sleeps."""
    code = f"import ctypes, os, subprocess, sys, threading, time\n{line}\nprint('ready', flush=True)\n"
    code += "time.sleep(600)"
    one = target([sys.executable, "-c", code, *map(str, words)])
    one.until_printed("ready")
    return one


def refused(livecr: Any, one: Any, said: str) -> None:
    """By `livecr check` beforehand and by `livecr checkpoint`, for one reason."""
    for command in ("check", "checkpoint"):
        told = livecr(command, one.pid, exit_code=3).stderr
        assert said in told
    assert not one.has_ended()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A directory that something can be mounted over; what is mounted there in the end is unmounted."""
    directory = tmp_path / "mounted"
    directory.mkdir()
    yield directory
    while os.path.ismount(directory):
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.parametrize("what", ["os.chdir(sys.argv[1])", "fd = os.open(sys.argv[1], os.O_RDONLY)"])
def test_one_that_is_mounted_over(what: str, target: Callable[..., Any], livecr: Any, mounted: Path) -> None:
    """Its name leads elsewhere now; when that is undone it can be checkpointed."""
    one = stays(target, what, mounted)
    subprocess.run(["mount", "-t", "tmpfs", "livecr-test", mounted], check=True)
    refused(livecr, one, f"{mounted} is not what its name leads to")
    subprocess.run(["umount", mounted], check=True)
    livecr("check", one.pid)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("file = open(sys.argv[1])", "the file {} is not there"),
        (
            "import mmap; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)",
            "the mapped file {} has been replaced since, or mounted over",
        ),
    ],
)
def test_a_file_that_is_mounted_over(
    what: str, said: str, target: Callable[..., Any], livecr: Any, mounted: Path
) -> None:
    """Also if there is one of that name, with the same number."""
    for number in range(2):
        subprocess.run(["mount", "-t", "tmpfs", "livecr-test", mounted], check=True)
        (mounted / "file").write_text("x" * 4096)
        if number == 0:
            one = stays(target, what, mounted / "file")
    refused(livecr, one, said.format(mounted / "file"))


def test_one_that_is_unmounted(target: Callable[..., Any], livecr: Any, mounted: Path) -> None:
    """A program can live on in a file system that nobody else can reach."""
    subprocess.run(["mount", "-t", "tmpfs", "livecr-test", mounted], check=True)
    one = stays(target, "os.chdir(sys.argv[1])", mounted)
    subprocess.run(["umount", "--lazy", mounted], check=True)
    refused(livecr, one, "its current directory / is not what its name leads to")


def test_one_that_only_the_kernel_makes(target: Callable[..., Any], livecr: Any) -> None:
    """The directory of a process that has ended."""
    code = "child = subprocess.Popen(['sleep', '600']); os.chdir(f'/proc/{child.pid}')"
    code += "; child.kill(); child.wait()"
    refused(livecr, stays(target, code), "of proc, is gone and cannot be made again")


def test_threads_with_descriptors_of_their_own(target: Callable[..., Any], livecr: Any) -> None:
    """What a thread opens for itself would be lost."""
    own = "lambda: (ctypes.CDLL(None).unshare(0x400), done.set(), time.sleep(600))"
    code = f"done = threading.Event(); threading.Thread(target={own}, daemon=True).start(); done.wait()"
    one = stays(target, code)
    refused(livecr, one, "it has a descriptor table of its own")


def test_no_place_to_make_it_again(
    target: Callable[..., Any], livecr: Any, image: Path, tmp_path: Path
) -> None:
    """The restore says which directory is missing, and leaves nothing; when that is there it succeeds."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    one = stays(target, "os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])", tmp_path / "a" / "b")
    livecr("checkpoint", one.pid, "-o", image)
    one.killed()
    (tmp_path / "a").rmdir()
    said = livecr("restore", image, exit_code=3).stderr
    assert f"make {tmp_path}/a" in said
    (tmp_path / "a").mkdir()
    one.restore(image)
    assert os.readlink(f"/proc/{one.pid}/cwd") == f"{tmp_path}/a/b (deleted)"
    assert os.listdir(tmp_path / "a") == []
