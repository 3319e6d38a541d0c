"""The command line: finds the command, prints errors, ends with the exit code. One file per command.

Exit codes: 0 done, 2 usage, 3 refused (nothing was touched), 4 failed (the target is unharmed), 5 damaged or
foreign image; `restore` in the foreground ends as the program ends (128 + N if a signal N killed it).
"""

from __future__ import annotations

import os
import sys

from livecr.errors import LivecrError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

# Command, and what it is for; livecr/cli/COMMAND.py has `run(arguments) -> exit code`.
COMMANDS = {
    "checkpoint": "write a running program to an image, and end it or leave it running",
    "restore": "bring the program of an image back to life",
    "show": "what is in an image",
    "waits": "what each task of a running program is blocked in, and for how much longer",
    "check": "what would stand in the way of a checkpoint",
    "doctor": "what this kernel offers, and what livecr does without it",
}

_INTERNAL_ERROR = 4
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        code = _run(words)
    except BrokenPipeError:
        _let_go_of_output()
        return _INTERNAL_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED
    except LivecrError as error:
        if debug:
            raise
        _complain(f"livecr: {error}")
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        _complain(f"livecr: internal error: {type(error).__name__}: {error}")
        _complain("  run it again with --debug and report what it prints")
        return _INTERNAL_ERROR
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_output()
    return code


def _let_go_of_output() -> None:
    """Whoever read it has gone: what is still buffered would make Python complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(text: str) -> None:
    from livecr.cli.terminal import clean  # names in it come from programs and images

    print(clean(text), file=sys.stderr)


def _run(words: list[str]) -> int:
    command = words[0] if words else "--help"
    if command in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if command in ("-V", "--version"):
        from livecr.image.manifest import LIVECR_VERSION

        print(f"livecr {LIVECR_VERSION}")
        return 0
    if command not in COMMANDS:
        raise UsageError(
            f"there is no command {command!r}",
            way_out="commands: " + ", ".join(COMMANDS) + "; see livecr --help",
        )
    module = __import__(f"livecr.cli.{command}", fromlist=["run"])
    code: int = module.run(words[1:])
    return code


def _overview() -> str:
    rows = "\n".join(f"  {name:<12}{purpose}" for name, purpose in COMMANDS.items())
    return (
        "usage: livecr COMMAND [--debug] …\n\n"
        f"{rows}\n\n"
        "`livecr COMMAND --help` tells more. Exit codes: 0 done, 2 usage, 3 refused (nothing was\n"
        "touched), 4 failed (the target is unharmed), 5 damaged or foreign image."
    )
