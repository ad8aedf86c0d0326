"""A real OpenID issuer on a loopback socket, and a service that trusts it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from urllib.parse import parse_qs

import uvicorn
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from market_data_core.clock import NS_PER_SECOND, ManualClock

DEADLINE_S = 10.0
NOW_S = 1_790_000_000
AUDIENCE = "orchestrator"
# Making an RSA key takes long; the tests never change one.
RSA_KEYS = [RSAKey.generate_key(2048, {"kid": f"rsa-{number}"}) for number in range(2)]
WEAK_KEY = RSAKey(*[rsa.generate_private_key(public_exponent=65537, key_size=1024)] * 2, {"kid": "weak"})


def make_key(algorithm, kid):
    if algorithm.startswith("ES"):
        curve = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm]
        return ECKey.generate_key(curve, {"kid": kid})
    return OKPKey.generate_key("Ed25519", {"kid": kid})


class FakeTime(ManualClock):
    """A clock that starts at a date of today's kind."""

    def __init__(self):
        super().__init__(NOW_S * NS_PER_SECOND)


class OpenIdIssuer:
    """Discovery, keys and the token endpoint, over HTTP; what it shows can be changed."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"
        self.keys = [RSA_KEYS[0]]
        self.fetches = 0
        self.status = 200
        self.raw = None
        self.named = self.url
        self.end_session = ""
        self.logins = {}
        self.exchanges = []
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discovery),
                Route("/keys", self._keys),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    async def _discovery(self, request):
        shown = {
            "issuer": self.named,
            "jwks_uri": f"{self.url}/keys",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
        }
        return JSONResponse(shown | ({"end_session_endpoint": self.end_session} if self.end_session else {}))

    async def _keys(self, request):
        self.fetches += 1
        if self.raw is not None:
            return Response(self.raw, status_code=self.status)
        shown = [key.as_dict(private=False) for key in self.keys]
        return JSONResponse({"keys": [*shown, {"kty": "AKP", "kid": "unheard-of"}]}, status_code=self.status)

    async def _token(self, request):
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        login = self.logins.pop(form["code"], None)
        verified = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        self.exchanges.append((form, request.headers.get("authorization")))
        if login is None or login["challenge"] != verified.decode():
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        return JSONResponse(login["answer"])

    def grant(self, query, **answer):
        """Say yes to the login a browser was sent here with; gives the code."""
        code = secrets.token_urlsafe(16)
        self.logins[code] = {"challenge": query["code_challenge"], "answer": answer}
        return code

    def token(self, key=None, algorithm="RS256", *, header=None, named=True, drop=(), **claims):
        """A token that holds, but for what is said."""
        key = key or self.keys[0]
        body = {"iss": self.url, "aud": AUDIENCE, "sub": "alice", "iat": NOW_S, "exp": NOW_S + 300, "roles": ["viewer"]}
        body = {name: value for name, value in (body | claims).items() if name not in drop}
        registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        return jwt.encode(
            {"alg": algorithm} | ({"kid": key.kid} if named else {}) | (header or {}), body, key, registry=registry
        )


class Serving:
    """Serves an app with uvicorn until it is stopped."""

    def __init__(self, app, listener):
        self.listener = listener
        self.server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
        self.task = asyncio.create_task(self.server.serve(sockets=[listener]), name="issuer")

    async def started(self):
        deadline = time.monotonic() + DEADLINE_S
        while not self.server.started:
            assert time.monotonic() < deadline, "uvicorn did not start"
            assert not self.task.done(), "uvicorn stopped at once"
            await asyncio.sleep(0.002)

    async def stop(self):
        self.server.should_exit = True
        await asyncio.wait_for(self.task, DEADLINE_S)
        self.listener.close()
