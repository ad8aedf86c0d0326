"""Control: pausing, resuming and reloading, one action at a time, with results that say what happened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from market_data_core.errors import MarketDataError, TemporaryUnavailable, ValidationError
from market_data_core.telemetry import ControlAction, ControlResult
from market_data_orchestrator.protocols import Runtime

LOG = logging.getLogger(__name__)
_KEPT_ACTIONS: Final = 50
_KEPT_KEYS: Final = 200
_ACTIONS_FLAG: Final = "control.actions"
_KEYS_FLAG: Final = "control.keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One action and what came of it.

    Attributes:
        action: What was asked for.
        actor: Who asked.
        ts: When it ended, seconds since the epoch.
        status: ``ok`` or ``error``,
        detail: and what happened, in words.
        duration_s: How long it took.
    """

    action: str
    actor: str
    ts: float
    status: str
    detail: str
    duration_s: float


class ControlPlaneService:
    """Runs control actions.

    One runs at a time; the others wait for it, but never longer than `patience_s`. What was done with an idempotency
    key is told again to whoever repeats it, also after a restart, and not done again.

    Args:
        service: What is controlled.
        patience_s: How long an action waits for its turn.
    """

    def __init__(self, service: Runtime, *, patience_s: float = 30.0) -> None:
        self._service = service
        self._patience_s = patience_s
        self._turn = asyncio.Lock()
        self.counts: dict[tuple[str, str], int] = {(str(a), s): 0 for a in ControlAction for s in ("ok", "error")}
        """How many actions ended how, since the start."""

    async def run(self, action: ControlAction, actor: str, *, key: str | None = None) -> ControlResult:
        """Do one action, or tell again what was done with the same key.

        Args:
            action: What to do.
            actor: Who asks.
            key: The idempotency key; None for none.

        Raises:
            ValidationError: The key was used for another action.
            TemporaryUnavailable: The service is not there yet, or another action takes too long.
            MarketDataError: The action failed; everything is as it was.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                await self._turn.acquire()
        except TimeoutError as exc:
            raise TemporaryUnavailable(f"another action has been running for {self._patience_s:g} s") from exc
        try:
            known = await self._known(action, key)
            return known or await self._do(action, actor, key)
        finally:
            self._turn.release()

    async def _known(self, action: ControlAction, key: str | None) -> ControlResult | None:
        if key is None:
            return None
        found = (await self._flag(_KEYS_FLAG, {})).get(key)
        if found is None:
            return None
        if found["action"] != action:
            raise ValidationError(f"Idempotency-Key {key!r} was used for {found['action']} before")
        return ControlResult(status=found["status"], detail=found["detail"])

    async def _do(self, action: ControlAction, actor: str, key: str | None) -> ControlResult:
        clock = self._service.clock
        started_s = clock.monotonic_s()
        doing: dict[ControlAction, Callable[[str], Awaitable[str]]] = {
            ControlAction.PAUSE: self._service.pause,
            ControlAction.RESUME: self._service.resume,
            ControlAction.RELOAD: self._reload,
        }
        failure: MarketDataError | None = None
        try:
            detail = await doing[action](actor)
        except MarketDataError as exc:
            failure, detail = exc, str(exc)
        status = "error" if failure else "ok"
        self.counts[str(action), status] += 1
        done = Done(
            action=str(action),
            actor=actor,
            ts=clock.now_ns() / 1e9,
            status=status,
            detail=detail,
            duration_s=round(clock.monotonic_s() - started_s, 3),
        )
        LOG.info("%s by %s: %s, %s", action, actor, status, detail)
        await self._remember(done, key if failure is None else None)
        if failure is not None:
            raise failure
        return ControlResult(status="ok", detail=detail)

    async def _reload(self, actor: str) -> str:
        del actor
        done = await self._service.reload()
        consumers = {what: names for what, names in done["consumers"].items() if names and what != "untouched"}
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in consumers.items()) or "no consumer changes"
        restart = done["needs_restart"]
        return f"Configuration reloaded; {said}" + (f"; needs a restart: {', '.join(restart)}" if restart else "")

    async def _remember(self, done: Done, key: str | None) -> None:
        state = self._service.state
        if state is None:
            return
        actions = [asdict(done), *await self._flag(_ACTIONS_FLAG, [])][:_KEPT_ACTIONS]
        await asyncio.to_thread(state.set_flag, _ACTIONS_FLAG, actions)
        if key is not None:
            keys = {**await self._flag(_KEYS_FLAG, {}), key: asdict(done)}
            newest = dict(list(keys.items())[-_KEPT_KEYS:])
            await asyncio.to_thread(state.set_flag, _KEYS_FLAG, newest)

    async def _flag(self, name: str, default: Any) -> Any:
        state = self._service.state
        return default if state is None else await asyncio.to_thread(state.get_flag, name, default)

    async def status(self) -> dict[str, Any]:
        """Return the state and the last actions, newest first."""
        service = self._service
        return {
            "state": "paused" if service.paused else service.phase,
            "paused": service.paused,
            "paused_since": service.paused_since,
            "busy": self._turn.locked(),
            "actions": await self._flag(_ACTIONS_FLAG, []),
        }
