"""Events within the service, and who handles them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from market_data_core import plugins
from market_data_core.errors import RegistryError
from market_data_core.telemetry import BackpressureLevel, FeedbackEvent

LOG = logging.getLogger(__name__)

HANDLERS: Final = "market_data.event_handlers"
"""The entry point group of handlers."""

HANDLER_S: Final = 1.0
"""How long a handler may take with one event, seconds."""

E = TypeVar("E")
Handler = Callable[[E], Awaitable[None]]
H = TypeVar("H", bound=Callable[..., Awaitable[None]])


@runtime_checkable
class EventHandler(Protocol):
    """What an entry point of `HANDLERS` names: a class that is made without arguments.

    Attributes:
        event_types: The events it is given, such as `FeedbackEvent`; those of derived types too.
    """

    event_types: tuple[type, ...]

    async def handle(self, event: Any) -> None:
        """Take one event. It must not block, and is given up after `HANDLER_S`."""
        ...


class EventRegistry:
    """Hands each event to everybody who asked for its type.

    Handlers of one event run side by side. One that raises, or takes longer than `handler_s`, is logged and counted;
    the others, and who dispatched, do not notice. Belongs to one event loop.

    Args:
        handler_s: How long a handler may take with one event, seconds.
    """

    def __init__(self, *, handler_s: float = HANDLER_S) -> None:
        self._handler_s = handler_s
        self._handlers: list[tuple[type, str, Handler[Any]]] = []
        self.counts: Counter[str] = Counter(dict.fromkeys(map(str, BackpressureLevel), 0))
        """How many events came: feedback events by level, others by the name of their type."""
        self.errors: Counter[str] = Counter()
        """How often each handler failed, by its name."""

    def register(self, event_type: type[E], handler: Handler[E], *, name: str = "") -> Callable[[], None]:
        """Give events of a type, and of those derived from it, to a handler from now on.

        Args:
            event_type: Which events.
            handler: Takes one event; must not block.
            name: Names it in logs and `errors`; its own name if empty.

        Returns:
            What ends it; may be called twice.
        """
        entry = (event_type, name or str(getattr(handler, "__qualname__", type(handler).__name__)), handler)
        self._handlers.append(entry)
        self.errors.setdefault(entry[1], 0)

        def end() -> None:
            self._handlers = [other for other in self._handlers if other is not entry]

        return end

    def on(self, event_type: type) -> Callable[[H], H]:
        """Return a decorator that registers what it decorates."""

        def registered(handler: H) -> H:
            self.register(event_type, handler)
            return handler

        return registered

    async def dispatch(self, event: object) -> int:
        """Hand an event to its handlers and wait for them.

        Returns:
            How many took it without an error.
        """
        self.counts[str(event.level) if isinstance(event, FeedbackEvent) else type(event).__name__] += 1
        taking = [self._hand(name, handler, event) for kind, name, handler in self._handlers if isinstance(event, kind)]
        return sum(await asyncio.gather(*taking))

    async def _hand(self, name: str, handler: Handler[Any], event: object) -> bool:
        try:
            async with asyncio.timeout(self._handler_s):
                await handler(event)
        except (Exception, asyncio.CancelledError) as exc:
            task = asyncio.current_task()
            if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # not the handler gave up: whoever dispatched is stopped
            self.errors[name] += 1
            LOG.error("handler %s failed with %s: %s: %s", name, type(event).__name__, type(exc).__name__, exc)
            return False
        return True


def register_installed(events: EventRegistry) -> list[Callable[[], None]]:
    """Register the handlers that installed distributions offer in the entry point group `HANDLERS`.

    One that cannot be loaded or made is logged and counted; the service does without it.

    Returns:
        What ends each.
    """
    ends = []
    for name in plugins.available(HANDLERS):
        try:
            made = _made(name)
        except RegistryError as exc:
            events.errors[name] += 1
            LOG.error("events are not handled by %s: %s", name, exc)
            continue
        ends += [events.register(kind, made.handle, name=name) for kind in made.event_types]
    return ends


def _made(name: str) -> EventHandler:
    kind = plugins.load(HANDLERS, name)
    try:
        made = kind()
    except Exception as exc:
        raise RegistryError(f"{HANDLERS} entry point {name!r} cannot be made: {type(exc).__name__}: {exc}") from exc
    if not isinstance(made, EventHandler):
        raise RegistryError(f"{HANDLERS} entry point {name!r} has no event_types and handle")
    return made
