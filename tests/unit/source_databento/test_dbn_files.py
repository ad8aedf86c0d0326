"""Which files are read, in which order, and what is said of those that cannot be."""

from __future__ import annotations

import pytest
from dbn_oracle import BASE, SECOND, Given, encoded, packed, take, top, trade

from market_data_core.errors import ConfigurationError, SourceError
from market_data_core.protocols import END_OF_TIME_NS
from market_data_core.schemas import Kind
from market_data_pipeline.source.databento import DatabentoSource, is_dbn

MANY = [trade(i, 100 + i % 7) for i in range(60_000)]  # more than two of the pieces that files are read in


async def until_it_breaks(source):
    """The times of what a source gives before it raises, and what it raises."""
    given = Given()
    with pytest.raises(SourceError) as broken:
        await take(source, into=given)
    assert given.marks == []
    return [row["ts_event"] for _, row in given.rows()], broken.value.message


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("a.dbn", True),
        ("a.mbp-1.v3.DBN.ZST", True),
        ("a.dbn.frag", True),
        ("a.dbn.frag.zst", True),
        ("a.dbz", True),
        ("day/*.dbn.zst", True),
        ("a.csv", False),
        ("dbn", False),
        ("a.zst", False),
        ("a.dbn.gz", False),
    ],
)
def test_dbn_is_known_by_name(tmp_path, name, known):
    """A file is taken for DBN by its ending, whether it is there or not; a folder or glob if it finds one."""
    assert is_dbn(tmp_path / name) is known
    assert not is_dbn(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / name.rpartition("/")[2].replace("*", "x")).touch()
    assert is_dbn(str(tmp_path)) is known
    assert is_dbn(str(tmp_path / "d*" / "*")) is known


@pytest.mark.parametrize("name", ["a.dbn", "a.dbn.zst", "a.dbn.frag", "a.dbn.frag.zst"])
async def test_files_fragments_and_packed_ones_read_the_same(dbn_file, replay, name):
    """Packed or not, with metadata or without, a file gives the same events; only the symbol needs metadata."""
    given = await replay(dbn_file([trade(i) for i in range(5)], name))
    symbol = "1" if "frag" in name else "ABC"
    assert given.values(Kind.TRADES, "symbol", "ts_event") == [(symbol, BASE + i) for i in range(5)]
    (mark,) = given.marks
    assert (mark.vendor, mark.symbols, mark.ts_ns, mark.offset) == ("databento", (symbol,), END_OF_TIME_NS, 6)
    assert mark.source_id == given.batches[0].source_id


async def test_many_frames_are_one_file(tmp_path, replay):
    """A file compressed in several frames is read through, wherever they end."""
    data = encoded([trade(i) for i in range(100)])
    path = tmp_path / "a.dbn.zst"
    path.write_bytes(packed(data, 5, 700, 701, 2000))
    assert len((await replay(path)).rows()) == 100


async def test_files_come_in_the_order_of_their_first_records(dbn_file, replay):
    """Days follow one another whatever the files are called, each closed before the next; the plan says so too."""
    day = 86_400 * SECOND
    paths = [
        dbn_file([trade(day), trade(day + 1)], "a.dbn"),
        dbn_file([trade(0)], "b.dbn"),
        dbn_file([top(7)], "c.dbn"),
    ]
    given = await replay(*paths)
    assert [row["ts_event"] - BASE for _, row in given.rows()] == [0, 7, day, day + 1]
    source = DatabentoSource(paths)
    plan = source.plan()
    assert [p[0].name for p in plan] == ["b.dbn", "c.dbn", "a.dbn"]
    assert [m.source_id for m in given.marks] == [p[2] for p in plan]
    assert {p[1] for p in plan} == {"mixed"}
    assert [p[3] for p in plan] == [p[0].stat().st_size for p in plan]


async def test_the_same_file_is_read_once(dbn_file, replay, tmp_path):
    """Two copies of a file, and a file named twice, are one sequence."""
    path = dbn_file([trade()])
    (tmp_path / "copy.dbn").write_bytes(path.read_bytes())
    given = await replay(path, tmp_path, str(tmp_path / "*.dbn"))
    assert (len(given.rows()), len(given.marks)) == (1, 1)


async def test_a_folder_gives_its_dbn_files(dbn_file, replay, tmp_path):
    """Other files in a folder are left alone; a folder without any is a mistake."""
    dbn_file([trade()])
    (tmp_path / "notes.txt").write_text("none")
    assert len((await replay(tmp_path)).rows()) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=r"no file at .*empty.* is a DBN file"):
        await replay(tmp_path / "empty")


async def test_a_file_without_records_gives_nothing(dbn_file, replay):
    """A request that matched nothing is a file of metadata alone: no events, no mark, no error."""
    source = DatabentoSource(dbn_file([]))
    assert await take(source) == await replay(dbn_file([], "b.dbn", mappings={}))
    assert (source.progress.files_done, source.progress.files_empty) == (1, 1)


async def test_nothing_to_read_is_a_mistake(replay, tmp_path):
    """No paths, and a path where nothing is, are refused."""
    with pytest.raises(ConfigurationError, match="paths is empty"):
        await replay()
    with pytest.raises(ConfigurationError, match=r"nothing to replay at .*gone\.dbn"):
        await replay(tmp_path / "gone.dbn")


