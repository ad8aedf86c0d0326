"""Tokens of an OpenID issuer."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import OctKey
from oidc_issuer import AUDIENCE, NOW_S, RSA_KEYS, WEAK_KEY, make_key
from starlette.requests import HTTPConnection

from market_data_core.errors import AuthenticationFailed, ConfigurationError, TemporaryUnavailable
from market_data_core.web.auth import ConfiguredKey, OidcTokens, Principal, Role, dual_auth, role_in


def bearing(token):
    raw = token if isinstance(token, bytes) else token.encode()
    return HTTPConnection({"type": "http", "headers": [(b"authorization", b"Bearer " + raw)]})


async def refusal(tokens, token):
    with pytest.raises(AuthenticationFailed) as caught:
        await tokens.authenticate(bearing(token))
    return caught.value.message


def segment(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
async def test_rsa_tokens_are_accepted(issuer, tokens, algorithm):
    """Of every length, by discovery."""
    token = issuer.token(algorithm=algorithm)
    assert await tokens.authenticate(bearing(token)) == Principal(name="alice", role=Role.VIEWER)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512", "EdDSA", "Ed25519"])
async def test_tokens_of_curves_are_accepted(issuer, tokens, algorithm):
    """Under the old and the new name of EdDSA."""
    key = make_key(algorithm, "curve")
    issuer.keys.append(key)
    assert await tokens.authenticate(bearing(issuer.token(key, algorithm))) is not None


async def test_a_configured_jwks_url_needs_no_discovery(issuer, clock):
    """Not even a discovery document that is right."""
    issuer.named = "http://127.0.0.1/other"
    tokens = OidcTokens(issuer=issuer.url, audience=AUDIENCE, jwks_url=f"{issuer.url}/keys", clock=clock)
    assert await tokens.authenticate(bearing(issuer.token())) is not None


async def test_a_discovery_document_of_another_issuer_is_not_believed(issuer, tokens):
    """It could name that one's keys."""
    issuer.named = "http://127.0.0.1/other"
    with pytest.raises(TemporaryUnavailable):
        await tokens.authenticate(bearing(issuer.token()))


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"exp": NOW_S - 61}, "expired"),
        ({"iat": NOW_S + 61}, "future"),
        ({"nbf": NOW_S + 61}, "not valid yet"),
        ({"iss": "https://elsewhere.example"}, "another issuer"),
        ({"aud": "elsewhere"}, "another service"),
        ({"aud": ["a", "b"]}, "another service"),
        ({"roles": []}, "no role"),
        ({"roles": ["root"]}, "no role"),
        ({"sub": "a\nb"}, "subject"),
        ({"sub": ""}, "subject"),
        ({"exp": "tomorrow"}, "exp is missing"),
        ({"exp": True}, "exp is missing"),
        ({"exp": 10**400}, "exp is missing"),
        *[({"drop": (name,)}, says) for name, says in [("exp", "exp"), ("iat", "iat"), ("iss", "issuer")]],
        *[({"drop": (name,)}, says) for name, says in [("aud", "service"), ("sub", "subject"), ("roles", "no role")]],
    ],
)
async def test_what_does_not_hold_is_refused_saying_why(issuer, tokens, claims, says):
    """Each claim on its own."""
    assert says in await refusal(tokens, issuer.token(**claims))


@pytest.mark.parametrize("claims", [{"exp": NOW_S - 59}, {"iat": NOW_S + 60}, {"nbf": NOW_S + 60}])
async def test_clocks_may_differ_by_a_minute(issuer, tokens, claims):
    """Either way."""
    assert await tokens.authenticate(bearing(issuer.token(**claims))) is not None


async def test_unsigned_and_symmetric_tokens_are_refused(issuer, tokens):
    """An HS256 token made with the published key as its secret is the classic forgery."""
    payload = {"iss": issuer.url, "aud": AUDIENCE, "sub": "eve", "iat": NOW_S, "exp": NOW_S + 9, "roles": ["admin"]}
    assert "algorithm" in await refusal(tokens, f"{segment({'alg': 'none'})}.{segment(payload)}.")
    secret = OctKey.import_key(base64.b64encode(RSA_KEYS[0].as_der(private=False)).decode(), {"kid": "rsa-0"})
    assert "algorithm" in await refusal(tokens, issuer.token(secret, "HS256"))
    assert issuer.fetches == 0


async def test_a_key_counts_for_its_own_kind_only(issuer, tokens):
    """An algorithm of another kind than the key's finds no key."""
    curve = make_key("ES256", "rsa-0")
    assert "does not show" in await refusal(tokens, issuer.token(curve, "ES256"))


