"""Tokens as attackers make them: refused over HTTP with 401, never with an error of ours."""

from __future__ import annotations

import base64
import hmac
import json
import socket

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from oidc_issuer import AUDIENCE, NOW_S, RSA_KEYS

from market_data_core.web.auth import dual_auth

GOOD, OTHER = RSA_KEYS


def encoded(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims_of(issuer, **changes):
    return {"iss": issuer.url, "aud": AUDIENCE, "sub": "eve", "iat": NOW_S, "exp": NOW_S + 60, "roles": ["admin"]} | (
        changes
    )


def signed(header, payload, key=GOOD):
    """A compact token; bytes are taken as they are, so that they may say things twice, or be no JSON."""
    first = f"{encoded(header)}.{encoded(payload)}"
    signature = key.private_key.sign(first.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{first}.{encoded(signature)}"


RS256 = {"alg": "RS256", "kid": "rsa-0"}


@pytest.fixture
async def statuses(tokens, service_of):
    """The different statuses that tokens are answered with."""
    async with service_of(dual_auth([], tokens=tokens)) as client:

        async def ask(several):
            answers = [await client.get("/who", headers={"authorization": f"Bearer {token}"}) for token in several]
            return {answer.status_code for answer in answers}

        yield ask


async def test_the_attacks_are_told_from_a_good_token(issuer, statuses):
    """What the forgeries below are made from does open; also where the audience is one of a list."""
    listed = claims_of(issuer, aud=["another", AUDIENCE])
    written_out = b'{"alg":"RS256","kid":"rsa-0"}'
    good = [signed(RS256, claims_of(issuer)), signed(RS256, listed), signed(written_out, claims_of(issuer))]
    assert await statuses(good) == {200}


async def test_no_name_of_none_passes_for_an_algorithm(issuer, statuses):
    """With a signature of a good token behind it, or without."""
    payload = encoded(claims_of(issuer))
    signature = signed(RS256, claims_of(issuer)).rpartition(".")[2]
    names = ["none", "None", "nOnE", "NONE", "", "rs256", " RS256", None, 0, ["RS256"], {}]
    heads = [encoded({"alg": name, "kid": "rsa-0"}) for name in names]
    assert await statuses(f"{head}.{payload}.{end}" for head in heads for end in ("", signature)) == {401}


async def test_a_public_key_is_no_secret(issuer, statuses):
    """In any form in which somebody may have it."""
    shown = GOOD.as_dict(private=False)
    pem = GOOD.as_pem(private=False)
    modulus = base64.urlsafe_b64decode(shown["n"] + "==")
    forged = []
    for secret in (pem, pem.rstrip(), GOOD.as_der(private=False), json.dumps(shown).encode(), modulus, b""):
        for algorithm in ("HS256", "HS384", "HS512"):
            first = f"{encoded({'alg': algorithm, 'kid': 'rsa-0'})}.{encoded(claims_of(issuer))}"
            signature = hmac.digest(secret, first.encode(), algorithm.replace("HS", "sha"))
            forged.append(f"{first}.{encoded(signature)}")
    assert await statuses(forged) == {401}


async def test_no_token_says_where_its_key_is(issuer, statuses):
    """Keys and addresses of keys in the header are not looked at: nobody is asked but the issuer."""
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        trap.setblocking(False)
        place = f"http://127.0.0.1:{trap.getsockname()[1]}/keys"
        own = OTHER.as_dict(private=False)
        tries = ({"jku": place}, {"x5u": place}, {"jwk": own}, {"x5c": [encoded(b"certificate")]}, {"iss": place})
        named = [{"alg": "RS256", "kid": kid, **way} for way in tries for kid in ("rsa-0", "rsa-1", place)]
        there = [claims_of(issuer), claims_of(issuer, iss=place)]
        assert await statuses(signed(header, claims, OTHER) for header in named for claims in there) == {401}
        with pytest.raises(BlockingIOError):
            trap.accept()
    assert issuer.fetches == 1


async def test_a_claim_that_is_there_twice_is_refused(issuer, statuses):
    """Others who read the token may take the other one."""
    body = json.dumps(claims_of(issuer))[1:-1]
    payloads = [
        f'{{"roles":["viewer"],{body}}}',
        f'{{{body},"roles":["admin"]}}',
        f'{{"sub":"alice",{body}}}',
        f'{{{body},"exp":9999999999}}',
        f'{{{body},"x":{{"a":1,"a":2}}}}',
    ]
    assert await statuses(signed(RS256, payload.encode()) for payload in payloads) == {401}


async def test_a_header_that_says_anything_else_is_refused(issuer, statuses):
    """Although the signature is right: another algorithm too, extensions we do not know, ids that are none."""
    headers = [
        b'{"alg":"RS256","kid":"rsa-0","alg":"none"}',
        b'{"alg":"RS256","kid":"rsa-0","alg":"HS256"}',
        b'{"alg":"RS256","kid":"rsa-0","crit":["x-must"],"x-must":1}',
        b'{"alg":"RS256","kid":"rsa-0","crit":["b64"],"b64":false}',
        b'{"alg":"RS256","kid":"rsa-0","crit":[]}',
        b'{"alg":"RS256","kid":"rsa-0","crit":"exp"}',
        b'{"alg":"RS256","kid":"rsa-0\\u0000"}',
        b'{"alg":"RS256","kid":"../../rsa-0"}',
        b'{"alg":"RS256","kid":["rsa-0"]}',
        b'{"alg":"RS256","kid":"' + b"x" * 6000 + b'"}',
        b'["RS256"]',
        b"\xff\xfe",
    ]
    assert await statuses(signed(header, claims_of(issuer)) for header in headers) == {401}


async def test_claims_of_another_shape_are_refused(issuer, statuses):
    """A signature makes them no better."""
    url = issuer.url
    shapes = [
        *({"iss": wrong} for wrong in ([url], {url: 1}, f"{url}/", f"{url}@evil.example", None)),
        *({"aud": wrong} for wrong in ([], {AUDIENCE: 1}, [[AUDIENCE]], f"{AUDIENCE} x", 7, None)),
        *({"sub": wrong} for wrong in (["eve"], 7, "\ud800", "e" * 129, "eve\r\nx: y", None)),
        *({"exp": wrong} for wrong in (float("nan"), float("inf"), "9999999999", [NOW_S + 60], 1e300, True, -1, None)),
        *({name: wrong} for name in ("iat", "nbf") for wrong in (float("nan"), 1e300, "0", NOW_S + 3600, None)),
    ]
    assert await statuses(signed(RS256, claims_of(issuer, **shape)) for shape in shapes) == {401}


async def test_a_token_in_another_form_is_no_token(issuer, statuses):
    """Two of them, one with more parts, one in JSON: refused; space around one is no part of it."""
    token = signed(RS256, claims_of(issuer))
    head, payload, signature = token.split(".")
    forms = ["{0} {0}", "{0},{0}", "{0}.{0}", ".{0}", "{0}.", "{0}=", "Bearer {0}", "%2e{0}"]
    as_json = json.dumps({"protected": head, "payload": payload, "signature": signature})
    assert await statuses([*(form.format(token) for form in forms), as_json]) == {401}
    assert await statuses([f"  {token}\t"]) == {200}


async def test_a_payload_that_is_no_set_of_claims_is_refused(issuer, statuses):
    """Signed by the issuer itself."""
    payloads = [b"", b"null", b"[]", b'"x"', b"{", b"\xff", b"[" * 9000, b'{"a":' * 2000]
    assert await statuses(signed(RS256, payload) for payload in payloads) == {401}
