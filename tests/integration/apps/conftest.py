"""What the tests of real programs share: interpreters, compilers, and the fates that a program may meet.

The programs are in tests/programs/apps. They need what scripts/setup installs: compilers for
Go, Rust and Java.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.fates import Lives
from tests.integration.apps.serving import free_port, obstacles
from tests.integration.conftest import until
from tests.integration.waiting import checkpoint

APPS = Path(__file__).parent.parent.parent / "programs" / "apps"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compile tests/programs/apps/NAME: the executable, or the directory of the classes for Java."""
    made: dict[str, Path] = {}
    directory = tmp_path_factory.mktemp("apps")

    def build(name: str) -> Path:
        if name not in made:
            source, output = APPS / name, directory / Path(name).stem
            commands: dict[str, list[str | Path]] = {
                ".c": ["gcc", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", output, source],
                ".rs": ["rustc", "-O", "-o", output, source],
                ".go": ["go", "build", "-o", output, source],
                ".java": ["javac", "-d", output, source],
            }
            environment = os.environ | {"GO111MODULE": "off"}
            subprocess.run(commands[source.suffix], check=True, env=environment, cwd=directory)
            made[name] = output
        return made[name]

    return build


@pytest.fixture(scope="session")
def venv_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a new virtual environment of Debian's Python."""
    directory = tmp_path_factory.mktemp("venv")
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", directory], check=True)
    return directory / "bin" / "python"


@pytest.fixture
def lives(livecr: Callable[..., Any], tmp_path: Path) -> Lives:
    """What becomes of a program: ``lives.through("restored", one)``."""
    return Lives(livecr, tmp_path)


@pytest.fixture
def port() -> int:
    """For the server of a test."""
    return free_port()


@pytest.fixture
def lives_on(livecr: Any, tmp_path: Path) -> Callable[..., Iterator[str]]:
    """``for life in lives_on(one)``: three times, with a checkpoint and a restore in between."""

    def lead(one: Any, dead_s: float = 0.2) -> Iterator[str]:
        yield "started"
        for life in ("left-running", "restored"):
            # Its clients have hung up; that it has noticed is not known from outside.
            until(lambda: not obstacles(one.pid), "livecr check has nothing against it")
            image = tmp_path / f"{one.pid}-{life}.livecr"
            checkpoint(one, image, livecr, leave_running=life == "left-running")
            if life == "restored":
                time.sleep(dead_s)  # time that must not count
                one.restore(image)
            yield life

    return lead