async def test_a_signature_of_another_key_is_refused(issuer, tokens):
    """Under the id of a good one; and a payload changed after signing."""
    forged = issuer.token(RSA_KEYS[1], header={"kid": "rsa-0"})
    assert "signature" in await refusal(tokens, forged)
    head, _, signature = issuer.token().split(".")
    assert "signature" in await refusal(tokens, f"{head}.{segment({'sub': 'eve'})}.{signature}")


async def test_a_weak_key_is_not_used(issuer, tokens):
    """RSA below 2048 bits, even if the issuer shows it."""
    issuer.keys.append(WEAK_KEY)
    assert "does not show" in await refusal(tokens, issuer.token(WEAK_KEY))


async def test_without_a_key_id_the_only_key_counts(issuer, tokens, clock):
    """Of two it cannot be told which."""
    token = issuer.token(named=False)
    assert await tokens.authenticate(bearing(token)) is not None
    issuer.keys = list(RSA_KEYS)
    clock.advance(3600)
    assert "does not show" in await refusal(tokens, issuer.token(named=False, exp=NOW_S + 9000))


async def test_a_rotation_needs_no_restart(issuer, tokens, clock):
    """A key id not seen before has the keys fetched at once, and at most every ten seconds."""
    assert await tokens.authenticate(bearing(issuer.token())) is not None
    issuer.keys = [RSA_KEYS[1]]
    clock.advance(10)
    assert await tokens.authenticate(bearing(issuer.token())) is not None
    assert issuer.fetches == 2


async def test_invented_key_ids_do_not_storm_the_issuer(issuer, tokens, clock):
    """However many there are."""
    for number in range(20):
        assert "does not show" in await refusal(tokens, issuer.token(header={"kid": f"invented-{number}"}))
    assert issuer.fetches == 1
    clock.advance(10)
    for number in range(20):
        await refusal(tokens, issuer.token(header={"kid": f"invented-{number}"}))
    assert issuer.fetches == 2


async def test_how_often_keys_may_be_fetched_is_a_setting(issuer, clock):
    """And whoever is turned away because they cannot be had is told to wait as long."""
    tokens = OidcTokens(issuer=issuer.url, audience=AUDIENCE, refetch_s=2, clock=clock)
    for _ in range(3):
        await refusal(tokens, issuer.token(header={"kid": "invented"}))
        clock.advance(1)
    assert issuer.fetches == 2
    await issuer.stop()
    unknown = OidcTokens(issuer=issuer.url, audience=AUDIENCE, refetch_s=2, clock=clock)
    with pytest.raises(TemporaryUnavailable) as caught:
        await unknown.authenticate(bearing(issuer.token()))
    assert caught.value.retry_after_sec == 2


async def test_keys_are_fetched_again_after_their_time(issuer, tokens, clock):
    """A key that is shown no longer then counts no longer."""
    token = issuer.token(exp=NOW_S + 10_000)
    assert await tokens.authenticate(bearing(token)) is not None
    issuer.keys = [RSA_KEYS[1]]
    clock.advance(3599)
    assert await tokens.authenticate(bearing(token)) is not None
    clock.advance(1)
    assert "does not show" in await refusal(tokens, token)


async def test_known_keys_count_for_a_day_while_the_issuer_is_away(issuer, tokens, clock):
    """And no longer; then it is our trouble, not the caller's."""
    token = issuer.token(exp=NOW_S + 1_000_000)
    assert await tokens.authenticate(bearing(token)) is not None
    await issuer.stop()
    clock.advance(24 * 3600 - 1)
    assert await tokens.authenticate(bearing(token)) is not None
    clock.advance(1)
    with pytest.raises(TemporaryUnavailable) as caught:
        await tokens.authenticate(bearing(token))
    assert caught.value.retry_after_sec == 10


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"{}", b'{"keys": 1}', b'{"keys": [1, {"kty": []}]}', b" " * 300_000]
)
async def test_an_issuer_that_shows_no_keys_is_as_good_as_away(issuer, tokens, raw):
    """Whatever it shows instead."""
    issuer.raw = raw
    with pytest.raises(TemporaryUnavailable):
        await tokens.authenticate(bearing(issuer.token()))


async def test_an_issuer_that_fails_is_as_good_as_away(issuer, tokens, clock):
    """With known keys nobody notices."""
    issuer.status = 500
    with pytest.raises(TemporaryUnavailable):
        await tokens.authenticate(bearing(issuer.token()))
    issuer.status = 200
    clock.advance(10)
    assert await tokens.authenticate(bearing(issuer.token())) is not None


@pytest.mark.parametrize("token", ["a.b.c", "..", f"{segment({'alg': 'RS256', 'kid': 7})}.e30.AA", "e30.e30.AA"])
async def test_malformed_tokens_never_reach_the_issuer(issuer, tokens, token):
    """Refused, or left to others if it is no token at all."""
    with contextlib.suppress(AuthenticationFailed):
        assert await tokens.authenticate(bearing(token)) is None
    assert issuer.fetches == 0


