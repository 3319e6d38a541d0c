"""Programs that make terminals and have others at work in them: tmux, script, expect.

Of a restore that is not exact they would notice keys or output that are lost, a shell that has hung up or is
not their child, a job that ^C does not reach, and another size of the terminal.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.apps.serving import obstacles
from tests.integration.conftest import until
from tests.integration.console import Console


@pytest.fixture
def tmux(target: Callable[..., Any]) -> Iterator[tuple[Any, Callable[..., str]]]:
    """A tmux server in the foreground, with no session yet, and its client: ``say("new-session", …)``."""
    with tempfile.TemporaryDirectory(prefix="livecr-tmux-") as directory:  # a socket's path must be short
        command = ["tmux", "-S", f"{directory}/socket", "-f", "/dev/null"]
        one = target([*command, "-D"], SHELL="/bin/bash")

        def say(*words: str) -> str:
            done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=20)
            assert done.returncode == 0, done.stderr
            return done.stdout

        until(lambda: os.path.exists(f"{directory}/socket"), "it listens")
        yield one, say
        one.end()


def test_tmux(
    tmux: tuple[Any, Callable[..., str]],
    lives_on: Callable[..., Iterator[str]],
    livecr: Any,
    tmp_path: Path,
) -> None:
    """Two windows: a shell, of which a variable, a job and the screen stay; and one in which something waits.
    In the end somebody sits down at it."""
    one, say = tmux
    say("new-session", "-d", "-s", "it", "-x", "90", "-y", "20", "bash --norc")
    say("set-option", "-g", "remain-on-exit", "on")
    say("new-window", "-d", "-t", "it:1", "read -r line; echo got $line; exit 7")

    def screen(window: int) -> str:
        return say("capture-pane", "-p", "-S", "-100", "-t", f"it:{window}")

    def keys(window: int, *names: str) -> None:
        say("send-keys", "-t", f"it:{window}", *names)

    def running() -> str:
        return say("display-message", "-p", "-t", "it:0", "#{pane_current_command}").strip()

    keys(0, "count=0; stty size; sleep 600 & echo job $!", "Enter")
    until(lambda: "20 90" in screen(0) or "19 90" in screen(0), "the shell answers")
    for number, life in enumerate(lives_on(one), start=1):
        keys(0, f"echo {life} $((count += 1)) $(tput cols)", "Enter")
        until(lambda: f"\n{life} {number} 90\n" in screen(0), "the shell goes on")  # noqa: B023 (called at once)
        keys(0, "cat", "Enter")
        until(lambda: running() == "cat", "cat is in the foreground")
        keys(0, "some words", "Enter")
        until(lambda: screen(0).split("\n").count("some words") == 2 * number, "cat is there")  # noqa: B023
        keys(0, "C-c")
    assert "\nstarted 1 90\n" in screen(0), "what had been on the screen"
    keys(0, "kill %1; wait %1; echo it ended by $?", "Enter")
    until(lambda: "\nit ended by 143\n" in screen(0), "its job is its child")
    keys(1, "a line", "Enter")
    until(lambda: "\ngot a line\n" in f"\n{screen(1)}", "what waited has gone on")
    until(lambda: say("list-panes", "-t", "it:1", "-F", "#{pane_dead_status}") == "7\n", "tmux waits for it")
    socket = say("display-message", "-p", "#{socket_path}").strip()
    somebody = Console("tmux", "-S", socket, "attach", cwd=tmp_path)
    try:
        somebody.type("echo $((count + 100))\r")
        somebody.until_seen("103")
        assert "connected" in livecr("check", one.pid, exit_code=3).stderr
        somebody.type("\2d")  # the prefix key, and d to detach
        somebody.until_seen("detached")
    finally:
        somebody.close()
    until(lambda: not obstacles(one.pid), "it can be checkpointed again")
    say("kill-server")
    assert one.wait() == 0


def test_script(target: Callable[..., Any], lives_on: Callable[..., Iterator[str]], tmp_path: Path) -> None:
    """A shell at a terminal whose session is recorded: all of it is in the typescript, once."""
    fifo, typescript = tmp_path / "fifo", tmp_path / "typescript"
    os.mkfifo(fifo)
    shell = 'exec script -q -f -c "bash --norc -i" "$2" <>"$1"'
    one = target(["dash", "-c", shell, "dash", fifo, typescript], HISTFILE="/dev/null")

    def text() -> str:
        return typescript.read_bytes().decode(errors="replace")

    until(lambda: typescript.exists() and re.search(r"[#$] ", text()), "the shell is ready")
    for number, life in enumerate(lives_on(one), start=1):
        fifo.write_text(f"echo {life} $((count += 1)); tty\n")
        answer = rf"[\r\n]{life} {number}\r\n/dev/pts/"
        until(lambda: re.search(answer, text()), "it answers")  # noqa: B023
    fifo.write_text("exit 5\n")
    assert one.wait() == 0
    assert re.findall(r"[\r\n]([a-z-]+) [123]\r\n/dev", text()) == ["started", "left-running", "restored"]


EXPECT = """
set timeout 600
log_user 0
spawn -noecho dash
expect "$ "
send "read line\\r"
puts ready; flush stdout
foreach number {1 2 3} {
    gets stdin line
    send "$line\\r"
    send "echo \\"<\\$line>\\"; read line\\r"
    expect -re {<([a-z-]+)>\\r\\n} {puts "$expect_out(1,string)"; flush stdout}
}
send "\\003"
expect "$ "
send "exit 4\\r"
expect eof
puts "dash [lindex [wait] 3]"
"""


def test_expect_with_dash(
    target: Callable[..., Any], lives_on: Callable[..., Iterator[str]], tmp_path: Path
) -> None:
    """What it spawned is still its own: it talks to it, waits for its answers, and sees how it ends."""
    fifo, source = tmp_path / "fifo", tmp_path / "source"
    os.mkfifo(fifo)
    source.write_text(EXPECT)
    one = target(["dash", "-c", 'exec expect "$1" <>"$2"', "dash", source, fifo], PS1="$ ", ENV="")
    one.until_printed("ready\n")
    for life in lives_on(one):
        fifo.write_text(f"{life}\n")
        one.until_printed(f"{life}\n")
    assert one.wait() == 0
    assert one.output().split() == ["ready", "started", "left-running", "restored", "dash", "4"]
