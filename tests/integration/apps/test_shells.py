"""Shells, make, xargs and Python with processes at work: checkpointed with all of them, in the middle.

Of a restore that is not exact they would notice a child that is not theirs or whose status is lost, lines in
a pipe that are gone or there twice, and tokens of make's job server that nobody gives back.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.conftest import APPS
from tests.integration.conftest import until
from tests.integration.waiting import checkpoint

#: A recipe or a job that is to be met at work goes on when there is a file of this name.
GO = "go"


@pytest.fixture
def twice(livecr: Any, tmp_path: Path) -> Callable[[Any], None]:
    """Checkpoint a tree, which runs on; then again, which ends it, and restore that."""

    def lead(one: Any) -> None:
        checkpoint(one, tmp_path / "left-running.livecr", livecr, leave_running=True)
        image = tmp_path / "restored.livecr"
        checkpoint(one, image, livecr)
        one.restore(image)

    return lead


def lines_of(path: Path) -> list[str]:
    """What is in a file by now; nothing if it is not there."""
    return path.read_text().splitlines() if path.exists() else []


def test_a_pipeline_and_jobs_of_bash(
    target: Callable[..., Any], twice: Callable[[Any], None], tmp_path: Path
) -> None:
    """All lines come through the pipeline, once and in order; `wait` has the status of every job."""
    lines = tmp_path / "lines"
    one = target(["bash", APPS / "pipeline.bash", tmp_path / GO, lines])
    until(lambda: len(lines_of(lines)) >= 40, "lines come through")
    twice(one)
    (tmp_path / GO).touch()
    assert one.wait() == 0, one.output()
    told = ["ready", "patient 3", "early 7", "pipeline 0", "running 1", "endless 143"]
    assert one.output().splitlines() == told
    assert lines_of(lines) == [f"line {number}" for number in range(1, 401)]


def test_a_pipeline_of_dash_that_follows_a_file(
    target: Callable[..., Any], twice: Callable[[Any], None], tmp_path: Path
) -> None:
    """`tail -f` tells of what is appended before the checkpoints, in between and after the restore."""
    log = tmp_path / "log"
    log.touch()
    script = 'tail -n +1 -f "$1" | while read -r word; do echo "$word"; [ "$word" != end ] || exit 5; done'
    one = target(["dash", "-c", script, "dash", log])

    def append(*words: str) -> None:
        with log.open("a") as file:
            file.write("".join(f"{word}\n" for word in words))
        one.until_printed(f"{words[-1]}\n")

    append("one", "two")
    twice(one)
    append("three")
    append("four", "end")
    assert one.wait() == 5  # tail ends as well, since nobody reads its pipe
    assert one.output().split() == ["one", "two", "three", "four", "end"]


def test_make_with_jobs(target: Callable[..., Any], twice: Callable[[Any], None], tmp_path: Path) -> None:
    """A build, with a make inside of make that shares its eight jobs, ends with the right program."""
    project, go = tmp_path / "project", tmp_path / GO
    (project / "inner").mkdir(parents=True)
    names = [f"part{number}" for number in range(16)]
    for number, name in enumerate(names):
        place = project / "inner" if number % 2 else project
        (place / f"{name}.c").write_text(f"int {name}(void) {{ return {3**number}; }}\n")
    calls = " + ".join(f"{name}()" for name in names)
    (project / "main.c").write_text(
        "#include <stdio.h>\n"
        + "".join(f"int {name}(void);\n" for name in names)
        + f'int main(void) {{ printf("%d\\n", {calls}); return 0; }}\n'
    )
    # The upper half of the parts is not compiled before there is the file.
    recipe = f"\t@case $* in part[89]|part1?) until [ -e {go} ]; do sleep 0.05; done;; esac\n"
    recipe += "\t@$(CC) -c -o $@ $<\n"
    outer, inner = (" ".join(f"{name}.o" for name in names[start::2]) for start in (0, 1))
    (project / "Makefile").write_text(
        f"program: main.o {outer} inner/all.a\n\t@$(CC) -o $@ $^\n"
        f"inner/all.a: always\n\t@$(MAKE) --no-print-directory -C inner all.a\n"
        f".PHONY: always\n%.o: %.c\n{recipe}"
    )
    (project / "inner" / "Makefile").write_text(f"all.a: {inner}\n\t@ar rc $@ $^\n%.o: %.c\n{recipe}")
    one = target(["make", "-j8", "-C", project, "--no-print-directory"])
    until(lambda: len(list(project.glob("**/*.o"))) >= 2, "parts are compiled")
    twice(one)
    go.touch()
    assert (one.wait(), one.output()) == (0, "")
    done = subprocess.run([project / "program"], check=True, capture_output=True, text=True)
    assert int(done.stdout) == sum(3**number for number in range(16))


def test_xargs_with_four_at_a_time(
    target: Callable[..., Any], twice: Callable[[Any], None], tmp_path: Path
) -> None:
    """Every argument is worked on once, never more than four at a time; a failure is told in the end."""
    waiting = '[ $1 -lt 8 ] || until [ -e "$0" ]; do sleep 0.05; done'
    work = f"echo begin $1; {waiting}; sleep 0.01; echo end $1; [ $1 -ne 9 ]"
    command = f"seq 24 | xargs -P4 -n1 sh -c '{work}' {tmp_path / GO}"
    one = target(["sh", "-c", command])
    one.until_printed("end 2\n")
    twice(one)
    (tmp_path / GO).touch()
    assert one.wait() == 123  # what xargs says if a command has failed
    running: set[str] = set()
    most = 0
    told = one.output().splitlines()
    for line in told:
        what, number = line.split()
        running ^= {number}
        assert (number in running) == (what == "begin"), told
        most = max(most, len(running))
    assert sorted(told) == sorted(f"{what} {n}" for n in range(1, 25) for what in ("begin", "end"))
    assert most == 4


def test_subprocesses_of_python(
    target: Callable[..., Any], twice: Callable[[Any], None], tmp_path: Path
) -> None:
    """Three children with two of their own answer as before, and their parents see how they end."""
    one = target(["/usr/bin/python3", APPS / "children.py", tmp_path / GO])
    one.until_printed("ready\n")
    twice(one)
    (tmp_path / GO).touch()
    assert one.wait() == 0, one.output()
    assert one.output() == f"ready\n{sum(number**2 for number in range(200))} [3, 3, 3]\n"


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_shared_memory_of_python(
    method: str, target: Callable[..., Any], twice: Callable[[Any], None], tmp_path: Path
) -> None:
    """Workers of multiprocessing count in one memory and tell a manager: nothing is lost or twice."""
    one = target(["/usr/bin/python3", APPS / "shared.py", method, tmp_path / GO])
    one.until_printed("ready\n")
    twice(one)
    (tmp_path / GO).touch()
    assert one.wait() == 0, one.output()
    counted = [(number, 100) for number in range(1, 5)]
    assert one.output() == f"ready\n{sum(n * times for n, times in counted)} {counted} [0, 0, 0, 0]\n"
