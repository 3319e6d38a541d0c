"""System V IPC as `livecr show` tells it: one row an object."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from livecr.content import Content
    from livecr.kinds.sysv_object import IpcObject

__all__ = ["sysv"]


def sysv(content: Content) -> list[dict[str, Any]]:
    """``what``: what was in it, in words."""
    record = content.sysv
    found: list[tuple[str, IpcObject, str]] = []
    for segment in record.segments:
        removed = ", removed with its last user" if segment.removed else ""
        found.append(("segment", segment, f"{segment.size_bytes} bytes{removed}"))
    for group in record.sets:
        undo = [f"{one.by:+d} to {one.number} by {one.pid}" for one in record.undo if one.id == group.id]
        given_back = f"; given back at the end: {', '.join(undo)}" if undo else ""
        found.append(("semaphore set", group, f"{', '.join(map(str, group.values))}{given_back}"))
    for queue in record.queues:
        found.append(("message queue", queue, f"{len(queue.messages)} messages"))
    return [{"kind": kind, "id": one.id, "key": one.key, "what": what} for kind, one, what in found]
