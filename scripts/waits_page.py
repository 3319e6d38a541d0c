"""docs/waits.md and docs/waits.svg: the catalog of blocking calls, with what the tests have measured of each.

Facts come from livecr/waits/catalog.py and tests/integration/every_wait.py, measurements from
build/waits.json, which tests/integration/test_waits.py leaves. Called by scripts/waits;
tests/unit/waits/test_page.py holds the committed page against the facts.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from livecr.waits import restart
from livecr.waits.catalog import CATALOG, REENTERED, REENTERED_UNTIMED, Call
from tests.integration.every_wait import ELSEWHERE, ROWS

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURE, RESULTS = ROOT / "docs/waits.md", ROOT / "docs/waits.svg", ROOT / "build/waits.json"
FATES = ("left-running", "restored")
FACTS = ("call", "leaves in rax", "its timeout", "how it is entered again")
MEASURED = ("tested as", "deadline read from", "left running: off by, ns", "restored: off by, ns")

HOW = {
    "redo": "the kernel makes it again",
    "rearm": "its restart block is armed",
    "eintr": "livecr makes it again, with a timeout by a shim",
}
INTRODUCTION = """# Waits

Every system call in which livecr knows how to keep a task blocked, as `livecr/waits/catalog.py` has it, and
what became of it in a test that blocks in all of them at once. This page is made by `sudo scripts/waits`.

*Off by*: how much later the call came back than in an undisturbed twin of the program that ran at the same
time, by the program's own clock, in ns; negative is earlier than the twin, though never before it was due.
Both contain what the machine does by itself: timers and the scheduler are late by some ten thousand ns, and
by more when others use it.

![How much longer each wait took](waits.svg)
"""
AFTER = """
What is left in `rax` is what the freeze makes of the call (`arch/x86/kernel/signal.c`). `ERESTARTSYS`,
`ERESTARTNOINTR` and `ERESTARTNOHAND`: the kernel makes the call again from its registers; select and its kin
with the time that is left. `ERESTART_RESTARTBLOCK`: it goes on from a restart block, which livecr lets the
kernel itself arm. `EINTR`: the call is over, and livecr makes it again unless a signal of the program's own
has ended it.

Besides, for each of these: a signal before, during and after the checkpoint, with and without `SA_RESTART`
(`tests/integration/test_wait_matrix.py`).
"""


def codes(row: Call) -> str:
    """Names of the restart codes that it may leave."""
    return ", ".join("EINTR" if code == restart.EINTR else restart.CODES[code].name for code in row.codes)


def how(row: Call) -> str:
    """In words, for each of its codes."""
    words = [HOW[restart.how(code)] for code in row.codes]
    if row.how == "eintr" and row.number not in REENTERED:
        words = ["livecr makes it again" if row.number in REENTERED_UNTIMED else "refused by name"]
    return "; ".join(dict.fromkeys(words))


def facts(row: Call) -> tuple[str, ...]:
    """What the catalog says of a call: the first cells of its line."""
    return f"`{row.name}`", codes(row), row.encoding or "none", how(row)


def measured(row: Call, results: dict[str, Any]) -> tuple[str, ...]:
    """What the tests say of it: the other cells."""
    kinds = [kind.name for kind in ROWS if kind.call == row.name and kind.name in results]
    if not kinds:
        return ELSEWHERE.get(row.name, "not on this kernel"), "", "", ""
    sources = sorted({results[kind]["source"] for kind in kinds} - {""})
    off = [f"{worst(results, kinds, fate):,}".replace(",", " ") for fate in FATES]
    return ", ".join(kinds), ", ".join(sources), *off


def worst(results: dict[str, Any], kinds: list[str], fate: str) -> int:
    return max((int(results[kind]["off_ns"][fate]) for kind in kinds), key=abs)


def line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def page(results: dict[str, Any]) -> str:
    head = [line(FACTS + MEASURED), line(("---",) * len(FACTS + MEASURED))]
    body = [line(facts(row) + measured(row, results)) for row in CATALOG.values()]
    return "\n".join([INTRODUCTION, *head, *body, AFTER])


def draw(results: dict[str, Any]) -> str:
    """For each kind two bars on a logarithmic scale from 1 µs; the line is at 1 ms."""
    left, width, height, colours = 150, 560, 11, {"left-running": "#3a7d44", "restored": "#2b5f9e"}
    bottom = 50 + height * len(results)
    decades = 4  # 1 µs … 10 ms
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {bottom + 30}" '
        'font-family="sans-serif" font-size="9">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="18" font-size="12" font-weight="bold">By how much each wait differs from its '
        "undisturbed twin (green: left running, blue: restored)</text>",
    ]
    for decade, label in enumerate(("1 µs", "10 µs", "100 µs", "1 ms", "10 ms")):
        x = left + width * decade / decades
        colour = "black" if label == "1 ms" else "#cccccc"
        parts.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="30" y2="{bottom}" stroke="{colour}"/>')
        parts.append(f'<text x="{x:.0f}" y="{bottom + 14}" text-anchor="middle">{label}</text>')
    for i, (kind, result) in enumerate(results.items()):
        top = 36 + i * height
        parts.append(f'<text x="{left - 6}" y="{top + 8}" text-anchor="end">{kind}</text>')
        for j, fate in enumerate(FATES):
            decade = math.log10(max(1.0, abs(result["off_ns"][fate]) / 1000))
            size = max(1.0, width * min(decade, decades) / decades)
            at = f'x="{left}" y="{top + 1 + j * 4}" width="{size:.1f}" height="4"'
            parts.append(f'<rect {at} fill="{colours[fate]}"/>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    results = json.loads(RESULTS.read_text())
    PAGE.write_text(page(results))
    PICTURE.write_text(draw(results))
    print(f"drawn: {PAGE.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
