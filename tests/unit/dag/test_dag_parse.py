"""The language of graphs: what is read, and how every error is named with its place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError
from market_data_pipeline.dag import NodeSpec, build, operator_names, parse_graph

GOOD = """\
dag:
  nodes:
    ticks:   {source: synthetic, kinds: [trades, quotes], symbols: [aapl, ON, 005930]}
    clean:   {operator: validate}
    minute:  {operator: resample_ohlc, interval: 1m, what: TRADES, lateness: 5s}
    lake:    {sink: store}
  edges:
    - ticks -> clean -> minute -> lake
"""

MANY = """
nodes:
  t: {source: all, kinds: [trades, quotes]}
  v: {operator: validate}
  r: {operator: router, routes: {big: size >= 1000}}
  f: {operator: filter, where: "price > 0"}
  m: {operator: map, set: {price: price * 1.1}}
  ro: {operator: rolling, window: 5m, statistics: [vwap, count]}
  w: {operator: window, length: 1m, aggregate: {total: sum(size)}}
  th: {operator: throttle, every: 1s, keep: last}
  a: {operator: asof_join}
  sp: {operator: spread}
  vb: {operator: volume_bars, volume: 1000}
  s1: {sink: store}
  s2: {sink: store}
  s3: {sink: store}
edges:
  - t -> v -> r
  - r.big -> f -> m -> ro -> s1
  - r -> th -> w -> s1
  - v -> a -> s2
  - v -> sp -> s3
  - v -> vb -> s3
"""

OPERATORS = """
class Routed:
    ports = ("big", "small")

    def __init__(self, *, limits: tuple[float, ...] = (1.0,), name: str = "routed") -> None:
        if not limits:
            raise ValueError("no limits")
        self.name = name
        self.limits = limits
        self.kinds = frozenset({"trades"})

    def gives(self, incoming):
        return incoming

    process = advance = barrier = in_flight = snapshot = restore = lambda self, *a: None


class OneByOne:
    def __init__(self, *, factor: float = 1.0, api_key: str = "") -> None:
        self.factor = factor
        if api_key.startswith("bad"):
            raise RuntimeError(f"refused: {api_key}")

    def process(self, value):
        return [value]


class Neither:
    pass


def history_of(*, history=None, name=""):
    made = Routed(name=name)
    made.history = history
    return made
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's own module of operators."""
    (tmp_path / "dag_own_operators.py").write_text(OPERATORS)
    monkeypatch.syspath_prepend(tmp_path)
    return "dag_own_operators"


def errors(text, **options):
    """What parsing complains of, one line each."""
    with pytest.raises(ConfigurationError) as caught:
        parse_graph(text, file="g.yaml", **options)
    listed = caught.value.details["errors"]
    assert all(error["message"] in str(caught.value) for error in listed)
    return [": ".join(filter(None, (e["where"], e["node"], e["key"], e["message"]))) for e in listed]


def only_error(text, **options):
    (error,) = errors(text, **options)
    return error


def chain(node, *, source="{source: synthetic}"):
    """A graph of one operator between a source and a sink; the operator stands in line 3."""
    nodes = f"  ticks: {source}\n  it: {node}\n  lake: {{sink: store}}"
    return f"nodes:\n{nodes}\nedges:\n  - ticks -> it -> lake\n"


def test_a_graph_is_read_with_its_places():
    """Nodes and edges come in the order of the file, each with file and line."""
    graph = parse_graph(GOOD, file="g.yaml")
    assert [(n.name, n.role, n.type, n.where) for n in graph.nodes] == [
        ("ticks", "source", "synthetic", "g.yaml:3"),
        ("clean", "operator", "validate", "g.yaml:4"),
        ("minute", "operator", "resample_ohlc", "g.yaml:5"),
        ("lake", "sink", "store", "g.yaml:6"),
    ]
    assert [str(edge) for edge in graph.edges] == ["ticks -> clean", "clean -> minute", "minute -> lake"]
    assert graph.node("minute").params == {"interval": "1m", "what": "TRADES", "lateness": "5s"}


def test_tickers_are_text_whatever_they_look_like():
    """ON, NO and Y are no booleans, and a ticker of digits keeps its zeros; symbols are upper-cased, each once."""
    text = chain("{operator: validate}", source="{source: synthetic, symbols: [on, NO, Y, 005930, 1e5, ON]}")
    assert parse_graph(text).node("ticks").params["symbols"] == ["ON", "NO", "Y", "005930", "1E5"]


