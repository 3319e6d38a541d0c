"""A restore yields the whole tree, or nothing: whatever fails, and whenever livecr itself is killed.

"Nothing" is: an exit code and a reason, no process, no zombie, no number taken, an image as it was, from
which the tree can then be restored; and it finds all as it was.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livecr.content import Content
from livecr.image import manifest
from tests.integration.conftest import LIVECR, until

FAULTS = Path(__file__).with_name("faults.py")
#: Programs with much of everything in them, between them: everything.c, and those of tree.c.
TREES = ["sessions", "stopped", "zombies", "sharing"]
#: And others: the program, and what it is told.
OTHERS = {"without-leader": ("no_leader", "child"), "common-memory": ("common_memory", "nested")}
#: Where an error is no reason to give up: what it was, and the file of livecr that knows another way.
ANOTHER_WAY = {
    ("os.open", "kernel/reopen.py"),  # then by another path
    ("lcr_syscall 252", "kinds/scheduling.py"),  # ioprio_get: then it is set
    (
        "open",
        "kinds/huge_pages.py",
    ),  # what the machine is set to is not known: pages are filled where they are
    ("lcr_syscall 250", "kinds/keyrings.py"),  # keyctl: it is told that its session keyring may be another
    ("open", "waits/written.py"),  # the program runs by then, and what it could have read is not put back
}


def in_image(image: Path) -> list[int]:
    """The PIDs in it, the root first."""
    return [record.place.pid for record in manifest.read(str(image), Content).content.processes]


def files_of(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of last change of everything in it."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.rglob("*")}


@pytest.fixture
def frozen(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path, livecr: Any
) -> Callable[[str], tuple[Any, Path]]:
    """Start one of the programs, and checkpoint it."""

    def freeze(kind: str) -> tuple[Any, Path]:
        if kind == "everything":
            directory = place.parent / "things"
            directory.mkdir()
            one = target([program("everything"), "2", directory])
        else:
            name, what = OTHERS.get(kind, ("tree", kind))
            one = target([program(name), what])
        one.until_printed("ready")
        livecr("checkpoint", one.pid, "-o", place / kind)
        one.killed()
        return one, place / kind

    return freeze


def restores(one: Any, image: Path) -> None:
    """All is as it was."""
    one.restore(image)
    one.signal(signal.SIGUSR1)
    assert (one.wait(60), one.output()) == (0, "ready\nok\n")


@pytest.mark.time_limit(900)
@pytest.mark.parametrize("how", ["fails", "killed", "ends"])
def test_any_step_may_go_wrong(how: str, frozen: Callable[[str], tuple[Any, Path]], place: Path) -> None:
    """The one who would notice is who looks at the machine afterwards: half a tree, a zombie, a hang."""
    made = [frozen(kind) for kind in ["everything", *TREES, *OTHERS]]
    before = files_of(place), {one.pid: files_of(one.output_file.parent) for one, _ in made}
    done = subprocess.run(
        [sys.executable, FAULTS, how, *(image for _, image in made)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    attempts = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(attempts) > 50
    bad = [attempt for attempt in attempts if not is_right(how, attempt)]
    assert not bad, "\n".join(map(str, bad))
    assert before == (files_of(place), {one.pid: files_of(one.output_file.parent) for one, _ in made})
    for one, image in made:
        restores(one, image)


def is_right(how: str, attempt: dict[str, Any]) -> bool:
    """All or nothing, and livecr says which."""
    (what, where, *_), _ = attempt["step"]
    if attempt["code"] == 0 and not attempt["has_come"]:
        return bool(attempt["whole"])  # it was not made so many times this time
    if how == "ends":
        late = where.startswith("waits/written.py")  # all have been let go
        return attempt["code"] == -signal.SIGKILL and (attempt["whole"] if late else not attempt["left"])
    if attempt["code"] == 0:
        # A process that is killed while others run already has been killed in the running program.
        late = how == "killed" and where.startswith("target/tracee.py")
        another_way = (what, where.partition(":")[0]) in ANOTHER_WAY
        return attempt["whole"] and (late or another_way)
    reason = attempt["said"].startswith("livecr: ") and "internal error" not in attempt["said"]
    return attempt["code"] in (3, 4, 5) and reason and not attempt["left"]


@pytest.mark.parametrize("which", [0, -1])
def test_a_number_is_taken(
    which: int,
    frozen: Callable[[str], tuple[Any, Path]],
    program: Callable[[str], Path],
    target: Callable[..., Any],
    livecr: Any,
) -> None:
    """Of the root, or of another process: it is told whose it is, and what to do."""
    one, image = frozen("family")
    pids = in_image(image)

    other = target([program("with_number"), pids[which]])
    other.until_printed("ready")
    said = livecr("restore", image, "--detach", exit_code=3).stderr
    assert f"number {pids[which]} is taken by process {pids[which]}, with_number" in said
    assert not [pid for pid in pids if is_of_tree(pid)]
    other.end()
    restores(one, image)


def test_a_file_is_missing(
    frozen: Callable[[str], tuple[Any, Path]], program: Callable[[str], Path], livecr: Any
) -> None:
    """The executable, what a descriptor is open for, or a file of the image: each is named."""
    one, image = frozen("family")
    for path, code in (
        (program("tree"), 3),
        (one.output_file, 3),
        (image / f"{in_image(image)[-1]}.core", 5),
    ):
        aside = path.with_name("aside")
        path.rename(aside)
        try:
            assert str(path) in livecr("restore", image, "--detach", exit_code=code).stderr
        finally:
            aside.rename(path)
    copy = image.with_name("without-manifest")
    shutil.copytree(image, copy)
    (copy / "manifest.json").unlink()
    livecr("restore", copy, exit_code=5)
    restores(one, image)


def test_livecr_is_killed_at_any_instant(frozen: Callable[[str], tuple[Any, Path]]) -> None:
    """Also between two steps, inside of one, and while it is no Python that runs."""
    one, image = frozen("sessions")
    pids, took_s, seed = in_image(image), 1.0, random.randrange(1 << 30)
    chance = random.Random(seed)
    halves = []
    for _ in range(12):
        began = time.monotonic()
        restorer = subprocess.Popen([LIVECR, "restore", image, "--detach"], stdout=subprocess.PIPE)
        try:
            restorer.wait(chance.uniform(0, took_s))
            took_s = time.monotonic() - began
        except subprocess.TimeoutExpired:
            restorer.kill()
        printed = restorer.communicate()[0]

        def alive() -> list[int]:
            return [pid for pid in pids if is_of_tree(pid)]

        if not printed:
            give_up = time.monotonic() + 20
            while alive() not in ([], pids) and time.monotonic() < give_up:
                time.sleep(0.01)
        if alive() not in ([], pids):
            halves.append(alive())
        for pid in reversed(alive()):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(), "what was restored has ended")
    assert not halves, f"with the seed {seed}"
    restores(one, image)


DIES_AS_IT_ENDS_THEM = """
import os, signal, sys
import livecr
from livecr.target import freeze

def kill(process):
    real(process)
    os.kill(os.getpid(), signal.SIGKILL)

real, freeze.kill = freeze.kill, kill
livecr.checkpoint(int(sys.argv[1]), sys.argv[2])
"""


def test_livecr_is_killed_as_it_ends_the_program(
    program: Callable[[str], Path], target: Callable[..., Any], place: Path
) -> None:
    """When one process of it is dead already, the image is complete: none of the others runs on."""
    one = target([program("tree"), "sessions"])
    one.until_printed("ready")
    driver = [sys.executable, "-c", DIES_AS_IT_ENDS_THEM, str(one.pid), str(place / "image")]
    assert subprocess.run(driver).returncode == -signal.SIGKILL
    one.killed()
    pids = in_image(place / "image")
    assert len(pids) > 2
    try:
        until(lambda: not [pid for pid in pids if is_of_tree(pid)], "all have ended")
    finally:
        for pid in filter(is_of_tree, pids):
            os.kill(pid, signal.SIGKILL)
    restores(one, place / "image")


def is_of_tree(pid: int) -> bool:
    """Whether it runs, and is not another's process that has got the number."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        name = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return False
    return state not in "ZX" and name.startswith(("tree", "memfd:livecr-seed"))
