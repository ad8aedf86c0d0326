"""The service over TLS, with a certificate of its own."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.sync.client import connect

from support.service import RunningService

ADDRESS = "127.0.0.1"


def write_key(path, key, encryption):
    """Write a private key as PEM."""
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Paths of a certificate for the loopback address and of its key; keys that are none for it lie beside them."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    write_key(folder / "key.pem", key, serialization.NoEncryption())
    write_key(folder / "locked.pem", key, serialization.BestAvailableEncryption(b"secret"))
    write_key(folder / "other.pem", ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption())
    return folder / "cert.pem", folder / "key.pem"


def test_everything_is_served_over_tls_and_nothing_without(tmp_path, certificate):
    """Requests, large answers and sockets; who speaks plainly is not answered; a stop is clean with a socket open."""
    cert, key = certificate
    trusting = ssl.create_default_context(cafile=str(cert))
    with (
        RunningService(tmp_path / "data", TLS_CERT=cert, TLS_KEY=key) as service,
        httpx.Client(base_url=f"https://{ADDRESS}:{service.port}", verify=trusting, trust_env=False) as client,
    ):
        plain, service.url = service.url, f"https://{ADDRESS}:{service.port}"
        service.wait_healthy()
        assert client.get("/health").json()["state"] == "healthy"
        described = client.get("/openapi.json")
        assert len(described.content) > 16 * 1024, "longer than a TLS record"
        assert "paths" in described.json()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{plain}/health", trust_env=False, timeout=5)
        with connect(f"wss://{ADDRESS}:{service.port}/ws/status", ssl=trusting) as socket:
            first, second = (json.loads(socket.recv(10)) for _ in range(2))
            assert first["type"] == second["type"] == "status"
            assert second["data"]["ts"] >= first["data"]["ts"]
            assert service.stop() == 0, service.output()


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("none.pem", None, "No such file"),
        ("cert.pem", None, "which is to hold its key: no PEM certificate and key"),
        ("cert.pem", "other.pem", "that belong together"),
        ("cert.pem", "locked.pem", "or the key has a password"),
        (None, "key.pem", "ORCH_TLS_CERT names no certificate"),
    ],
)
def test_what_cannot_be_served_with_is_said_before_anything_starts(tmp_path, certificate, cert, key, said):
    """By the names of the settings, with the exit code of wrong settings; nobody is asked for a password."""
    folder = certificate[0].parent
    settings = {name: folder / file for name, file in (("TLS_CERT", cert), ("TLS_KEY", key)) if file is not None}
    with RunningService(tmp_path / "data", **settings) as service:
        assert service.process.wait(20) == 2
        (line,) = [line for line in service.output().splitlines() if line.startswith("error: ")]
        assert said in line
        assert str(folder) in line
    assert not (tmp_path / "data" / "lake").exists()
