from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError, PermissionsMissing, ValidationError
from market_data_orchestrator.federation import Peer, checked_route, parse_peers
from market_data_orchestrator.federation.client import url_at

EU = Peer(name="eu", url="http://10.0.0.7:8080")


def test_a_peer_is_named_by_its_entry_or_by_its_host():
    """`name=url` gives the name, a bare URL its host."""
    peers = parse_peers(["eu=https://eu.example:8443/", "http://US.example:80", "v6=http://[::1]:1"])
    assert [(p.name, p.url) for p in peers] == [
        ("eu", "https://eu.example:8443"),
        ("us.example", "http://us.example:80"),
        ("v6", "http://[::1]:1"),
    ]


@pytest.mark.parametrize(
    "entry",
    [
        "", "eu", "eu=", "=http://h", "eu=ftp://h", "eu=http://", "eu=http://h/path", "eu=http://h?q", "eu=http://h#f",
        "eu=http://h:0", "eu=http://h:99999", "eu=http://h:x", "eu=http://h\\@evil", "eu=http://h\r\n", " eu=http://h",
        "e/u=http://h", "http://[::1]:8080", "eu=http://[fe80::zz]", "eu=http://hé", "eu=//h", "eu=http://h@",
    ],
)  # fmt: skip
def test_what_is_no_peer_is_refused_by_its_entry(entry):
    """Whatever is more or less than scheme, host and port is a ConfigurationError that names the entry."""
    with pytest.raises(ConfigurationError) as refused:
        parse_peers(["us=http://us", entry])
    assert repr(re.sub("//.*@", "//***@", entry)) in refused.value.message


def test_a_password_in_an_entry_is_not_shown():
    """The error of an entry with a password does not repeat it."""
    with pytest.raises(ConfigurationError) as refused:
        parse_peers(["eu=http://me:se/cr@et@h"])
    assert "cr" not in refused.value.message
    assert "et@" not in refused.value.message


@pytest.mark.parametrize("entries", [["a=http://h", "a=http://i"], ["http://h:1", "http://h:2"], ["me=http://h"]])
def test_names_are_unique(entries):
    """A name taken by another peer or by this node is refused, naming the entry."""
    with pytest.raises(ConfigurationError, match="http://"):
        parse_peers(entries, node_id="me")


HOSTILE = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="/\\.:@%?#[]ab\r\n\t 0e2f", max_size=40),
    st.builds(lambda *p: "".join(p), *[st.sampled_from(
        ["/", "//", "..", ".", "http://", "evil.example", "@", ":80", "%2e", "%2f", "\\", "?", "#", "\r\n", "status"]
    )] * 5),
)  # fmt: skip


@given(path=HOSTILE)
def test_no_path_leads_away_from_the_peer(path):
    """Whatever is said as a path is refused, or goes to the peer's own address, as that very path."""
    everything = {("GET", path.partition("?")[0])}
    try:
        method, checked = checked_route("get", path, everything)
    except (ValidationError, PermissionsMissing):
        return
    url = url_at(EU, checked)
    assert (method, url.scheme, url.host, url.port, url.userinfo) == ("GET", "http", "10.0.0.7", 8080, b"")
    assert url.raw_path.decode() == path
    bare = path.partition("?")[0]
    assert bare.startswith("/")
    assert not {"..", "."} & set(bare.split("/"))
    assert not any(c in path for c in "\r\n\\# \t")
    assert "//" not in bare


@given(path=HOSTILE)
def test_the_client_itself_keeps_to_the_peer(path):
    """Even a path nobody checked never changes scheme, host, port or user."""
    try:
        url = url_at(EU, path)
    except ValidationError:
        return
    assert (url.scheme, url.host, url.port, url.userinfo) == ("http", "10.0.0.7", 8080, b"")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/control/pause"), ("POST", "/status"), ("DELETE", "/status"), ("GET", "/auth/login"), ("GET", "/"),
        ("GET", "/status/"), ("POST", "/federation/forward/b"), ("POST", "/federation/fanout"), ("GET", "/STATUS"),
        ("GET\r\nX: y", "/status"),
    ],
)  # fmt: skip
def test_only_listed_routes_are_forwarded(method, path):
    """A method or path that is not listed is refused."""
    with pytest.raises(PermissionsMissing):
        checked_route(method, path)


def test_the_federation_itself_cannot_be_listed():
    """Routes of the federation are refused even where a service lists them."""
    with pytest.raises(PermissionsMissing):
        checked_route("POST", "/federation/fanout", {("POST", "/federation/fanout")})