async def test_huge_and_deep_tokens_are_refused(issuer, tokens):
    """Before anything is made of them."""
    assert "too long" in await refusal(tokens, issuer.token(filler="x" * 20_000))
    deep = base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=").decode()
    assert "malformed" in await refusal(tokens, f"{deep}.e30.AA")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    token=st.one_of(
        st.binary(max_size=200),
        st.from_regex(rb"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}", fullmatch=True),
        st.tuples(
            st.dictionaries(
                st.sampled_from(["alg", "kid", "crit", "typ", "b64"]),
                st.just("RS256") | st.none() | st.integers() | st.lists(st.text(max_size=3), max_size=2),
            ),
            st.text(max_size=5),
        ).map(lambda parts: f"{segment(parts[0])}.{segment(parts[1])}.AAAA".encode()),
    )
)
def test_arbitrary_bytes_are_refused_and_nothing_else(token):
    """Whatever comes as a token, the answer is no, never an error of another kind."""
    tokens = OidcTokens(issuer="http://127.0.0.1:1", audience=AUDIENCE)

    async def answer():
        return await tokens.authenticate(bearing(token))

    with contextlib.suppress(AuthenticationFailed, TemporaryUnavailable):
        assert asyncio.run(answer()) is None


async def test_tokens_are_nowhere_in_the_log(issuer, tokens, caplog):
    """Neither good ones nor bad."""
    good, bad = issuer.token(), issuer.token(exp=1)
    with caplog.at_level(logging.DEBUG):
        await tokens.authenticate(bearing(good))
        await refusal(tokens, bad)
    assert good.split(".")[2] not in caplog.text
    assert bad.split(".")[2] not in caplog.text


@pytest.mark.parametrize(
    ("claims", "claim", "role"),
    [
        ({"roles": ["viewer", "admin", "operator"]}, "roles", Role.ADMIN),
        ({"roles": "viewer operator"}, "roles", Role.OPERATOR),
        ({"roles": "viewer,operator, x"}, "roles", Role.OPERATOR),
        ({"realm_access": {"roles": ["operator"]}}, "realm_access.roles", Role.OPERATOR),
        ({"https://a.example/roles": ["admin"]}, "https://a.example/roles", Role.ADMIN),
        ({"roles": [["admin"], {"admin": 1}, 3, None, "viewer"]}, "roles", Role.VIEWER),
        ({"roles": {"admin": True}}, "roles", None),
        ({"roles": "administrator"}, "roles", None),
        ({"realm_access": "admin"}, "realm_access.roles", None),
        ({}, "roles", None),
    ],
)
def test_the_highest_role_counts(claims, claim, role):
    """From a list, a string or a nested path; nothing else is a role."""
    assert role_in(claims, claim) == role


async def test_keys_and_tokens_work_beside_each_other(issuer, tokens, service_of):
    """With dual authentication; without it only tokens open."""
    keys = [ConfiguredKey("the-key"), ConfiguredKey("with.two.dots", name="dotted")]
    token = issuer.token(roles="operator")
    async with service_of(dual_auth(keys, tokens=tokens)) as client:
        assert (await client.get("/who", headers={"authorization": f"Bearer {token}"})).json()["role"] == "operator"
        assert (await client.get("/who", headers={"x-api-key": "the-key"})).status_code == 200
        assert (await client.get("/who", headers={"authorization": "Bearer with.two.dots"})).status_code == 200
        answer = await client.get("/who", headers={"authorization": f"Bearer {issuer.token(exp=1)}"})
        assert (answer.status_code, answer.json()["detail"]) == (401, "the token has expired")
    async with service_of(dual_auth(keys, tokens=tokens, dual=False)) as client:
        assert (await client.get("/who", headers={"x-api-key": "the-key"})).status_code == 401
        assert (await client.get("/who", headers={"authorization": f"Bearer {token}"})).status_code == 200
    async with service_of(dual_auth(keys, dual=False)) as client:
        assert (await client.get("/who", headers={"x-api-key": "the-key"})).status_code == 200


@pytest.mark.parametrize(
    "wrong", [{"issuer": "http://issuer.example"}, {"issuer": ""}, {"audience": ""}, {"jwks_url": "file:///etc/keys"}]
)
def test_an_issuer_that_could_be_anybody_is_a_wrong_setting(wrong):
    """Keys come over https, or from this machine."""
    with pytest.raises(ConfigurationError):
        OidcTokens(**({"issuer": "https://issuer.example", "audience": AUDIENCE} | wrong))
