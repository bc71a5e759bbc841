"""Looks at the certificate of a TLS endpoint by a handshake, as a client would see it.

The first handshake verifies everything, and OpenSSL alone judges: what it accepts is good, also of names. When it refuses, a second
handshake without verification reads what is served, and a third one that trusts the server's own certificate asks of the name
alone, for OpenSSL tells only the first fault that it meets. Nothing is sent over any of these connections.
Source: RFC 6125 and RFC 9525 (names; the common name does not count), RFC 5280 (validity), RFC 6066 (no trailing dot in SNI).
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from time import perf_counter

from pydantic import Field

from ingest.addresses import address, ascii_name
from ingest.collector import Collected, CollectorKind, Fault, Options, Target, Unavailable
from ingest.collectors.tls_verify import (
    HOST_CODES,
    NO_CHECK_TIME,
    REMEDIES,
    Certificate,
    Problem,
    chain_of,
    problem_of,
    shown,
)
from schemas.records import Scalar
from schemas.series import identity

HTTPS_PORT = 443


class TlsOptions(Options):
    """What may be set for one endpoint."""

    server_name: str | None = Field(None, description="Name to ask for and to verify; the url's host when left out.")
    ca_file: str | None = Field(None, description="PEM file of issuers to trust instead of the system's.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect and which name to ask for."""

    host: str
    port: int
    name: str


@dataclass(frozen=True, slots=True)
class Handshake:
    """What one handshake gave: its duration with the TCP connect, s, the chain, or why it failed."""

    duration_s: float
    chain: tuple[Certificate, ...] = ()
    error: ssl.SSLError | None = None


class Tls:
    """Every look is for itself."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._options = target.options(TlsOptions)
        self._place = _place(target.url, self._options.server_name, target.resource.name)
        self._strict = self._context()
        self._lenient = _unverified()

    async def collect(self, now_ms: int, position: str | None) -> Collected:
        """One handshake, two more only when the first fails."""
        first = await self._handshake(self._strict)
        if first.error is None:
            points = self._points(first, first.chain, True, now_ms)
            return Collected([self._target.scrape(points, now_ms)])
        served = (await self._handshake(self._lenient)).chain
        names_host = await self._names_host(first.error, served)
        problem = problem_of(first.error, served, now_ms)
        faults = {self._place.name: _fault(problem, first.error, served[0] if served else None)}
        points = self._points(first, served, names_host, now_ms)
        return Collected([self._target.scrape(points, now_ms)], faults=faults)

    async def close(self) -> None:
        """Every look has its own connections."""

    def _points(
        self, first: Handshake, chain: tuple[Certificate, ...], names_host: bool | None, now_ms: int
    ) -> dict[str, float | None]:
        tenant = self._target.resource.tenant
        issuers = [left for one in chain[1:] if (left := one.remaining_s(now_ms)) is not None]
        values = {
            "tls.handshake.success": float(first.error is None),
            "tls.handshake.duration": first.duration_s if first.error is None else None,
            "tls.certificate.validity.remaining": chain[0].remaining_s(now_ms) if chain else None,
            "tls.certificate.issuer.validity.remaining": min(issuers, default=None),
            "tls.certificate.host_match": None if names_host is None else float(names_host),
        }
        return {identity(metric, {"tenant.id": tenant} if tenant else None): value for metric, value in values.items()}

    async def _names_host(self, error: ssl.SSLError, served: tuple[Certificate, ...]) -> bool | None:
        """Whether the server's own certificate names the host, by OpenSSL's rule; None where OpenSSL cannot say."""
        if getattr(error, "verify_code", None) in HOST_CODES:
            return False
        if not served or not isinstance(error, ssl.SSLCertVerificationError):
            return None
        try:
            about_the_name = await self._handshake(_trusting(served[0]))
        except ssl.SSLError:
            return None  # OpenSSL does not take the certificate as one to trust
        if about_the_name.error is None:
            return True
        return False if getattr(about_the_name.error, "verify_code", None) in HOST_CODES else None

    async def _handshake(self, context: ssl.SSLContext) -> Handshake:
        started = perf_counter()
        try:
            # A connection that is closed before the handshake is done is an OSError here, and a fault of TLS there.
            _, writer = await asyncio.open_connection(self._place.host, self._place.port)
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            await writer.start_tls(context, server_hostname=self._place.name)
            duration_s = perf_counter() - started
            is_verified = context.verify_mode is ssl.CERT_REQUIRED
            return Handshake(duration_s, chain_of(writer.get_extra_info("ssl_object"), verified=is_verified))
        except ssl.SSLError as error:
            return Handshake(perf_counter() - started, error=error)
        except ConnectionError as error:
            return Handshake(perf_counter() - started, error=ssl.SSLError(str(error) or "the server hung up"))
        finally:
            writer.transport.abort()

    def _unavailable(self, error: OSError) -> Unavailable:
        place = f"{self._place.host}:{self._place.port}"
        return Unavailable(
            self._target.resource.name,
            f"{place}: {error}",
            "Check that the server listens and that its address can be reached from here",
        )

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._options.ca_file)
        except OSError as error:
            raise ValueError(
                f"resource {self._target.resource.name}: options: ca_file {self._options.ca_file}: {error}; "
                "it must be a PEM file of certificates"
            ) from error
        context.hostname_checks_common_name = False
        return context


def _unverified() -> ssl.SSLContext:
    """A context that takes any certificate, to read it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def _trusting(certificate: Certificate) -> ssl.SSLContext:
    """A context for which this certificate is good as it is, whoever issued it and whenever: its name alone is judged."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(certificate.der))
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags |= NO_CHECK_TIME
    return context


def _fault(problem: Problem, error: ssl.SSLError, leaf: Certificate | None) -> Fault:
    attributes: dict[str, Scalar] = {"tls.problem": problem.value}
    if leaf is None:
        return _told(f"{problem}: {_reason(error)}", problem, attributes)
    known = {
        "tls.server.subject": leaf.subject,
        "tls.server.issuer": leaf.issuer,
        "tls.server.not_after": leaf.ends.isoformat() if leaf.ends else None,
        "tls.server.serial_number": leaf.serial,
    }
    attributes |= {name: value for name, value in known.items() if value is not None}
    valid = f"valid from {shown(leaf.begins)} to {shown(leaf.ends)}"
    return _told(f"{problem}: {_reason(error)}; {valid}", problem, attributes)


def _told(reason: str, problem: Problem, attributes: dict[str, Scalar]) -> Fault:
    return Fault(
        reason,
        REMEDIES[problem],
        attributes,
        begins="tls.certificate.problem",
        ends="tls.certificate.restored",
    )


def _reason(error: ssl.SSLError) -> str:
    told = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
    return str(told).lower().replace("_", " ")


def _place(url: str, server_name: str | None, resource: str) -> Place:
    whose = f"resource {resource}"
    one = address(url, whose, "tls://HOST:PORT", ("tls", "https"))
    name = ascii_name(server_name, f"{whose}: server_name") if server_name else one.host
    return Place(one.host, one.port or HTTPS_PORT, name)


KIND = CollectorKind("tls", Tls, TlsOptions, schemes=("tls", "https"))
