"""The TLS collector at real servers with certificates of a CA of our own."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ingest.collector import Collected, Target, Unavailable
from ingest.collectors import tls_verify
from ingest.collectors.tls import Tls
from ingest.collectors.tls_verify import Problem
from pilothouse.services.child import free_port
from schemas.estate import Cell, Resource, Tenant
from schemas.metrics import BY_NAME
from schemas.records import OperationsEvent, Scrape
from schemas.series import parse, split
from tests.support.collected import Observer
from tests.support.collected import points as collected_points
from tests.support.golden import GOLDEN, agrees

DAY_S = 86_400
HOST = "shop.example"


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    def issue(self, subject: str, *, key: Any = None, **more: Any) -> Issued:
        """A certificate that this one issues."""
        own = key or ec.generate_private_key(ec.SECP256R1())
        return Issued(sign(subject, own, self.certificate, self.key, **more), own)


class Authority:
    """Issues certificates, and writes them where a server and a client can read them."""

    def __init__(self, directory: Path, **root: Any) -> None:
        self._directory = directory
        self.root = self_signed(**{"subject": "Test CA", "issues": True, **root})
        self.file = directory / "ca.pem"
        self.file.write_bytes(pem(self.root.certificate))

    def server(self, names: tuple[str, ...] = (HOST,), *, own_issuer: bool = False, **more: Any) -> ssl.SSLContext:
        """A server's context with a fresh certificate; `own_issuer` makes it self-signed."""
        leaf = self_signed(names[0], names=names, **more) if own_issuer else self.leaf(names, **more)
        return self.serve(leaf)

    def leaf(self, names: tuple[str, ...] = (HOST,), **more: Any) -> Issued:
        """A server's certificate of the root itself."""
        return self.root.issue(names[0], names=names, **more)

    def serve(self, leaf: Issued, *chain: Issued) -> ssl.SSLContext:
        """A server's context that serves the leaf, and the chain behind it."""
        file = self._directory / f"{x509.random_serial_number():x}.pem"
        file.write_bytes(b"".join(pem(one.certificate) for one in (leaf, *chain)) + private(leaf.key))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.load_cert_chain(file)
        return context


def self_signed(subject: str, *, key: Any = None, **more: Any) -> Issued:
    own = key or ec.generate_private_key(ec.SECP256R1())
    return Issued(sign(subject, own, None, own, **more), own)


def sign(
    subject: str,
    key: Any,
    issuer: x509.Certificate | None,
    issuer_key: Any,
    *,
    names: tuple[str, ...] = (),
    issues: bool = False,
    path_length: int | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
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
        .add_extension(x509.BasicConstraints(ca=issues, path_length=path_length), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([general(one) for one in names]), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256())


def general(name: str) -> x509.GeneralName:
    return x509.IPAddress(IPv4Address(name)) if name[0].isdigit() else x509.DNSName(name)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def private(key: Any) -> bytes:
    return bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
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


def collector(port: int, authority: Authority | None = None, **options: Any) -> Observer:
    trusted = {"ca_file": str(authority.file)} if authority else {}
    resource = Resource(
        name="ingress", system="tls", tenant="acme", options={"server_name": HOST, **trusted, **options}
    )
    target = Target(Cell(name="eu1", tenants=(Tenant(name="acme"),)), resource, f"tls://127.0.0.1:{port}")
    return Observer(target, Tls(target))


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
    assert problems(collected) == ["incomplete_chain"]
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
    with pytest.raises(ValueError, match=r"resource ingress: the url .*must read tls://HOST:PORT"):
        Tls(Target(Cell(name="eu1", tenants=(Tenant(name="acme"),)), resource, url))


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ValueError, match=r"resource ingress: options: ca_file .*ca\.pem.* must be a PEM file"):
        collector(443, ca_file=str(tmp_path / "ca.pem"))


async def test_an_expired_intermediate_is_not_the_servers_own_certificate(authority: Authority) -> None:
    intermediate = authority.root.issue("Intermediate", issues=True, from_s=-9 * DAY_S, to_s=-DAY_S)
    leaf = intermediate.issue(HOST, names=(HOST,))
    async with serving(authority.serve(leaf, intermediate)) as port:
        collected = await look(port, authority)
    found = points(collected)
    assert problems(collected) == ["issuer_expired"]
    assert "need not be renewed" in events(collected)[0].body
    assert (found["tls.certificate.validity.remaining"] or 0) > 0
    assert found["tls.certificate.issuer.validity.remaining"] == pytest.approx(-DAY_S, abs=60)
    assert found["tls.certificate.host_match"] == 1


async def test_the_end_of_an_issuer_is_seen_ahead(authority: Authority) -> None:
    intermediate = authority.root.issue("Intermediate", issues=True, to_s=3 * DAY_S)
    async with serving(authority.serve(intermediate.issue(HOST, names=(HOST,)), intermediate)) as port:
        found = points(await look(port, authority))
    assert found["tls.handshake.success"] == 1
    assert found["tls.certificate.issuer.validity.remaining"] == pytest.approx(3 * DAY_S, abs=60)


async def test_the_end_of_a_trusted_root_counts_though_it_is_not_served(tmp_path: Path) -> None:
    authority = Authority(tmp_path, to_s=2 * DAY_S)
    async with serving(authority.server()) as port:
        found = points(await look(port, authority))
    assert found["tls.certificate.issuer.validity.remaining"] == pytest.approx(2 * DAY_S, abs=60)


