"""Events reach their handlers, and a handler's error stays its own."""

from __future__ import annotations

import asyncio
import sys

from kit_world import container_in, running, until

from market_data_core.telemetry import BackpressureLevel, FeedbackEvent, RateAdjustment
from market_data_orchestrator.events import EventRegistry, register_installed


def feedback(level, *, who="other", ts=0.0, queue=0):
    return FeedbackEvent(coordinator_id=who, queue_size=queue, capacity=10, level=level, ts=ts)


async def test_handlers_get_the_events_of_their_type():
    """Registered or decorated; of several events each goes to whoever asked for its type, until that is ended."""
    events, heard = EventRegistry(), []

    async def levels(event):
        heard.append(event.level)

    @events.on(object)
    async def everything(event):
        heard.append(type(event).__name__)

    end = events.register(FeedbackEvent, levels)
    assert await events.dispatch(feedback("soft")) == 2
    assert await events.dispatch(RateAdjustment(provider="a", scale=0.5, reason="soft", ts=0.0)) == 1
    end()
    end()
    assert await events.dispatch(feedback("hard")) == 1
    assert sorted(heard) == ["FeedbackEvent", "FeedbackEvent", "RateAdjustment", "soft"]
    assert events.counts == {"ok": 0, "soft": 1, "hard": 1, "RateAdjustment": 1}


async def test_a_handlers_error_is_its_own():
    """One that raises, hangs or is cancelled is counted by name; the others and the dispatcher do not notice."""
    events, heard = EventRegistry(handler_s=0.05), []

    async def broken(event):
        raise ValueError("mine")

    async def hanging(event):
        await asyncio.Event().wait()

    async def cancelled(event):
        raise asyncio.CancelledError

    async def sound(event):
        heard.append(event)

    events.register(FeedbackEvent, broken, name="broken")
    events.register(FeedbackEvent, hanging, name="hanging")
    events.register(FeedbackEvent, cancelled, name="cancelled")
    events.register(FeedbackEvent, sound, name="sound")
    assert await events.dispatch(feedback("ok")) == 1
    assert len(heard) == 1
    assert events.errors == {"broken": 1, "hanging": 1, "cancelled": 1, "sound": 0}


def install(folder, monkeypatch, source, **entries):
    """Make a distribution with a module of handlers and its entry points."""
    info = folder / "plugged_handlers-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-handlers\nVersion: 1.0\n")
    lines = [f"{name} = plugged_handlers:{attribute}" for name, attribute in entries.items()]
    (info / "entry_points.txt").write_text("[market_data.event_handlers]\n" + "\n".join(lines) + "\n")
    (folder / "plugged_handlers.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "plugged_handlers", raising=False)


SOURCE = """
from market_data_core.telemetry import FeedbackEvent
heard = []
class Good:
    event_types = (FeedbackEvent,)
    async def handle(self, event):
        heard.append(str(event.level))
class Unmakeable(Good):
    def __init__(self, needed): ...
class Shapeless: ...
"""


async def test_installed_handlers_are_found(tmp_path, monkeypatch):
    """A class behind an entry point is made and given its events; those that cannot be are counted and left out."""
    install(tmp_path, monkeypatch, SOURCE, good="Good", bad="Unmakeable", odd="Shapeless", gone="Nothing")
    events = EventRegistry()
    ends = register_installed(events)
    assert await events.dispatch(feedback("hard")) == 1
    assert sys.modules["plugged_handlers"].heard == ["hard"]
    assert {name for name, count in events.errors.items() if count} == {"bad", "odd", "gone"}
    for end in ends:
        end()
    assert await events.dispatch(feedback("hard")) == 0


async def test_feedback_changes_rates_and_is_counted(tmp_path, monkeypatch):
    """What others say on the bus goes through the registry: rates follow, plug-ins hear it, a bad one harms nobody."""
    bad = "\nclass Bad(Good):\n    async def handle(self, event):\n        raise RuntimeError('no')\n"
    install(tmp_path / "plugins", monkeypatch, SOURCE + bad, good="Good", bad="Bad")
    container = container_in(tmp_path)
    async with running(container) as client:
        engine, clock = container.service.engine, container.clock
        for level, scale in ((BackpressureLevel.HARD, 0.0), (BackpressureLevel.SOFT, 0.5), (BackpressureLevel.OK, 1.0)):
            await container.feedback.publish(feedback(level, ts=clock.now_ns() / 1e9))
            await until(lambda wanted=scale: engine.capture.pressure == wanted, f"{level} is heeded")
        assert {"hard", "soft"} <= set(sys.modules["plugged_handlers"].heard)
        await until(lambda: container.status.status()["feedback_events"]["hard"] == 1, "it is counted")
        text = (await client.get("/metrics")).text
    assert 'feedback_events_total{event_type="hard"} 1.0' in text
    assert 'feedback_events_total{event_type="soft"} 1.0' in text
    assert 'mds_event_handler_errors_total{handler="bad"}' in text
    assert 'mds_event_handler_errors_total{handler="rates"} 0.0' in text


async def test_who_dispatches_can_be_stopped():
    """A cancelled dispatch ends its handlers, and is no error of theirs."""
    events, begun, ended = EventRegistry(), asyncio.Event(), []

    async def waiting(event):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event)

    events.register(FeedbackEvent, waiting, name="waiting")
    dispatching = asyncio.create_task(events.dispatch(feedback("ok")))
    await begun.wait()
    dispatching.cancel()
    await asyncio.wait({dispatching}, timeout=5)
    assert dispatching.cancelled()
    assert len(ended) == 1
    assert events.errors == {"waiting": 0}
