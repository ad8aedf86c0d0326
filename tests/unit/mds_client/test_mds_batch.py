"""Rows one at a time, stored by the batch."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from mds_values import START, bar, fundamentals, news, option

from mds_client import (
    MDS,
    BatchConfig,
    BatchProcessor,
    ClientClosed,
    ConfigurationError,
    TemporaryUnavailable,
    Upserted,
    ValidationError,
)
from support.service import eventually

NEVER_MS = 3_600_000


def stored(client):
    return client.bars("AAPL", "1m").num_rows


@pytest.fixture
def away(lake_options):
    """A lake in whose place lies a file; removing it brings the lake back."""
    place = Path(lake_options["dsn"])
    place.write_text("no folder")
    with MDS(lake_options) as client:
        yield client, place


def test_rows_are_stored_when_there_are_enough(client):
    """Not before, and all of them at once."""
    with BatchProcessor(client, BatchConfig(max_rows=3, max_ms=NEVER_MS)) as batch:
        for minute in range(2):
            batch.add_bar(bar(client.tenant_id, minute=minute))
        assert stored(client) == 0
        batch.add_bar(bar(client.tenant_id, minute=2))
        assert stored(client) == 3
        assert (batch.stats.rows, batch.stats.batches, batch.stats.held_rows) == (3, 1, 0)


def test_rows_are_stored_when_they_take_enough_memory(client):
    """By about what their texts and numbers take."""
    with BatchProcessor(client, BatchConfig(max_bytes=5_000, max_ms=NEVER_MS)) as batch:
        for n in range(3):
            batch.add_news(news(client.tenant_id, title=f"{n}" * 2_000))
        assert batch.stats.rows == 3


def test_rows_are_stored_when_they_have_waited_enough(client):
    """Without any further call."""
    with BatchProcessor(client, BatchConfig(max_ms=20)) as batch:
        batch.add_bar(bar(client.tenant_id))
        eventually(lambda: batch.stats.rows == 1, 10, "stored in the background")
        assert stored(client) == 1


def test_every_type_has_its_way_in(client):
    """Four types in one batch; flush says what became of them."""
    tenant = client.tenant_id
    with BatchProcessor(client) as batch:
        batch.add_bar(bar(tenant))
        batch.add_fundamental(fundamentals(tenant))
        batch.add_news(news(tenant))
        batch.add_option(option(tenant))
        assert batch.stats.held_rows == 4
        assert batch.stats.held_bytes > 0
        assert batch.flush() == Upserted(inserted=4)
        batch.add_bar(bar(tenant))
        assert batch.flush() == Upserted(unchanged=1)
        assert batch.stats.stored == Upserted(inserted=4, unchanged=1)
        assert (batch.stats.batches, batch.stats.held_bytes) == (5, 0)


def test_closing_stores_what_is_left(client):
    """Leaving the block by an error too; afterwards nothing is taken."""
    with contextlib.suppress(KeyError), BatchProcessor(client) as batch:
        batch.add_bar(bar(client.tenant_id))
        raise KeyError
    assert stored(client) == 1
    with pytest.raises(ClientClosed):
        batch.add_bar(bar(client.tenant_id))
    batch.close()


def test_the_last_of_a_key_counts(client):
    """Of rows of one key the later ones are the newer versions, across batches."""
    with BatchProcessor(client, BatchConfig(max_rows=2, max_ms=NEVER_MS)) as batch:
        for close in (1.0, 2.0, 3.0, 4.0, 5.0):
            batch.add_bar(bar(client.tenant_id, close=close))
    assert [b.close_price for b in client.bars_window("AAPL", "1m", None, None)] == [5.0]


def test_another_tenants_row_is_refused_at_once(client):
    """It never comes to lie among rows that could be stored."""
    with BatchProcessor(client) as batch:
        with pytest.raises(ValidationError, match="other's"):
            batch.add_bar(bar("other"))
        assert batch.stats.held_rows == 0


def test_an_error_in_the_background_is_raised_by_the_next_call(away):
    """Which does not take its row; those taken before are held, and stored once the store is back."""
    client, place = away
    with BatchProcessor(client, BatchConfig(max_rows=2, max_ms=20)) as batch:
        batch.add_bar(bar(client.tenant_id))
        eventually(lambda: batch.stats.errors, 10, "a try in the background")
        with pytest.raises(TemporaryUnavailable):
            batch.add_bar(bar(client.tenant_id, minute=1))
        assert batch.stats.held_rows == 1
        place.unlink()
        eventually(lambda: batch.stats.rows == 1, 10, "another try in the background")
        batch.add_bar(bar(client.tenant_id, minute=1))
    assert stored(client) == 2


def test_a_full_batch_takes_no_more_while_the_store_is_away(away):
    """What is held has a bound, and a row that was not refused is not lost."""
    client, place = away
    taken = 0
    batch = BatchProcessor(client, BatchConfig(max_rows=3, max_ms=NEVER_MS))
    for minute in range(10):
        try:
            batch.add_bar(bar(client.tenant_id, minute=minute))
            taken += 1
        except TemporaryUnavailable:
            assert batch.stats.held_rows == 3
    assert taken == 3
    with pytest.raises(TemporaryUnavailable):
        batch.close()
    place.unlink()
    batch.close()
    assert stored(client) == taken


def test_rows_can_be_taken_back(away):
    """Whoever cannot wait gets what is held, and it is held no more."""
    client, _ = away
    batch = BatchProcessor(client)
    made = [bar(client.tenant_id, minute=m) for m in range(2)]
    for one in made:
        batch.add(one)
    with pytest.raises(TemporaryUnavailable):
        batch.flush()
    assert batch.take_back() == made
    assert (batch.stats.held_rows, batch.stats.held_bytes) == (0, 0)
    batch.close()


def test_threads_share_a_batch(client):
    """Rows by many threads, flushed by size, time and hand: each is stored once."""
    with BatchProcessor(client, BatchConfig(max_rows=40, max_ms=15)) as batch:

        def work(number):
            for n in range(50):
                batch.add_bar(bar(client.tenant_id, ts=START + timedelta(minutes=50 * number + n)))
                if n % 20 == 0:
                    batch.flush()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert batch.stats.stored == Upserted(inserted=200)
    assert stored(client) == 200


@pytest.mark.parametrize("name", ["max_rows", "max_ms", "max_bytes"])
def test_a_limit_below_one_is_refused(name):
    """It would never, or always, be reached."""
    with pytest.raises(ConfigurationError, match=name):
        BatchConfig(**{name: 0})


def test_the_limits_are_those_of_the_contract():
    """A thousand rows, five seconds, one mebibyte."""
    assert BatchConfig() == BatchConfig(max_rows=1000, max_ms=5000, max_bytes=1_048_576)
