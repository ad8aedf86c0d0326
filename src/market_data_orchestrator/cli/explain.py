"""``mdo explain``: what a word means, what is wrong right now, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final

import typer
import yaml

from market_data_core.errors import TemporaryUnavailable, ValidationError
from market_data_orchestrator.cli.calls import Url
from market_data_orchestrator.cli.options import AsJson
from market_data_orchestrator.cli.output import FAILURE, OUT, print_json, print_table, say
from market_data_orchestrator.cli.status import fetch_status, service_url

_FILE: Final = "explanations.yaml"
_UNWELL_SOURCE: Final = frozenset({"failed", "waiting"})
_WELL_CONSUMER: Final = frozenset({"starting", "recovering", "running", "stopped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is said of one word.

    Attributes:
        group: What kind of word it is, such as ``gap cause``; one word may be of several.
        term: The word as the platform writes it.
        means: What it says, in plain words.
        do: What to do about it; empty where there is nothing to do.
    """

    group: str
    term: str
    means: str
    do: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be now.

    Attributes:
        what: Where, such as ``component store``.
        state: How it is.
        detail: What the service says of it.
        means: What that is, in plain words.
        do: What to do about it.
    """

    what: str
    state: str
    detail: str
    means: str
    do: str


def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORD", help="What to explain; what is wrong now if left out.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--list", help="List all words that can be explained.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> int:
    """Explain a word in plain words and say what to do about it; without one, what is wrong with the running service.

    A word is a component or state of health, a ledger account, a cause or state of a gap, an error's name or code, or
    any term that `--list` shows. Without a word the exit code is 1 unless the service is healthy.

    Example: mdo explain restart
    """
    if every:
        found = explanations()
    elif words:
        found = lookup(" ".join(words))
    else:
        return _explain_now(service_url(url), as_json=as_json)
    if as_json:
        print_json([asdict(e) for e in found])
    elif every:
        print_table("", ["what", "word", "means"], ([e.group, e.term, e.means.partition(". ")[0]] for e in found))
    else:
        for place, explanation in enumerate(found):
            _print(explanation, first=place == 0)
    return 0


@cache
def explanations() -> tuple[Explanation, ...]:
    """Return everything that can be explained, by group, in the order in which it is written down."""
    text = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    groups: dict[str, dict[str, dict[str, str]]] = yaml.safe_load(text)
    return tuple(
        Explanation(group=group, term=term, **{name: " ".join(words.split()) for name, words in said.items()})
        for group, terms in groups.items()
        for term, said in terms.items()
    )


def lookup(word: str) -> tuple[Explanation, ...]:
    """Return what there is to say of a word, of all groups that have it; a group's name gives the whole group.

    Case, spaces, hyphens and underscores do not matter.

    Raises:
        ValidationError: Nothing; names what is written alike.
    """
    asked = _key(word)
    found = tuple(e for e in explanations() if asked in (_key(e.term), _key(f"{e.group}_{e.term}")))
    found = found or tuple(e for e in explanations() if asked in (_key(e.group), _key(f"{e.group}s")))
    if found:
        return found
    known = {_key(e.term): e.term for e in explanations()}
    alike = [known[k] for k in get_close_matches(asked, known, n=3)]
    hint = f"; is it {' or '.join(alike)}?" if alike else ""
    raise ValidationError(f"nothing is known of {word!r}{hint} (`mdo explain --list` shows all words)")


def diagnose(status: Mapping[str, Any]) -> list[Finding]:
    """Return what is not as it should be by a service's status, unhealthy components first; empty when all is well.

    Raises:
        TemporaryUnavailable: This is no status of this service.
    """
    try:
        return [
            *_unwell_components(status),
            *_unwell_sources(status),
            *_unwell_consumers(status),
            *_unwell_rest(status),
        ]
    except (KeyError, TypeError, AttributeError) as exc:
        raise TemporaryUnavailable(f"what answers is not this version of the service: {exc!r} in /status") from exc


def _unwell_components(status: Mapping[str, Any]) -> Iterator[Finding]:
    wrong = [c for c in status["health"]["components"] if c["state"] != "healthy"]
    for component in sorted(wrong, key=lambda c: c["state"] != "unhealthy"):
        about = _about("health component", component["name"])
        yield _finding(f"component {component['name']}", component["state"], component["detail"], about)


def _unwell_sources(status: Mapping[str, Any]) -> Iterator[Finding]:
    for source in status["sources"]:
        name, state = source["name"], source["state"]
        if state in _UNWELL_SOURCE:
            yield _finding(f"source {name}", state, source["problem"], _about("source state", state))
        if source["refused"]:
            lost = f"{source['refused']:,} live events were refused since the start"
            yield _finding(f"source {name}", state, lost, _about("gap cause", "log_full"))


def _unwell_consumers(status: Mapping[str, Any]) -> Iterator[Finding]:
    for consumer in status["consumers"]:
        name, state = consumer["name"], consumer["state"]
        if state not in _WELL_CONSUMER:
            yield _finding(f"consumer {name}", state, consumer["problem"], _about("consumer state", state))
        if consumer["unaccounted"]:
            lost = f"{consumer['unaccounted']:,} events"
            yield _finding(f"consumer {name}", "unaccounted", lost, _about("ledger account", "unaccounted"))


def _unwell_rest(status: Mapping[str, Any]) -> Iterator[Finding]:
    if status["paused"]:
        yield _finding("intake", "paused", "", _about("term", "pause"))
    for job in status["jobs"]:
        if job["state"] == "failed":
            about = _about("job state", "failed")
            yield _finding(f"{job['kind']} job {job['id']}", "failed", job["error"] or job["detail"], about)


def _finding(what: str, state: str, detail: str | None, about: Explanation | None) -> Finding:
    means, do = (about.means, about.do) if about is not None else ("", "")
    return Finding(what=what, state=state, detail=detail or "", means=means, do=do)


def _about(group: str, term: str) -> Explanation | None:
    # None for a word that a later version of the service says.
    return next((e for e in explanations() if (e.group, e.term) == (group, term)), None)


def _explain_now(base: str, *, as_json: bool) -> int:
    status = fetch_status(base)
    found = diagnose(status)
    health = status["health"]["state"]
    if as_json:
        print_json({"service": base, "health": health, "findings": [asdict(f) for f in found]})
    elif not found:
        say(f"All is well: the service at {base} is {health}, and every event is accounted for.")
    else:
        say(f"The service at {base} is {health}." + (" Worth a look all the same:" if health == "healthy" else ""))
        for finding in found:
            OUT.print()
            OUT.print(finding.what, style="bold", markup=False, highlight=False)
            say(f"{finding.state}: {finding.detail}" if finding.detail else finding.state)
            _print_pairs(finding.means, finding.do)
    return 0 if health == "healthy" else FAILURE


def _print(explanation: Explanation, *, first: bool) -> None:
    if not first:
        OUT.print()
    OUT.print(f"{explanation.term} ({explanation.group})", style="bold", markup=False, highlight=False)
    _print_pairs(explanation.means, explanation.do)


def _print_pairs(means: str, do: str) -> None:
    # Wrapped, because these are sentences to read; no path or number to copy stands in them.
    for lead, words in (("", means), ("What to do: ", do)):
        if words:
            OUT.print(f"{lead}{words}", markup=False, highlight=False)


def _key(word: str) -> str:
    return "_".join(word.casefold().replace("-", " ").replace("_", " ").split())
