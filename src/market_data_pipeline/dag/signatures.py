"""What a class can be made with, told by its signature, and whether given values fit."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter
from pydantic import ValidationError as PydanticValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import SchemaError

from market_data_pipeline.dag.problems import Problems, nearest

GIVEN_BY_US: Final = frozenset({"name", "history", "clock"})
"""Parameters that the platform fills in itself."""

Report = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class _Parameter:
    required: bool
    hint: Any

    @property
    def allowed(self) -> str:
        return _shown(self.hint)


@functools.lru_cache(maxsize=256)
def _parameters(made: Callable[..., Any]) -> tuple[dict[str, _Parameter], bool]:
    # The parameters that can be given by name, and whether any other name is taken too.
    try:
        signature = inspect.signature(made)
    except (TypeError, ValueError):
        return {}, True
    hints = _hints(made)
    found, open_ended = {}, False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found[name] = _Parameter(parameter.default is parameter.empty, hints.get(name, Any))
    return found, open_ended


def _hints(made: Callable[..., Any]) -> dict[str, Any]:
    target = made.__init__ if inspect.isclass(made) else made
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}  # names that exist for type checkers only: the constructor itself decides


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    # None where the annotation says nothing that can be checked, such as a protocol.
    for config in (None, ConfigDict(arbitrary_types_allowed=True)):
        try:
            return TypeAdapter(hint, config=config)
        except (PydanticUserError, SchemaError):
            continue
    return None


def _shown(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return text.replace("typing.", "").replace("collections.abc.", "").replace("NoneType", "None")


def parameter_names(made: Callable[..., Any]) -> frozenset[str]:
    """Return what a class or function can be given by name."""
    return frozenset(_parameters(made)[0])


def fitting(
    made: Callable[..., Any],
    params: Mapping[str, Any],
    *,
    report: Report,
    secrets: Collection[str] = (),
    given: Collection[str] = GIVEN_BY_US,
) -> dict[str, Any]:
    """Return the params as the constructor wants them: a list as a tuple, say, where it is annotated so.

    Values are checked as strictly as JSON is: text is no number, a number is no text, true is no number.

    Args:
        made: A class or function.
        params: Plain values.
        report: Told of every parameter that does not fit, by name, with what is allowed.
        secrets: Names whose values are not repeated.
        given: Names that the platform fills in itself: neither allowed here nor missing.
    """
    known, open_ended = _parameters(made)
    allowed = {name: p for name, p in known.items() if name not in given}
    fits: dict[str, Any] = {}
    for name, value in params.items():
        parameter = allowed.get(name)
        if parameter is None:
            if open_ended and name not in given:
                fits[name] = value
            else:
                report(name, f"is no parameter; {nearest(name, allowed)}")
            continue
        try:
            fits[name] = _checked(parameter, value)
        except PydanticValidationError as exc:
            report(name, _refused(exc, parameter, value, show=name not in secrets))
    for name, parameter in allowed.items():
        if parameter.required and name not in params:
            report(name, f"is missing; allowed is {parameter.allowed}")
    return fits


def _checked(parameter: _Parameter, value: Any) -> Any:
    adapter = _adapter(parameter.hint)
    return value if adapter is None else adapter.validate_json(json.dumps(value), strict=True)


def _refused(exc: PydanticValidationError, parameter: _Parameter, value: Any, *, show: bool) -> str:
    said = []
    for error in exc.errors(include_url=False, include_context=False, include_input=False):
        # In a union each member complains under its own name; the place within a list or dict is what helps.
        place = ".".join(str(p) for p in error["loc"] if isinstance(p, int))
        said.append(f"{place}: {error['msg']}" if place else error["msg"])
    reasons = "; ".join(dict.fromkeys(said))
    shown = f" {json.dumps(value)}" if show else ""
    return f"refuses{shown}: {reasons} (allowed: {parameter.allowed})"


def arguments(made: Callable[..., Any], params: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """Return params that were checked before as the constructor wants them.

    Raises:
        ConfigurationError: They do not fit; names `what` and the parameter, and no value.
    """
    problems = Problems()
    others = parameter_names(made) - params.keys()
    found = fitting(made, params, report=reporter(problems, what), secrets=params.keys(), given=others)
    problems.check(what)
    return found


def reporter(problems: Problems, where: str, node: str = "", prefix: str = "") -> Report:
    """Return a `Report` that notes problems of one node, or of the key `prefix`."""

    def report(name: str, message: str) -> None:
        problems.add(where, message, node=node, key=f"{prefix}{name}")

    return report
