"""Layouts: what is accepted, what is found, what is refused and how."""

from __future__ import annotations

import zipfile

import pytest
from pydantic import ValidationError

from market_data_core.errors import ConfigurationError
from market_data_pipeline.source.replay import ReplaySource, detect_layout, load_layout, packaged_layouts, parse_layout

GOOD = """
name: mine
vendor: me
kind: trades
format: csv
time: {column: t, unit: ms}
symbol: {constant: abc}
columns: {price: p, size: s}
"""


def test_packaged_layouts_are_there():
    """The layouts that come with the platform load, under their names."""
    assert list(packaged_layouts()) == [
        "lean_coinbase_quote_bars",
        "lean_coinbase_trade_bars",
        "lean_equity_daily_bars",
        "lean_equity_quote_bars",
        "lean_equity_quotes",
        "lean_equity_trade_bars",
        "lean_equity_trades",
        "lean_fxcm_quotes",
        "lean_option_open_interest",
        "lean_option_quote_bars",
        "lean_option_trade_bars",
        "lean_option_universe",
        "platform_quotes",
        "platform_trades",
    ]
    assert load_layout("lean_equity_trades") is packaged_layouts()["lean_equity_trades"]
    assert load_layout(load_layout("platform_quotes")) is packaged_layouts()["platform_quotes"]


def test_a_layout_is_frozen():
    """A layout is a value."""
    with pytest.raises(ValidationError):
        parse_layout(GOOD, where="here").vendor = "you"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("kind: trades", "kind: depth"), "kind"),
        (("unit: ms", "unit: fortnights"), "unit"),
        (("unit: ms", "unit: ms, zone: Mars/Olympus"), "Mars/Olympus"),
        (("unit: ms", "unit: ms_since_midnight"), "date"),
        (("{price: p, size: s}", "{price: p}"), "size must be named"),
        (("{price: p, size: s}", "{price: p, size: s, color: c}"), "color"),
        (("{constant: abc}", "{constant: abc, column: c}"), "exactly one"),
        (("{constant: abc}", "{}"), "exactly one"),
        (("{constant: abc}", "{path: ['no group']}"), "groups"),
        (("{constant: abc}", "{path: ['(']}"), "regular expression"),
        (("format: csv", "format: csv\nheader: false"), "fields"),
        (("format: csv", "format: csv\nheader: false\nfields: [t, p]"), "'s'"),
        (("format: csv", "format: csv\noptional: [price]"), "price cannot be"),
        (("format: csv", "format: csv\none_side: carry_forward"), "one_side"),
        (("size: s", "size: 2"), None),
        (("format: csv", "format: ndjson\nprice_scale: -1"), "price_scale"),
        (("format: csv", "format: xml"), "format"),
        (("vendor: me", "vendor: me\ncolour: red"), "colour"),
        (("name: mine", "name: [unclosed"), "YAML"),
        ((GOOD, "just words"), "layout"),
    ],
)
def test_a_wrong_layout_says_what_is_wrong(change, told):
    """Every mistake in a declaration is told with the field and the place it was read from."""
    text = GOOD.replace(*change)
    if told is None:
        parse_layout(text, where="here.yaml")
        return
    with pytest.raises(ConfigurationError, match=r"here\.yaml") as caught:
        parse_layout(text, where="here.yaml")
    assert told in str(caught.value)


def test_a_layout_that_is_not_there_names_those_that_are():
    """A name that is neither packaged nor a file lists the packaged ones."""
    with pytest.raises(ConfigurationError, match="platform_trades"):
        load_layout("no_such_layout")


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("my_trades.csv", "platform_trades"),
        ("trades.ndjson.gz", "platform_trades"),
        ("2024-quotes.parquet", "platform_quotes"),
        ("20131007_abc_Quote_Tick.csv", "lean_equity_quotes"),
    ],
)
def test_a_layout_is_found_by_name(tmp_path, name, layout):
    """A file's name says its layout."""
    assert detect_layout(tmp_path / name).name == layout


