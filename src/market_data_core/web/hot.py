"""The way to what is asked most often: by its path, past the layers that only other routes need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

_PARAMETER: Final = "{"


class HotRoutes:
    """Answers requests to plain ASGI routes itself, and hands on all others.

    A route is plain if its endpoint is an ASGI app, not a function, its path has no parameters, and no route before it
    takes that path. What it raises goes to the `FaultBarrier` outside; FastAPI's own layers inside keep open what
    parameters of functions hold, and turn functions' errors into answers: it needs neither. The routes stay the app's
    own too: another method than theirs is refused there, and an app that is mounted under a prefix is asked by its
    router.

    Args:
        app: What all other requests go to.
        routes: The app's; those that are not plain are passed over.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self._known: dict[tuple[str, str], ASGIApp] = {}
        before: list[BaseRoute] = []
        for route in routes:
            if isinstance(route, Route) and _is_plain(route, before):
                self._known.update({(method, route.path): route.app for method in route.methods or ()})
            before.append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        known = self._known.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if known is None or scope.get("root_path"):
            await self.app(scope, receive, send)
            return
        # As the router leaves it: metrics tell by the endpoint which route a request took.
        scope["endpoint"] = known
        await known(scope, receive, send)


def _is_plain(route: Route, before: Iterable[BaseRoute]) -> bool:
    if route.app is not route.endpoint or _PARAMETER in route.path:
        return False
    request = {"type": "http", "method": "GET", "path": route.path, "headers": []}
    return all(other.matches(request)[0] is Match.NONE for other in before)
