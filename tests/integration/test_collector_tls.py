"""The TLS collector at real servers with certificates of a CA of our own."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ingest.collector import Collected, Target, Unavailable
from ingest.collectors import tls
from ingest.collectors.tls import Tls
from pilothouse.services.child import free_port
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.records import OperationsEvent, Scrape
from schemas.series import parse, split
from tests.support.collected import points as collected_points
from tests.support.golden import GOLDEN, agrees

DAY_S = 86_400
HOST = "shop.example"


class Authority:
    """Issues certificates, and writes them where a server and a client can read them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = sign("Test CA", self._key, None, self._key, issues=True)
        self.file = directory / "ca.pem"
        self.file.write_bytes(pem(self._certificate))

    def server(self, names: tuple[str, ...] = (HOST,), *, own_issuer: bool = False, **validity: Any) -> ssl.SSLContext:
        """A server's context with a fresh certificate; `own_issuer` makes it self-signed."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = None if own_issuer else self._certificate
        leaf = sign(names[0], key, issuer, key if own_issuer else self._key, names=names, **validity)
        file = self._directory / f"{x509.random_serial_number():x}.pem"
        file.write_bytes(pem(leaf) + private(key))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(file)
        return context


def sign(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    names: tuple[str, ...] = (),
    issues: bool = False,
    from_s: float = -DAY_S,
    to_s: float = 30 * DAY_S,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(seconds=from_s))
        .not_valid_after(now + timedelta(seconds=to_s))
        .add_extension(x509.BasicConstraints(ca=issues, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([general(one) for one in names]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def general(name: str) -> x509.GeneralName:
    return x509.IPAddress(IPv4Address(name)) if name[0].isdigit() else x509.DNSName(name)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def serving(context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """A server that says nothing by itself; gives its port."""
    async with await asyncio.start_server(hold, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


def collector(port: int, authority: Authority | None = None, **options: Any) -> Tls:
    trusted = {"ca_file": str(authority.file)} if authority else {}
    resource = Resource(
        name="ingress", system="tls", tenant="acme", options={"server_name": HOST, **trusted, **options}
    )
    return Tls(Target(Cell(name="eu1", tenants=(Tenant(name="acme"),)), resource, f"tls://127.0.0.1:{port}"))


async def look(port: int, authority: Authority | None = None, **options: Any) -> Collected:
    return await collector(port, authority, **options).collect(now_ms(), None)


def now_ms() -> int:
    return int(time.time() * 1000)


def points(collected: Collected) -> dict[str, float | None]:
    return {parse(series).name: value for series, value in collected_points(collected).items()}


def events(collected: Collected) -> list[OperationsEvent]:
    return [record for record in collected.records if isinstance(record, OperationsEvent)]


async def test_a_good_certificate_is_told_by_what_is_left_of_it(authority: Authority) -> None:
    async with serving(authority.server(to_s=10 * DAY_S)) as port:
        collected = await look(port, authority)
    found = points(collected)
    assert found["tls.handshake.success"] == 1
    assert found["tls.certificate.host_match"] == 1
    assert found["tls.certificate.validity.remaining"] == pytest.approx(10 * DAY_S, abs=60)
    assert 0 < (found["tls.handshake.duration"] or 0) < 10
    assert not events(collected)


async def test_a_look_tells_the_catalogue(authority: Authority) -> None:
    async with serving(authority.server(to_s=-3600)) as port:
        collected = await look(port, authority)
    (scrape, told) = collected.records
    assert isinstance(scrape, Scrape)
    assert isinstance(told, OperationsEvent)
    kinds = [f"{BY_NAME[parse(series).name].kind} {series}\n" for series in split(scrape.series)]
    stable = {name: "*" if "serial" in name or "after" in name else value for name, value in told.attributes.items()}
    event = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE", f"{told.name} {told.tenant} {told.body}\n{stable}\n")
    agrees("".join(kinds) + event, GOLDEN / "tls" / "look.txt")


async def test_an_expired_certificate_is_told_as_such(authority: Authority) -> None:
    async with serving(authority.server(from_s=-2 * DAY_S, to_s=-3600)) as port:
        collected = await look(port, authority)
    found = points(collected)
    assert found["tls.handshake.success"] == 0
    assert found["tls.certificate.validity.remaining"] == pytest.approx(-3600, abs=60)
    assert found["tls.certificate.host_match"] == 1
    assert problems(collected) == ["expired"]


def problems(collected: Collected) -> list[object]:
    assert {event.name for event in events(collected)} <= {"tls.certificate.problem"}
    return [event.attributes["tls.problem"] for event in events(collected)]


async def test_a_certificate_of_tomorrow_is_told_as_such(authority: Authority) -> None:
    async with serving(authority.server(from_s=DAY_S)) as port:
        assert problems(await look(port, authority)) == ["not_yet_valid"]


async def test_a_certificate_of_another_host_is_told_as_such(authority: Authority) -> None:
    async with serving(authority.server(("other.example",))) as port:
        collected = await look(port, authority)
    assert problems(collected) == ["host_mismatch"]
    assert points(collected)["tls.certificate.host_match"] == 0


async def test_a_self_signed_certificate_is_told_as_such(authority: Authority) -> None:
    async with serving(authority.server(own_issuer=True)) as port:
        assert problems(await look(port, authority)) == ["self_signed"]


async def test_an_unknown_issuer_is_told_as_such(authority: Authority) -> None:
    async with serving(authority.server()) as port:
        collected = await look(port)
    assert problems(collected) == ["untrusted"]
    assert "option ca_file" in events(collected)[0].body
    assert (points(collected)["tls.certificate.validity.remaining"] or 0) > 0


async def test_a_port_that_speaks_no_tls_fails_the_handshake(authority: Authority) -> None:
    async def answer_in_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(answer_in_clear, "127.0.0.1", 0) as server:
        collected = await look(server.sockets[0].getsockname()[1], authority)
    assert problems(collected) == ["handshake"]
    assert points(collected)["tls.handshake.success"] == 0
    assert points(collected)["tls.certificate.validity.remaining"] is None


async def test_a_server_that_hangs_up_fails_the_handshake(authority: Authority) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        assert problems(await look(server.sockets[0].getsockname()[1], authority)) == ["handshake"]


async def test_a_problem_is_told_when_it_begins_and_when_it_ends(authority: Authority) -> None:
    context = authority.server(to_s=-3600)
    async with serving(context) as port:
        one = collector(port, authority)
        looks = [await one.collect(now_ms(), None), await one.collect(now_ms(), None)]
    async with serving_at(port, authority.server()):
        looks.append(await one.collect(now_ms(), None))
    told = [[event.name for event in events(each)] for each in looks]
    assert told == [["tls.certificate.problem"], [], ["tls.certificate.restored"]]


@asynccontextmanager
async def serving_at(port: int, context: ssl.SSLContext) -> AsyncIterator[None]:
    async with await asyncio.start_server(hold, "127.0.0.1", port, ssl=context, reuse_address=True):
        yield


async def test_the_server_is_asked_for_the_name(authority: Authority) -> None:
    asked: list[str | None] = []
    context = authority.server()
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with serving(context) as port:
        await look(port, authority)
    assert asked == [HOST]


async def test_an_address_is_matched_as_an_address(authority: Authority) -> None:
    async with serving(authority.server(("127.0.0.1",))) as port:
        found = points(await look(port, authority, server_name=None))
    assert found["tls.handshake.success"] == found["tls.certificate.host_match"] == 1


async def test_a_port_that_nobody_listens_at_is_away(authority: Authority) -> None:
    port = free_port()
    with pytest.raises(Unavailable, match=rf"ingress: 127.0.0.1:{port}: .*Check that the server listens"):
        await look(port, authority)


@pytest.mark.parametrize("url", ["tls://", "redis://h:1", "tls://h:port", "h:443"])
def test_a_url_of_something_else_is_refused_with_the_right_form(url: str) -> None:
    resource = Resource(name="ingress", system="tls")
    with pytest.raises(ValueError, match=r"resource ingress: url .* must read tls://HOST:PORT"):
        Tls(Target(Cell(name="eu1", tenants=(Tenant(name="acme"),)), resource, url))


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ValueError, match=r"resource ingress: options: ca_file .*ca\.pem.* must be a PEM file"):
        collector(443, ca_file=str(tmp_path / "ca.pem"))


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("shop.example", "SHOP.example.", True),
        ("*.example", "shop.example", True),
        ("*.example", "a.shop.example", False),
        ("*.example", "example", False),
        ("*.", "shop", False),
        ("s*.example", "shop.example", False),
    ],
)
def test_a_star_stands_for_one_label(authority: Authority, pattern: str, name: str, expected: bool) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert tls.names_host(sign("x", key, None, key, names=(pattern,)), name) is expected
