from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from market_data_core.errors import AuthenticationFailed, ConfigurationError
from market_data_core.web.auth import Principal, Role
from market_data_orchestrator.federation import FederatedCaller
from market_data_orchestrator.federation.identity import forwarding_headers

TOKEN = "a-service-token-of-peers"


def arriving(headers):
    pairs = headers.items() if isinstance(headers, dict) else headers
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
    return HTTPConnection({"type": "http", "headers": raw})


def sent(*, token=TOKEN, name="alice", role=Role.ADMIN, node="eu"):
    return forwarding_headers(token=token, node_id=node, caller=Principal(name=name, role=role))


@pytest.mark.parametrize("here", list(Role))
@pytest.mark.parametrize("there", list(Role))
async def test_nobody_gains_rights(here, there):
    """The role is the lesser of the token's and the caller's."""
    caller = await FederatedCaller(TOKEN, role=here).authenticate(arriving(sent(role=there)))
    assert caller.name == "federation:eu/alice"
    assert here.covers(caller.role)
    assert there.covers(caller.role)
    assert caller.role in (here, there)


async def test_without_the_token_nothing_is_believed():
    """Forwarded headers with another token, or none, tell nothing."""
    federated = FederatedCaller(TOKEN)
    assert await federated.authenticate(arriving(sent(token="another-token-of-peers"))) is None
    bare = {name: value for name, value in sent().items() if name != "Authorization"}
    assert await federated.authenticate(arriving(bare)) is None


@pytest.mark.parametrize("header", ["X-Forwarded-Actor", "X-Forwarded-Role", "X-Federation-Hop"])
@pytest.mark.parametrize("how", ["absent", "empty", "twice", "odd"])
async def test_the_token_alone_is_nobody(header, how):
    """With the token, who asks through whom must be said, once and well-formed."""
    pairs = [pair for pair in sent().items() if pair[0] != header]
    pairs += {"absent": [], "empty": [(header, "")], "odd": [(header, "ad min")]}.get(how, [(header, "admin")] * 2)
    with pytest.raises(AuthenticationFailed, match=header):
        await FederatedCaller(TOKEN).authenticate(arriving(pairs))


@given(name=st.text(min_size=1, max_size=60), node=st.text(min_size=1, max_size=20))
async def test_any_name_travels(name, node):
    """Whatever a caller and a node are called, the headers are well-formed and the name holds no break."""
    caller = await FederatedCaller(TOKEN).authenticate(arriving(sent(name=name, node=node)))
    assert caller.name.isascii()
    assert caller.name.isprintable()
    assert " " not in caller.name


@pytest.mark.parametrize("token", ["", "short", "with spaces in its middle", "with-a-line\nbreak-in-it", "ümlaut" * 4])
def test_a_token_that_is_none_is_refused(token):
    """A token that is too short or that no header carries is refused, and not shown."""
    with pytest.raises(ConfigurationError) as refused:
        FederatedCaller(token)
    assert not token or token not in refused.value.message
