"""`livecr doctor`: what this kernel offers, tried, and what livecr does where something is missing."""

from __future__ import annotations

import os
import sys

from livecr.cli import arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from livecr.kernel.features import Finding

__all__ = ["run"]

USAGE = """usage: livecr doctor [--json]

Try everything that livecr relies on; say what of it is there, and what livecr does without the rest. Nothing
is left behind. Exit code 0: all that is essential is there; 3: something essential is missing.

  --json   for programs"""


def run(words: list[str]) -> int:
    """The command."""
    given = arguments.parse(words, USAGE, options=("json",))
    if given is None:
        return 0
    from livecr.cli.terminal import Table, print_json, print_tables
    from livecr.errors import Refused
    from livecr.kernel.features import examine

    found = examine()
    missing = [
        finding.feature.name for finding in found if finding.feature.essential and not finding.available
    ]
    kernel, off = os.uname().release, _switched_off()
    if "json" in given:
        print_json(
            {
                "kernel": kernel,
                "features": [_as_json(finding) for finding in found],
                "switched_off": off,
                "essential_missing": missing,
            }
        )
    else:
        rows: list[tuple[str, ...]] = [
            (
                finding.feature.name,
                "yes" if finding.available else "MISSING" if finding.feature.essential else "no",
                finding.detail,
                "" if finding.available else finding.feature.without,
            )
            for finding in found
        ]
        headings: tuple[str, ...] = ("feature", "there", "detail", "without it")
        if all(finding.available for finding in found):
            headings, rows = headings[:3], [row[:3] for row in rows]
        print_tables([Table(f"kernel {kernel}", headings, rows)])
        if off:
            print(f"\nswitched off by LIVECR_WITHOUT: {', '.join(off)}")
    if missing:
        print(f"livecr: something essential is missing: {', '.join(missing)}", file=sys.stderr)
        return Refused.exit_code
    return 0


def _switched_off() -> list[str]:
    """What LIVECR_WITHOUT names and livecr knows."""
    from livecr.kernel.bpf import SOURCES

    named = os.environ.get("LIVECR_WITHOUT", "").split(",")
    return [source for source in SOURCES if source in named]


def _as_json(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.feature.name,
        "available": finding.available,
        "essential": finding.feature.essential,
        "detail": finding.detail,
        "without": finding.feature.without,
    }
