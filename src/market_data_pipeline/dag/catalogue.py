"""Operators by name.

A name is looked up among the entry points of the group ``market_data.operators``, then among ours; a name with a colon
is a place to import from, ``package.module:Class``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from market_data_core import plugins
from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_core.protocols import Operator
from market_data_pipeline.dag.model import NodeSpec, is_masked
from market_data_pipeline.dag.problems import Problems, nearest, secret_values
from market_data_pipeline.dag.signatures import fitting, parameter_names, reporter

OPERATORS: Final = "market_data.operators"
"""The entry-point group. An entry point names an `Operator` class, a function that makes one, or a class with a method
``process(value)`` that takes one event at a time."""

_BARS: Final = "market_data_pipeline.dag.own:make_bars"
_HOME: Final = "market_data_pipeline.operators"
OURS: Final[Mapping[str, str]] = {
    "asof_join": f"{_HOME}.asof:AsOfJoin",
    "bars": _BARS,
    "buffer": f"{_HOME}.buffer:Buffer",
    "dedupe": f"{_HOME}.dedupe:Dedupe",
    "deduplicate": f"{_HOME}.dedupe:Dedupe",
    "dollar_bars": f"{_HOME}.volume_bars:DollarBars",
    "filter": f"{_HOME}.filter:Filter",
    "map": f"{_HOME}.map:Map",
    "options": f"{_HOME}.options_greeks:OptionsChain",
    "resample_ohlc": _BARS,
    "rolling": f"{_HOME}.rolling:Rolling",
    "router": f"{_HOME}.router:Router",
    "spread": f"{_HOME}.spread:Spread",
    "throttle": f"{_HOME}.throttle:Throttle",
    "tick_bars": f"{_HOME}.volume_bars:TickBars",
    "top_of_book": f"{_HOME}.top_of_book:TopOfBook",
    "validate": "market_data_pipeline.dag.own:make_validate",
    "volume_bars": f"{_HOME}.volume_bars:VolumeBars",
    "window": f"{_HOME}.tumbling:Window",
}
"""Our operators: where each is imported from."""

_METHODS: Final = ("kinds", "gives", "process", "advance", "barrier", "in_flight", "snapshot", "restore")


def operator_names() -> list[str]:
    """Return the names there are, sorted; any ``package.module:Class`` is one too."""
    return sorted({*OURS, *plugins.available(OPERATORS)})


def load(name: str) -> Callable[..., Any]:
    """Return the class or function behind an operator's name.

    Raises:
        ConfigurationError: There is none of that name, or it cannot be imported; says which are near, and why.
    """
    offered = plugins.available(OPERATORS)
    place = offered[name].value if name in offered else OURS.get(name, name)
    module, _, attribute = place.partition(":")
    if not module or not attribute:
        raise ConfigurationError(
            f"there is no operator {name!r}; {nearest(name, operator_names())}; "
            "one of your own is named as package.module:Class"
        )
    # Whatever a user's module does when it is imported is a wrong setting.
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as exc:
        raise ConfigurationError(f"operator {name!r} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not callable(found):
        raise ConfigurationError(f"operator {name!r} is neither a class nor a function that makes one")
    return cast("Callable[..., Any]", found)


def build(node: NodeSpec, *, history: Any = None) -> Operator:
    """Make a node's operator.

    Args:
        node: An operator node.
        history: Where ticks can be read again (`TickHistory`), for operators that have such a parameter.

    Raises:
        ConfigurationError: It cannot be made; names the place, the node, the parameter and what is allowed.
    """
    problems = Problems()
    made = make(node, problems, history=history)
    problems.check(f"node {node.name!r}")
    return cast("Operator", made)


def make(node: NodeSpec, problems: Problems, *, history: Any = None) -> Operator | None:
    """Make a node's operator; None, with problems, where that cannot be done."""
    problems.hide(secret_values(node.params, node.secrets))
    if is_masked(node):
        problems.add(node.where, "its secrets are masked; nothing can be made of it", node=node.name)
        return None
    before = len(problems)
    try:
        made = load(node.type)
    except ConfigurationError as exc:
        problems.add(node.where, exc.message, node=node.name)
        return None
    report = reporter(problems, node.where, node.name)
    arguments = fitting(made, node.params, report=report, secrets=node.secrets)
    if len(problems) > before:
        return None
    filled = {"name": node.name, "history": history}
    arguments |= {name: value for name, value in filled.items() if name in parameter_names(made)}
    return _called(made, arguments, node, problems)


def _called(
    made: Callable[..., Any], arguments: Mapping[str, Any], node: NodeSpec, problems: Problems
) -> Operator | None:
    try:
        operator = made(**arguments)
        if hasattr(operator, "process") and not hasattr(operator, "barrier"):
            operator = _per_event(operator, node.name)
    except MarketDataError as exc:
        problems.add(node.where, exc.message, node=node.name)
        return None
    except Exception as exc:  # noqa: BLE001  a user's constructor may raise anything, and that is a wrong setting
        problems.add(node.where, f"cannot be made: {type(exc).__name__}: {exc}", node=node.name)
        return None
    missing = [method for method in _METHODS if not hasattr(operator, method)]
    if missing or inspect.isclass(operator):
        problems.add(
            node.where,
            f"{node.type} makes no operator: it has no {', '.join(missing)}; give it those of "
            "market_data_core.protocols.Operator, or one method process(value)",
            node=node.name,
        )
        return None
    return cast("Operator", operator)


def _per_event(value: Any, name: str) -> Any:
    # Imported here: most graphs have no operator of this sort.
    from market_data_pipeline.operators.per_event import PerEvent  # noqa: PLC0415

    return PerEvent(value, name=name)
