"""The event loop the platform runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop's where it is installed, else None for asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415  not there on Windows
    except ImportError:  # pragma: no cover  Windows
        return None
    return uvloop.new_event_loop
