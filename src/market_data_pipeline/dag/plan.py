"""What a change of configuration would do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from market_data_core.errors import ConfigurationError
from market_data_pipeline.dag.model import GraphSpec
from market_data_pipeline.dag.problems import MASK, masked

Action = Literal["added", "changed", "removed"]
_SIGNS: Final[Mapping[str, str]] = {"added": "+", "changed": "~", "removed": "-"}
_ABSENT: Final = "(not set)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """All of a configuration that a plan looks at, as plain values without secrets.

    Attributes:
        graph: Nodes and edges.
        providers: By name, what each provider is: its type, symbols, params and whether it is enabled.
        sinks: By name, what each sink is: its type and params.
        settings: Everything else by name, such as the tenant; a change of any of it needs a restart.
    """

    graph: GraphSpec = field(default_factory=GraphSpec)
    providers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sinks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the blueprint as plain values, secrets masked."""
        return {
            "graph": self.graph.to_dict(),
            "providers": {name: masked(values) for name, values in self.providers.items()},
            "sinks": {name: masked(values) for name, values in self.sinks.items()},
            "settings": masked(self.settings),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Blueprint:
        """Return the blueprint of `to_dict`.

        Raises:
            ConfigurationError: The values are not of that form.
        """
        if not all(isinstance(values.get(name), dict) for name in ("graph", "providers", "sinks", "settings")):
            raise ConfigurationError("this is no configuration as Blueprint.to_dict gives it")
        return cls(
            graph=GraphSpec.from_dict(values["graph"]),
            providers=values["providers"],
            sinks=values["sinks"],
            settings=values["settings"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One value that changed; None where it was or is not set. Secrets are masked."""

    name: str
    old: Any = None
    new: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One part that changed.

    Attributes:
        section: ``provider``, ``symbol``, ``source``, ``operator``, ``sink``, ``edge``, ``setting``, or ``consumer``.
        name: Which; of a symbol, the provider and the symbol.
        action: What happened to it.
        fields: Of a changed one, the values that did.
        restart: True if it takes effect at the next start only.
    """

    section: str
    name: str
    action: Action
    fields: tuple[FieldChange, ...] = ()
    restart: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the change as plain values."""
        return {
            "section": self.section,
            "name": self.name,
            "action": self.action,
            "fields": [{"name": f.name, "old": f.old, "new": f.new} for f in self.fields],
            "restart": self.restart,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would change.

    Attributes:
        changes: Everything that would, section by section.
        untouched: Consumers that go on as they are, keeping their state.
    """

    changes: tuple[Change, ...] = ()
    untouched: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True if nothing would change."""
        return not self.changes

    @property
    def restart(self) -> tuple[str, ...]:
        """What takes effect at the next start only, by name."""
        return tuple(f"{change.section} {change.name}" for change in self.changes if change.restart)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return {
            "changes": [change.to_dict() for change in self.changes],
            "untouched": list(self.untouched),
            "restart": list(self.restart),
        }

    def to_json(self) -> str:
        """Return the plan as one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_text(self) -> str:
        """Return the plan for people: ``+`` is added, ``~`` changed, ``-`` removed."""
        if self.is_empty:
            kept = f" Consumers as they are: {', '.join(self.untouched)}." if self.untouched else ""
            return f"Nothing changes.{kept}"
        lines: list[str] = []
        for change in self.changes:
            ending = "  (at the next start)" if change.restart else ""
            lines.append(f"{_SIGNS[change.action]} {change.section:<8} {change.name}{ending}")
            lines += [f"             {f.name}: {_shown(f.old)} -> {_shown(f.new)}" for f in change.fields]
        if self.untouched:
            lines.append(f"= consumer {', '.join(self.untouched)}")
        counts = {action: sum(c.action == action for c in self.changes) for action in _SIGNS}
        lines += ["", ", ".join(f"{count} {action}" for action, count in counts.items())]
        lines.append(f"Needs a restart: {', '.join(self.restart)}." if self.restart else "Needs no restart.")
        return "\n".join(lines)


def plan(old: Blueprint | GraphSpec | None, new: Blueprint | GraphSpec) -> Plan:
    """Compare two configurations.

    One consumer runs per sink node, under its name. A changed consumer is one whose sink, or anything that feeds it,
    changed: it starts with fresh state. That a secret differs is seen only where neither side is masked; those of
    providers and configured sinks always are.

    Args:
        old: What runs; None for nothing.
        new: What would.
    """
    before, after = _blueprint(old), _blueprint(new)
    consumers, untouched = _consumers(before, after)
    changes = [
        *_section("setting", _settings(before), _settings(after), restart=True),
        *_section("provider", _providers(before), _providers(after)),
        *_symbols(before, after),
        *(c for role in ("source", "operator") for c in _section(role, _nodes(before, role), _nodes(after, role))),
        # A configured sink is opened at the start; one that is added or removed with its node is not in the way.
        *_section("sink", _sinks(before), _sinks(after), restart_changed=True),
        *_section("edge", _edges(before), _edges(after)),
        *consumers,
    ]
    return Plan(changes=tuple(changes), untouched=untouched)


Parts = Mapping[str, Mapping[str, Any]]


def _blueprint(value: Blueprint | GraphSpec | None) -> Blueprint:
    if value is None:
        return Blueprint()
    return value if isinstance(value, Blueprint) else Blueprint(graph=value)


def _settings(blueprint: Blueprint) -> Parts:
    return {name: {"value": value} for name, value in blueprint.settings.items()}


def _providers(blueprint: Blueprint) -> Parts:
    return {
        name: {key: value for key, value in values.items() if key != "symbols"}
        for name, values in blueprint.providers.items()
    }


def _nodes(blueprint: Blueprint, role: str) -> Parts:
    return {
        node.name: _flat({"type": node.type, **node.params, "": node.secrets})
        for node in blueprint.graph.nodes
        if node.role == role
    }


def _sinks(blueprint: Blueprint) -> Parts:
    configured = {f"{name} (configured)": dict(values) for name, values in blueprint.sinks.items()}
    return {**configured, **_nodes(blueprint, "sink")}


def _edges(blueprint: Blueprint) -> Parts:
    return {str(edge): {} for edge in blueprint.graph.edges}


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    # What came from the environment is not shown; it is compared all the same.
    secrets = values.get("", ())
    return {name: _Hidden(value) if name in secrets else value for name, value in values.items() if name}


class _Hidden:
    # A value that compares and does not show; a masked one equals all, because nothing is known of it.
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        theirs = other.value if isinstance(other, _Hidden) else other
        return theirs is not None and (MASK in (self.value, theirs) or self.value == theirs)

    __hash__ = None  # type: ignore[assignment]  # equality with every mask leaves no hash to agree on


def _section(
    section: str, old: Parts, new: Parts, *, restart: bool = False, restart_changed: bool = False
) -> list[Change]:
    found: list[Change] = []
    for name in [*old, *(n for n in new if n not in old)]:
        if name not in new:
            found.append(Change(section=section, name=name, action="removed", restart=restart))
        elif name not in old:
            # Into nothing, nothing is restarted.
            found.append(Change(section=section, name=name, action="added", restart=restart and bool(old)))
        elif fields := _differences(old[name], new[name]):
            found.append(
                Change(
                    section=section,
                    name=name,
                    action="changed",
                    fields=fields,
                    restart=restart or (restart_changed and name.endswith("(configured)")),
                )
            )
    return found


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> tuple[FieldChange, ...]:
    found: list[FieldChange] = []
    for name in [*old, *(n for n in new if n not in old)]:
        before, after = old.get(name), new.get(name)
        # Of two values of which one is masked nothing can be said; that one was set at all, can.
        if before == after or (_is_masked(before, after) and None not in (before, after)):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{prefix}{name}.")
        else:
            shown = masked({name: _unhidden(before)}), masked({name: _unhidden(after)})
            found.append(FieldChange(name=f"{prefix}{name}", old=shown[0][name], new=shown[1][name]))
    return tuple(found)


def _is_masked(*values: Any) -> bool:
    return any(isinstance(value, str) and value == MASK for value in values)


def _unhidden(value: Any) -> Any:
    return MASK if isinstance(value, _Hidden) else value


def _symbols(old: Blueprint, new: Blueprint) -> list[Change]:
    found: list[Change] = []
    for name, values in new.providers.items():
        before = list(old.providers.get(name, {}).get("symbols", ()))
        after = list(values.get("symbols", ()))
        found += [Change(section="symbol", name=f"{name} {s}", action="added") for s in after if s not in before]
        found += [Change(section="symbol", name=f"{name} {s}", action="removed") for s in before if s not in after]
    return found


def _consumers(old: Blueprint, new: Blueprint) -> tuple[list[Change], tuple[str, ...]]:
    was = {node.name for node in old.graph.of("sink")}
    found = [
        Change(section="consumer", name=n.name, action="removed")
        for n in old.graph.of("sink")
        if n.name not in {node.name for node in new.graph.of("sink")}
    ]
    untouched: list[str] = []
    for sink in new.graph.of("sink"):
        if sink.name not in was:
            found.append(Change(section="consumer", name=sink.name, action="added"))
        elif _same(old, new, sink.name):
            untouched.append(sink.name)
        else:
            found.append(Change(section="consumer", name=sink.name, action="changed"))
    return found, tuple(untouched)


def _same(old: Blueprint, new: Blueprint, sink: str) -> bool:
    before, after = old.graph.upstream(sink), new.graph.upstream(sink)
    nodes = [
        {n.name: _flat({"role": n.role, "type": n.type, **n.params, "": n.secrets}) for n in graph.nodes}
        for graph in (before, after)
    ]
    configured = [b.sinks.get(g.node(sink).type) for b, g in ((old, before), (new, after))]
    return (
        nodes[0].keys() == nodes[1].keys()
        and all(not _differences(nodes[0][name], nodes[1][name]) for name in nodes[0])
        and set(before.edges) == set(after.edges)
        and (configured[0] == configured[1])
    )


def _shown(value: Any) -> str:
    return _ABSENT if value is None else value if isinstance(value, str) else json.dumps(value)