@pytest.mark.parametrize("settings", [{"speed": -1}, {"batch_rows": 0}, {"symbols": "ABC"}, {"speed": float("nan")}])
def test_wrong_settings_are_refused(settings):
    """The message names the setting."""
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        DatabentoSource("a.dbn", **settings)


METADATA = encoded([])
WRONG = {
    "empty": ("a.dbn", b"", "is empty"),
    "text": ("a.dbn", b"ts_event,price\n1,2\n", r"not a DBN file.*b'ts_event'.*\.dbn\.frag"),
    "packed text": ("a.dbn.zst", packed(b"ts_event,price\n"), "not a DBN file"),
    "fragment": ("a.dbn", bytes(trade()), "not a DBN file"),
    "prefix": ("a.dbn", b"DBN\x03", "cut off: it ends inside its metadata"),
    "metadata cut": ("a.dbn", METADATA[:-9], "cut off: it ends inside its metadata"),
    "newer": ("a.dbn", METADATA.replace(b"DBN\x03", b"DBN\x09"), "metadata cannot be read: .*version"),
    "packed empty": ("a.dbn.zst", packed(METADATA)[:20], "cut off: it ends at byte 20 inside a zstd frame"),
    "not zstd": ("a.dbn.zst", b"\x28\xb5\x2f\xfd" + b"\xff" * 40, "damaged.*near byte 44"),
    "legacy": ("a.dbz", b"P*M\x18\x90\x00\x00\x00", "legacy format DBZ"),
    "legacy renamed": ("a.dbn.zst", b"P*M\x18\x90\x00\x00\x00", "legacy format DBZ"),
    "text fragment": ("a.dbn.frag", b"ts_event,price,size,flags,instrument_id\n" * 9, "behind record 0, at byte 0"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_files_are_refused(tmp_path, case):
    """A file that is not what it is called is named, with what is wrong and where."""
    name, data, message = WRONG[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message) as refused:
        await take(DatabentoSource(tmp_path / name))
    assert str(tmp_path / name) in refused.value.message


@pytest.mark.parametrize("count", [1, 7, 30_000, 60_000])
async def test_a_cut_off_file_gives_its_whole_records(tmp_path, count):
    """What is whole is given before the error says after which record, and at which byte, the file ends."""
    data = encoded(MANY[:count])
    path = tmp_path / "a.dbn"
    path.write_bytes(data[:-1])
    rows, message = await until_it_breaks(DatabentoSource(path))
    assert rows == [BASE + i for i in range(count - 1)]
    assert f"{path}: behind record {count - 1}, at byte {len(data) - 48}" in message
    assert "cut off" in message


@pytest.mark.parametrize("rubbish", [b"\x00" * 48, b"\x0c\x7f" + b"\x00" * 46, b"\x02\x00" + b"\x00" * 46])
async def test_rubbish_between_records_is_told(tmp_path, rubbish):
    """Bytes that are no record end the file there: what stands before is given, what stands behind is not guessed."""
    path = tmp_path / "a.dbn"
    path.write_bytes(encoded(MANY[:5]) + rubbish + encoded(MANY[5:9], metadata=False))
    rows, message = await until_it_breaks(DatabentoSource(path, batch_rows=2))
    assert rows == [BASE + i for i in range(5)]
    assert "behind record 5, at byte" in message


@pytest.mark.parametrize("how", ["cut", "damaged"])
async def test_a_broken_compressed_file_gives_what_can_be_unpacked(tmp_path, how):
    """Frames before the damage are given, and then the file and the place are named."""
    data = encoded(MANY[:2000])
    whole, broken = packed(data, 5000), packed(data[:5000])
    at = len(broken) + (len(whole) - len(broken)) // 2
    content = whole[:at] if how == "cut" else whole[:at] + b"\x55" * 99 + whole[at + 99 :]
    path = tmp_path / "a.dbn.zst"
    # Damage is found a piece at a time, so the good frames must fill one.
    pad = b"\x51\x2a\x4d\x18" + (20_000).to_bytes(4, "little") + b"\x00" * 20_000
    path.write_bytes(broken + pad + content[len(broken) :])
    rows, message = await until_it_breaks(DatabentoSource(path))
    head = len(METADATA)
    assert len(rows) >= (5000 - head) // 48
    assert rows == [BASE + i for i in range(len(rows))]
    assert f"{path} is " in message
    assert ("cut off" if how == "cut" else "damaged") in message


async def test_good_files_are_given_before_a_broken_one(dbn_file, tmp_path):
    """A file that ends early fails the source once its turn comes, and no mark closes it."""
    good, bad = dbn_file([trade(0)], "good.dbn"), tmp_path / "bad.dbn"
    bad.write_bytes(encoded([trade(10), trade(11)])[:-7])
    given = Given()
    with pytest.raises(SourceError, match=r"bad\.dbn"):
        await take(DatabentoSource([bad, good]), into=given)
    assert given.values(Kind.TRADES, "ts_event") == [(BASE,), (BASE + 10,)]
    assert [m.source_id for m in given.marks] == [given.batches[0].source_id]


async def test_a_file_that_changes_meanwhile_is_refused(dbn_file):
    """Offsets are of the bytes that were hashed; others are not read under their name."""
    path = dbn_file([trade(0)])
    source = DatabentoSource(path)
    source.plan()
    dbn_file([trade(0), trade(1)])
    with pytest.raises(SourceError, match=r"a\.dbn has changed since"):
        await take(source)