def test_a_python_dict_says_the_same_as_yaml():
    """The same graph as a dict has the same version; its places are paths."""
    nodes = {
        "ticks": {"source": "synthetic", "kinds": ["trades", "quotes"], "symbols": ["AAPL", "ON", "005930"]},
        "clean": {"operator": "validate"},
        "minute": {"operator": "resample_ohlc", "interval": "1m", "what": "TRADES", "lateness": "5s"},
        "lake": {"sink": "store"},
    }
    graph = parse_graph({"dag": {"nodes": nodes, "edges": ["ticks -> clean -> minute -> lake"]}})
    assert graph.version == parse_graph(GOOD).version
    assert graph.node("minute").where == "dag.dag.nodes.minute"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (chain("{operator: validat}"), ("g.yaml:3: it", "no operator 'validat'", "did you mean validate?")),
        (chain("{operator: validate, futur: 1s}"), ("g.yaml:3: it: futur", "did you mean future?")),
        (chain("{operator: bars, interval: 5x}"), ("g.yaml:3: it", "interval", "'5x'", "s, m, h, d")),
        (chain("{operator: bars, lateness: 5}"), ("g.yaml:3: it: lateness", "5", "valid string")),
        (chain("{operator: bars, lateness: soon}"), ("g.yaml:3: it", "lateness", "'soon'", "5s")),
        (chain("{operator: bars, what: LAST}"), ("g.yaml:3: it: what", "LAST", "MIDPOINT")),
        (chain("{operator: dedupe, remember: '5'}"), ("g.yaml:3: it: remember", "integer", "int")),
        (chain("{operator: dedupe, remember: true}"), ("g.yaml:3: it: remember", "integer")),
        (chain("{operator: dedupe, name: x}"), ("g.yaml:3: it: name", "no parameter")),
        (chain("{operator: no.such.module:X}"), ("g.yaml:3: it", "cannot be loaded", "no.such")),
        (chain("{operatr: validate}"), ("g.yaml:3: it", "none of source, operator and sink", "did you mean operator?")),
        (chain("{operator: validate, sink: store}"), ("g.yaml:3: it", "operator and sink", "exactly one")),
        (chain("{operator: }"), ("g.yaml:3: it: operator", "names no operator")),
        (chain("validate"), ("g.yaml:3: it", "no mapping")),
        (chain("{operator: validate}", source="{source: synthetc}"), ("g.yaml:2: ticks: source", "synthetic?")),
        (chain("{operator: validate}", source="{source: all, kind: [trades]}"), ("g.yaml:2: ticks: kind", "kinds?")),
        (chain("{operator: validate}", source="{source: all, kinds: [trade]}"), ("g.yaml:2: ticks: kinds", "trades?")),
        (chain("{operator: validate}", source="{source: all, symbols: []}"), ("g.yaml:2: ticks: symbols", "empty")),
        (chain("{operator: validate}").replace("{sink: store}", "{sink: stor}"), ("g.yaml:4: lake", "store?")),
        (GOOD.replace("dag:", "dagg:"), ("g.yaml:1: dag.dagg", "unknown")),
        (GOOD.replace("  edges:", "  edgs:"), ("g.yaml:7: dag.edgs", "did you mean edges?")),
        (GOOD + "    - ticks -> cleen\n", ("g.yaml:9", "no node 'cleen'", "did you mean clean?")),
        (GOOD + "    - ticks ->\n", ("g.yaml:9", "not of the form")),
        (GOOD + "    - ticks -> clean\n", ("g.yaml:9", "there twice", "g.yaml:8")),
        (GOOD + "    - clean -> ticks\n", ("g.yaml:9: ticks", "enters a source")),
        (GOOD + "    - lake -> clean\n", ("g.yaml:9: lake", "leaves a sink")),
        (GOOD + "    - minute -> clean\n", ("g.yaml:9", "a cycle: clean -> minute -> clean")),
        (GOOD + "    - clean.big -> lake\n", ("g.yaml:9: clean", "a port that is not there", "default output only")),
        (GOOD + "    - clean -> lake.in\n", ("g.yaml:9", "ends in a port")),
        (GOOD.replace("    clean:   ", "    clean-:   "), ("g.yaml:4: clean-", "not allowed", "letters, digits")),
        (GOOD.replace("  edges:", "    spare: {source: all}\n  edges:"), ("g.yaml:7: spare", "leads nowhere")),
        (GOOD.replace("  edges:", "    spare: {sink: store}\n  edges:"), ("g.yaml:7: spare", "nothing comes into")),
        (GOOD.replace("    lake: ", "    ticks: {sink: store}\n    lake: "), ("g.yaml:6: dag.nodes.ticks", "g.yaml:3")),
        (GOOD.replace("TRADES", "BID").replace(", quotes", ""), ("g.yaml:8: minute", "clean gives", "takes quotes")),
        (GOOD.replace("store}", "store, kinds: [quotes]}"), ("g.yaml:8: lake", "minute gives bars", "takes quotes")),
        ("nodes: {}\n", ("g.yaml:1: dag.nodes", "no nodes")),
    ],
)  # fmt: skip
def test_an_error_names_line_node_parameter_and_what_is_allowed(text, says):
    """Each kind of error says where it stands, whom it is about and what would be right."""
    found = errors(text)
    assert any(all(part in error for part in says) for error in found), found


