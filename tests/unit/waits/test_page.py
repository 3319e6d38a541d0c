"""docs/waits.md is made by a script; what it says of each call must be what the catalog says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from livecr.waits.catalog import CATALOG

ROOT = Path(__file__).parent.parent.parent.parent


def waits_page() -> Any:
    spec = importlib.util.spec_from_file_location("waits_page", ROOT / "scripts/waits_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_a_line_for_each_row_and_no_other() -> None:
    """Else: `sudo scripts/waits`."""
    script = waits_page()
    width = len(script.FACTS)
    lines = [line for line in (ROOT / "docs/waits.md").read_text().splitlines() if line.startswith("| `")]
    on_page = [tuple(cell.strip() for cell in line.strip("|").split("|"))[:width] for line in lines]
    assert on_page == [script.facts(row) for row in CATALOG.values()]