@pytest.mark.parametrize(("name", "problem"), [("prices.csv", "no known layout"), ("quotes_and_trades.csv", "several")])
def test_a_name_that_does_not_tell_is_refused(tmp_path, name, problem):
    """With no layout, or two, the error lists what there is."""
    with pytest.raises(ConfigurationError, match=problem) as caught:
        detect_layout(tmp_path / name)
    assert "lean_equity_trades (*_trade.zip" in str(caught.value)


def test_bars_are_not_taken_for_ticks(lean_file):
    """A zip named like ticks but holding minute bars fits nothing."""
    with pytest.raises(ConfigurationError, match="no known layout"):
        detect_layout(lean_file("trade", ["1"], name="20131007_abc_minute_trade.csv"))


async def test_the_layout_given_decides(tmp_path, replay):
    """A file of any name is read by the layout that the caller names."""
    path = tmp_path / "whatever.txt"
    path.write_text("t,p,s\n1000,1.5,10\n")
    layout = tmp_path / "mine.yaml"
    layout.write_text(GOOD)
    assert (await replay(path, layout=layout)).symbols == ["ABC"]


async def test_a_zip_member_of_any_name_is_read_by_the_layout_given(lean_file, replay):
    """Members that the layout's patterns do not know are read if the caller names the layout."""
    path = lean_file("trade", ["1000,10000,1,Q,0,0"], name="data.csv")
    assert (await replay(path, layout="lean_equity_trades")).symbols == ["ABC"]


@pytest.mark.parametrize(
    ("where", "told"), [("nothing_here", "nothing to replay"), ("*.csv", "nothing to replay"), ("", "any known layout")]
)
def test_nothing_to_read_is_an_error(tmp_path, where, told):
    """A path without a file of a known layout is an error that names it."""
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(ConfigurationError, match=told):
        ReplaySource([tmp_path / where]).plan()


def test_no_paths_are_an_error():
    """A replay of nothing is an error, said when it is planned."""
    with pytest.raises(ConfigurationError, match="paths"):
        ReplaySource(symbols=["ABC"]).plan()


@pytest.mark.parametrize("settings", [{"speed": -1}, {"speed": float("nan")}, {"batch_rows": 0}, {"layout": "none"}])
def test_wrong_settings_are_refused(settings):
    """Settings are checked before anything is read."""
    with pytest.raises(ConfigurationError):
        ReplaySource(["x"], **settings)


def test_the_plan_names_content_layout_and_size(lean_file, tmp_path):
    """The plan has one entry per sequence; twins and files of other symbols are left out."""
    one = lean_file("trade", ["1000,10000,1,Q,0,0"])
    (one.parent / "copy_20131007_trade.zip").write_bytes(one.read_bytes())
    lean_file("trade", ["1000,10000,2,Q,0,0"], symbol="xyz")
    (entry,) = ReplaySource(str(tmp_path / "**" / "*.zip"), symbols=["abc"]).plan()
    path, layout, source_id, size_bytes = entry
    assert (path.suffix, layout.name) == (".zip", "lean_equity_trades")
    assert source_id.startswith("file:")
    assert source_id.endswith(":lean_equity_trades")
    assert len(source_id.split(":")[1]) == 32
    with zipfile.ZipFile(path) as z:
        assert size_bytes == z.infolist()[0].compress_size


def test_the_same_bytes_cannot_be_two_symbols(lean_file, tmp_path):
    """A file copied under another symbol has no identity of its own, and is refused."""
    one = lean_file("trade", ["1000,10000,1,Q,0,0"], name="20131007_Trade_Tick.csv")
    two = tmp_path / "xyz" / one.name
    two.parent.mkdir()
    two.write_bytes(one.read_bytes())
    with pytest.raises(ConfigurationError, match="same bytes"):
        ReplaySource([tmp_path]).plan()