def test_all_errors_are_told_at_once_from_the_top():
    """One reading finds everything that is wrong, in the order of the lines."""
    text = GOOD.replace("synthetic", "nobody").replace("validate", "nothing").replace("1m", "1x")
    found = errors(text + "    - clean -> gone\n")
    assert [error.split(":")[1] for error in found] == ["3", "4", "5", "9"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dag: [1, 2", "is no YAML"),
        ("dag: *nobody", "needs quotes"),
        ("dag: !!python/object:os.system {}", "has a tag"),
        ("a: &x [*x]", "in itself"),
        ("a: 1\n---\nb: 2", "more than one document"),
        ("[" * 5000, "nested too deep"),
        ("a: \x00", "character that YAML does not allow"),
        ("[1]: 2", "a key is no plain text"),
        ("- 1", "no mapping"),
        ("", "no mapping"),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(text, says):
    """Broken YAML is one sentence with a line, never a traceback, and nothing in it is run."""
    assert any(error.startswith("g.yaml") and says in error for error in errors(text))


def test_a_few_lines_of_aliases_do_not_fill_the_memory():
    """A document whose aliases multiply is refused."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert any("too many values" in error for error in errors("\n".join(lines)))


def test_variables_are_filled_in_and_never_told():
    """${NAME} takes the environment's value with its type; defaults and escapes work; errors mask the values."""
    text = chain("\n    operator: dedupe\n    remember: ${COUNT:-7}")
    assert parse_graph(text, env={"COUNT": "12"}).node("it").params == {"remember": 12}
    assert parse_graph(text).node("it").params == {"remember": 7}
    found = only_error(text, env={"COUNT": "hush-hush"})
    assert "***" in found or "valid integer" in found
    assert "hush" not in found
    missing = only_error(chain("{operator: dedupe, remember: '$${X}'}"))
    assert "${X}" in missing
    assert any("the environment has no NOPE" in e for e in errors(chain("{operator: bars, interval: '${NOPE}'}")))


def test_secrets_are_not_in_errors(mine):
    """A value under the name of a secret is masked even where a constructor repeats it."""
    found = only_error(chain(f"{{operator: '{mine}:OneByOne', api_key: bad-s3cr3t, factor: 1}}"))
    assert "RuntimeError: refused: ***" in found
    assert "s3cr3t" not in found
    wrong = only_error(chain(f"{{operator: '{mine}:OneByOne', api_key: [s3cr3t]}}"))
    assert "api_key" in wrong
    assert "s3cr3t" not in wrong


@pytest.mark.parametrize(
    "text", ["a: 'top-s3cr3t", "a: !top-s3cr3t", "a: *s3cr3t", "a: &s3cr3t 1\nb: *s3cr3", "a: %s3cr3t"]
)
def test_broken_text_is_not_repeated(text):
    """What could be a secret without its quotes is not in the error."""
    assert not any("s3cr" in error for error in errors(text))


def test_an_operator_of_the_users_own_is_made(mine):
    """package.module:Class is an operator; its params are checked and come as its annotations say; ports are known."""
    text = chain(f"{{operator: '{mine}:Routed', limits: [1, 2.5]}}").replace("it -> lake", "it.big -> lake")
    text = text.replace("ticks -> it.big", "ticks -> it")
    graph = parse_graph(text.replace("- ticks -> it -> lake", "- ticks -> it.big -> lake"), file="g.yaml")
    made = build(graph.node("it"))
    assert (made.name, made.limits) == ("it", (1.0, 2.5))
    found = only_error(text.replace("- ticks -> it -> lake", "- ticks -> it.huge -> lake"))
    assert "there are: big, small" in found


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ("{operator: 'MINE:Routed', limits: []}", "ValueError: no limits"),
        ("{operator: 'MINE:Neither'}", "makes no operator: it has no kinds"),
        ("{operator: 'MINE:Nobody'}", "cannot be loaded: AttributeError"),
        ("{operator: 'MINE:OPERATORS.x'}", "cannot be loaded"),
    ],
)
def test_an_operator_that_cannot_be_made_is_an_error_with_its_place(node, says, mine):
    """Whatever a user's class does, the error names line and node."""
    found = only_error(chain(node.replace("MINE", mine)))
    assert found.startswith("g.yaml:3: it: ")
    assert says in found