async def test_an_intermediate_that_is_not_served_is_missed(authority: Authority) -> None:
    intermediate = authority.root.issue("Intermediate", issues=True)
    async with serving(authority.serve(intermediate.issue(HOST, names=(HOST,)))) as port:
        collected = await look(port, authority)
    assert problems(collected) == ["incomplete_chain"]
    assert "Serve the intermediate certificates" in events(collected)[0].body


async def test_a_root_that_is_served_and_not_trusted_is_untrusted(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", subject="Other CA")
    async with serving(other.serve(other.leaf(), other.root)) as port:
        assert problems(await look(port, authority)) == ["untrusted"]


async def test_a_weak_key_is_told_as_such(authority: Authority) -> None:
    key = rsa.generate_private_key(65_537, 1_024)
    async with serving(authority.server(key=key)) as port:
        collected = await look(port, authority)
    assert problems(collected) == ["weak_cryptography"]
    assert points(collected)["tls.certificate.host_match"] == 1


async def test_a_certificate_for_clients_has_the_wrong_purpose(authority: Authority) -> None:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    async with serving(authority.server(extensions=((usage, False),))) as port:
        collected = await look(port, authority)
    assert problems(collected) == ["wrong_purpose"]
    assert "serverAuth" in events(collected)[0].body


async def test_a_name_that_the_issuer_may_not_issue_for_breaks_its_constraints(authority: Authority) -> None:
    constraints = x509.NameConstraints(permitted_subtrees=[x509.DNSName("other.example")], excluded_subtrees=None)
    intermediate = authority.root.issue("Intermediate", issues=True, extensions=((constraints, True),))
    async with serving(authority.serve(intermediate.issue(HOST, names=(HOST,)), intermediate)) as port:
        assert problems(await look(port, authority)) == ["name_constraints"]


async def test_an_issuer_that_may_not_issue_is_told_as_such(authority: Authority) -> None:
    no_issuer = authority.root.issue("No issuer", issues=False)
    async with serving(authority.serve(no_issuer.issue(HOST, names=(HOST,)), no_issuer)) as port:
        assert problems(await look(port, authority)) == ["invalid_issuer"]


async def test_a_chain_longer_than_its_issuer_allows_is_told_as_such(authority: Authority) -> None:
    first = authority.root.issue("First", issues=True, path_length=0)
    second = first.issue("Second", issues=True)
    async with serving(authority.serve(second.issue(HOST, names=(HOST,)), second, first)) as port:
        assert problems(await look(port, authority)) == ["invalid_issuer"]


async def test_a_chain_of_another_issuer_of_the_same_name_has_a_bad_signature(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    async with serving(other.server()) as port:
        assert problems(await look(port, authority)) == ["bad_signature"]


async def test_an_unknown_critical_extension_is_malformed_not_untrusted(authority: Authority) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    async with serving(authority.server(extensions=((unknown, True),))) as port:
        assert problems(await look(port, authority)) == ["malformed"]


@pytest.mark.parametrize("code", range(1, 100))
def test_every_code_of_openssl_has_a_class_with_a_remedy(code: int) -> None:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code = code
    problem = tls_verify.problem_of(error, (), 0)
    assert tls_verify.REMEDIES[problem]
    assert problem is not Problem.HANDSHAKE


async def test_a_common_name_alone_names_no_host(authority: Authority) -> None:
    async with serving(authority.serve(authority.root.issue(HOST))) as port:
        collected = await look(port, authority)
    assert problems(collected) == ["host_mismatch"]
    assert points(collected)["tls.certificate.host_match"] == 0


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("shop.example", "SHOP.example.", True),
        ("*.shops.example", "one.shops.example", True),
        ("*.shops.example", "a.one.shops.example", False),
        ("*.shops.example", "shops.example", False),
        ("xn--bcher-kva.example", "bücher.example", True),
        ("xn--bcher-kva.example", "BÜCHER.example.", True),
        ("a_b.example", "a_b.example", True),
    ],
)
@pytest.mark.parametrize("is_expired", [False, True])
async def test_openssl_alone_says_whether_the_name_fits(
    authority: Authority, pattern: str, name: str, expected: bool, is_expired: bool
) -> None:
    async with serving(authority.server((pattern,), to_s=-3600 if is_expired else DAY_S)) as port:
        found = points(await look(port, authority, server_name=name))
    assert found["tls.certificate.host_match"] == expected
    assert found["tls.handshake.success"] == (expected and not is_expired)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "-.\u2028.example"])
def test_a_host_that_is_none_is_named_with_the_rule(host: str) -> None:
    with pytest.raises(ValueError, match=r"resource ingress: server_name .* is no host name"):
        collector(443, server_name=host)


def test_a_url_with_a_password_is_not_repeated() -> None:
    resource = Resource(name="ingress", system="tls")
    with pytest.raises(ValueError, match="must read tls://HOST:PORT") as caught:
        Tls(Target(Cell(name="eu1", tenants=(Tenant(name="acme"),)), resource, "redis://u:hunter2secret@h:1"))
    assert "hunter2secret" not in str(caught.value)
