"""Which peers are configured; nothing but these is ever called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from market_data_core.errors import ConfigurationError

# A name is part of a route, of metrics and of audit records.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?")
# Spaces and line breaks are silently dropped by URL parsers, a backslash is a slash to some of them.
_PLAIN: Final = re.compile(r"[!-\[\]-~]+")
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PASSWORD: Final = re.compile(r"//.*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another orchestrator.

    Attributes:
        name: What it is called here, unique among the peers.
        url: Scheme, host and port, such as ``https://eu.example:8080``, without a slash at the end.
    """

    name: str
    url: str

    @property
    def is_private(self) -> bool:
        """True if nobody on the way can read what is sent: it goes over TLS, or stays on this machine."""
        parts = urlsplit(self.url)
        return parts.scheme == "https" or (parts.hostname or "") in _LOOPBACK

    @classmethod
    def parse(cls, entry: str) -> Peer:
        """Read ``name=url``, or a URL whose host is then the name.

        Raises:
            ConfigurationError: It is neither; the message names the entry, without a password in it.
        """
        shown = _PASSWORD.sub("//***@", entry)
        said, equals, url = entry.partition("=")
        is_named = bool(equals) and "/" not in said
        if not is_named:
            url = entry
        parts = _split(url)
        if parts is None or not parts.hostname:
            raise ConfigurationError(
                f"federation peer {shown!r}: to be name=url or a URL of http or https with host and port only"
            )
        name = said if is_named else parts.hostname
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(
                f"federation peer {shown!r}: {name!r} is no name; give one as name=url, "
                "up to 64 letters, digits and . _ -"
            )
        return cls(name=name, url=f"{parts.scheme}://{parts.netloc.lower()}")


def parse_peers(entries: Iterable[str | Peer], *, node_id: str | None = None) -> tuple[Peer, ...]:
    """Return the peers of a list such as ``ORCH_FEDERATION_PEERS``, in its order.

    Args:
        entries: ``name=url``, URLs, or peers.
        node_id: Our own name, which no peer may have; None where there is none.

    Raises:
        ConfigurationError: An entry is no peer, or its name is taken; the message names the entry.
    """
    peers: dict[str, Peer] = {}
    for entry in entries:
        peer = entry if isinstance(entry, Peer) else Peer.parse(entry)
        if peer.name == node_id:
            raise ConfigurationError(f"federation peer {peer.name}={peer.url}: that is the name of this node")
        if peer.name in peers:
            raise ConfigurationError(
                f"federation peer {peer.name}={peer.url}: {peers[peer.name].url} has that name already; "
                "give each its own as name=url"
            )
        peers[peer.name] = peer
    return tuple(peers.values())


def _split(url: str) -> SplitResult | None:
    if _PLAIN.fullmatch(url) is None:
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            IPv6Address(host)
        elif _HOST.fullmatch(host) is None:
            return None
    except ValueError:
        return None
    rest = parts.path not in ("", "/") or "?" in url or "#" in url or "@" in url
    return None if rest or port == 0 or parts.scheme not in ("http", "https") else parts