def test_history_goes_to_operators_that_want_it(mine):
    """`build` hands over history where the maker has such a parameter, and leaves it out elsewhere."""
    wanted = object()
    node = NodeSpec(name="x", type=f"{mine}:history_of", role="operator")
    assert build(node, history=wanted).history is wanted
    assert build(NodeSpec(name="y", type="dedupe", role="operator"), history=wanted).name == "y"


def test_a_masked_node_cannot_be_built(mine):
    """A graph that was kept without its secrets can be looked at only."""
    node = NodeSpec(name="x", type=f"{mine}:OneByOne", params={"api_key": "real"}, role="operator")
    with pytest.raises(ConfigurationError, match="secrets are masked"):
        build(NodeSpec(**node.to_dict() | {"secrets": ()}))


def test_a_class_that_takes_one_event_at_a_time_is_an_operator(mine):
    """A class with `process(value)` alone is wrapped."""
    graph = parse_graph(chain(f"{{operator: '{mine}:OneByOne', factor: 2}}"))
    assert build(graph.node("it")).name == "it"


def test_params_that_a_node_does_not_set_come_from_the_defaults():
    """A default of the platform fills in, and the node's own value wins."""
    defaults = {"validate": {"future": "5s"}, "resample_ohlc": {"lateness": "9s"}}
    graph = parse_graph(GOOD, defaults=defaults)
    assert graph.node("clean").params["future"] == "5s"
    assert graph.node("minute").params["lateness"] == "5s"


@pytest.mark.parametrize("name", operator_names())
def test_every_operator_name_has_a_class(name):
    """Each name of the catalogue can be loaded, and refuses what it does not know."""
    text = chain(f"{{operator: {name}, no_such_parameter: 1}}")
    assert any("no_such_parameter: is no parameter" in e for e in errors(text))


def test_a_graph_of_many_operators_holds_together():
    """Ports, merging edges and derived kinds fit as the operators say."""
    graph = parse_graph(MANY)
    assert len(graph.topological()) == 14


def test_kinds_that_an_operator_no_longer_gives_do_not_fit_behind_it():
    """Behind named values there are no trades left to make bars of."""
    assert "sp gives analytics, vb takes trades" in only_error(MANY.replace("v -> vb", "sp -> vb"))


@settings(deadline=None)  # the machine may be busy
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
))  # fmt: skip
def test_nonsense_is_refused_and_nothing_else_happens(value):
    """Whatever is under nodes and edges, the answer is a graph or a ConfigurationError."""
    for source in ({"nodes": value}, {"nodes": {"a": value}, "edges": value}, {"dag": value}):
        with pytest.raises(ConfigurationError):
            parse_graph(source)


@settings(deadline=None)  # the machine may be busy
@given(st.text(alphabet="{}[]:,-&*!|>'\"%@`#\n ab$", max_size=60))
def test_any_text_is_refused_in_words(text):
    """Text that is no graph gives a ConfigurationError that names the file."""
    with pytest.raises(ConfigurationError, match=r"g\.yaml"):
        parse_graph(text, file="g.yaml")
