"""Arguments of one command, by getopt: a third of argparse's start-up time, which counts in `checkpoint`.

Every command describes itself by its usage text and the options that it takes.
"""

from __future__ import annotations

from getopt import GetoptError, gnu_getopt

from livecr.errors import UsageError

__all__ = ["Arguments", "parse", "pid"]


class Arguments:
    """``operand`` and the ``options`` given: a long name to its value, "" for one without."""

    def __init__(self, operand: str, options: dict[str, str]) -> None:
        self.operand = operand
        self.options = options

    def __contains__(self, option: str) -> bool:
        return option in self.options


def parse(
    words: list[str], usage: str, *, operand: str = "", short: str = "", options: tuple[str, ...] = ()
) -> Arguments | None:
    """Take ``words`` apart; None when help was asked for and has been printed.

    ``operand``: the name of the one operand, "" for none. ``options``: long names, ``name=`` where a value
    follows; ``short``: letters in getopt's form, each the first letter of a long name. Raises UsageError.
    """
    way_out = usage.partition("\n")[0]
    try:
        found, rest = gnu_getopt(words, "h" + short, ["help", *options])
    except GetoptError as error:
        raise UsageError(str(error), way_out=way_out) from None
    given = {}
    for name, value in found:
        if name in ("-h", "--help"):
            print(usage)
            return None
        long = next(option for option in options if option.startswith(name.lstrip("-")))
        given[long.rstrip("=")] = value
    if len(rest) != (1 if operand else 0):
        wanted = f"one {operand}" if operand else "no operand"
        raise UsageError(f"{wanted} is expected, not {' '.join(rest) or 'none'}", way_out=way_out)
    return Arguments(rest[0] if operand else "", given)


def pid(text: str) -> int:
    """A PID from the command line. Raises UsageError."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise UsageError(
            f"{text!r} is not a PID", way_out="name a process by its number, as `ps` and `pgrep` tell it"
        )
    return int(text)
