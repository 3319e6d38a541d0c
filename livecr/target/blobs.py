"""The native parts that are written into targets, as bytes (livecr/native/, made by native/Makefile)."""

from __future__ import annotations

import os

__all__ = ["read"]

_read: dict[str, bytes] = {}
_DIRECTORY = os.path.join(os.path.dirname(__file__), "..", "native")


def read(name: str) -> bytes:
    """The content of one of them."""
    if name not in _read:
        with open(os.path.join(_DIRECTORY, name), "rb") as file:
            _read[name] = file.read()
    return _read[name]
