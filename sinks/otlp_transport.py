"""How an OTLP request travels: gRPC, or protobuf over HTTP. What comes back is one of four things.

It was taken (perhaps not all of it: `partial_success`). The receiver takes nothing now (`Away`), also because the endpoint is set up
wrong, a password, a path or a protocol, which is no fault of the data (`Misconfigured`). It fails at it (`Failed`). Or it refuses
these bytes (`Refused`, `TooLarge`); whether that is the data's fault is for whoever sends to find out.

A status of 2xx, or OK, says that the request was taken, whatever can be read of the answer: sending it again would double it.
Redirects are not followed, proxies of the environment are not used, cookies are not kept, certificates are verified, of an
answer 64 KiB are read. The endpoint may be any address: unlike a webhook's it is the operator's own setting, and a
collector next door is the usual case.
Source: OTLP specification 1.x, "OTLP/gRPC Response", "OTLP/HTTP Response", "Failures" and "Throttling". It would drop what draws a
500; here it waits, because a receiver whose disk is full answers so, too.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

import aiohttp
import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from schemas import endpoints
from schemas.masking import masked
from sinks.backoff import retry_after_s

MAX_RESPONSE_BYTES = 64 * 1024
MESSAGE_LETTERS_MAX = 500
MISCONFIGURED_RETRY_S = 30.0
HEADERS_MAX, HEADER_BYTES_MAX = 64, 8 * 1024
"""Of the headers that the operator sets: how many, and of one the bytes. Servers refuse more."""
GRPC_OPTIONS = [
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 10_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
]
SCHEMES = ("grpc", "grpcs", "http", "https")


class Kind(Enum):
    """What a request carries: its HTTP path, its gRPC service, its response, the field that counts the rejected."""

    METRICS = ("v1/metrics", "metrics.v1.MetricsService", ExportMetricsServiceResponse, "rejected_data_points")
    LOGS = ("v1/logs", "logs.v1.LogsService", ExportLogsServiceResponse, "rejected_log_records")
    SPANS = ("v1/traces", "trace.v1.TraceService", ExportTraceServiceResponse, "rejected_spans")

    @property
    def path(self) -> str:
        """The end of the URL."""
        return str(self.value[0])

    @property
    def method(self) -> str:
        """The gRPC method."""
        return f"/opentelemetry.proto.collector.{self.value[1]}/Export"

    def taken(self, response: bytes) -> Taken:
        """What a receiver says of a request that it took. An empty answer is full success."""
        try:
            partial = self.value[2].FromString(response).partial_success
        except DecodeError:
            # The status said that it took the request; that it cannot say it in protobuf changes nothing.
            return Taken(0, "", is_read=False)
        return Taken(max(0, getattr(partial, self.value[3])), _fit(partial.error_message))


class Taken(NamedTuple):
    """A request was taken, save `rejected` of its points, log records or spans, for the reason in `message`."""

    rejected: int
    message: str
    is_read: bool = True
    """Whether the answer could be read, which alone says whether something was rejected."""


class Refused(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """The receiver says that these bytes are wrong."""


class TooLarge(Refused):
    """The receiver says that these are too many bytes."""


class Away(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """The receiver takes nothing now. `retry_after_s` is when it wants to be asked again; None where it did not say."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Misconfigured(Away):
    """The endpoint is set up wrong, which a person has to mend; the text says what to look at."""

    def __init__(self, reason: str) -> None:
        mend = "check the endpoint, its path and the headers that authenticate"
        super().__init__(f"{reason}; {mend}", MISCONFIGURED_RETRY_S)


class Failed(Away):
    """The receiver lives and fails, perhaps at these bytes alone."""


class Transport(Protocol):
    """A way to a receiver."""

    async def export(self, kind: Kind, body: bytes) -> Taken:
        """Send one request; it is acknowledged when this returns. Raises Refused or Away."""

    async def close(self) -> None:
        """Let go of the connection."""


class Place(NamedTuple):
    """Where an endpoint is: `host:port` of gRPC, or the url below which HTTP has its paths."""

    address: str
    is_grpc: bool
    is_secure: bool
    name: str
    """HOST:PORT, fit for a message: a path may hold a token."""


def place(endpoint: str) -> Place:
    """Read `grpc(s)://host[:4317]` or `http(s)://host[:4318][/path]`. Raises ValueError, which never shows the endpoint."""
    try:
        found = endpoints.read(endpoint, SCHEMES)
    except ValueError as error:
        raise ValueError(f"the OTLP endpoint is wrong: {error}") from None
    if found.has_credentials:
        raise ValueError(f"the OTLP endpoint of {found.host} holds a password; it belongs into the headers")
    if found.query:
        raise ValueError(
            f"the OTLP endpoint of {found.host} holds a query; what authenticates belongs into the headers"
        )
    path, is_grpc = found.path.rstrip("/"), found.scheme.startswith("grpc")
    if is_grpc and path:
        raise ValueError(
            f"the OTLP endpoint of {found.host} holds a path, which gRPC has not; write http(s):// for HTTP"
        )
    if path.endswith(tuple(f"/{kind.path}" for kind in Kind)):
        raise ValueError(f"the OTLP endpoint of {found.host} ends in the path of one kind; end it before /v1/")
    name = endpoints.authority(found.host, found.port or (4317 if is_grpc else 4318))
    address = name if is_grpc else f"{found.scheme}://{name}{path}"
    return Place(address, is_grpc, found.scheme in ("grpcs", "https"), name)


# RFC 9110, section 5.6.2; names in lower case are what gRPC takes.
_HEADER_NAME = re.compile(r"[0-9a-z_.!#$%&'*+^`|~-]{1,256}")
_OURS = {
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
}


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that can be sent by HTTP and by gRPC, names in lower case. Raises ValueError, which shows no value: it is a secret."""
    if len(headers) > HEADERS_MAX:
        raise ValueError(f"PILOTHOUSE_OTLP_HEADERS has {len(headers)} headers; at most {HEADERS_MAX} are sent")
    for name, value in headers.items():
        if (
            not _HEADER_NAME.fullmatch(name.lower())
            or name.lower().startswith("grpc-")
            or name.lower().endswith("-bin")
        ):
            raise ValueError(f"PILOTHOUSE_OTLP_HEADERS has a header {name[:64]!a}, which is no name that may be set")
        if name.lower() in _OURS:
            raise ValueError(f"PILOTHOUSE_OTLP_HEADERS has the header {name.lower()}, which is ours to set")
        if len(value) > HEADER_BYTES_MAX or not all(" " <= letter <= "~" for letter in value):
            raise ValueError(
                f"PILOTHOUSE_OTLP_HEADERS: the value of {name.lower()} must be at most {HEADER_BYTES_MAX} printable letters of ASCII"
            )
    return {name.lower(): value for name, value in headers.items()}


def connect(endpoint: str, headers: Mapping[str, str], timeout_s: float, compress: bool) -> Transport:
    """The transport of an endpoint. Call it in a running loop. Raises ValueError."""
    to, checked = place(endpoint), checked_headers(headers)
    if to.is_grpc:
        return Grpc(to.address, to.is_secure, checked, timeout_s, compress)
    return Http(to, checked, timeout_s, compress)


def _fit(text: str) -> str:
    """What a peer says, fit for a log: without secrets, line breaks and escapes, and not too long."""
    shown = masked(text[: 2 * MESSAGE_LETTERS_MAX])[:MESSAGE_LETTERS_MAX]
    return "".join(letter if letter.isprintable() else " " for letter in shown).strip()


# HTTP

RETRYABLE_STATUSES = {408, 425, 429, 502, 503, 504}
REFUSED_STATUSES = {400, 422}


class Http:
    """Protobuf over HTTP/1.1."""

    def __init__(self, to: Place, headers: Mapping[str, str], timeout_s: float, compress: bool) -> None:
        self._to, self._compress = to, compress
        encoding = {"Content-Encoding": "gzip"} if compress else {}
        self._session = aiohttp.ClientSession(
            # Answers are small; a compressed one could unfold to anything.
            headers={**headers, "Content-Type": "application/x-protobuf", "Accept-Encoding": "identity", **encoding},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def export(self, kind: Kind, body: bytes) -> Taken:
        """Send one request. Raises Refused or Away."""
        # In a thread: 2 MB take some 20 ms, in which the loop owes Kafka its heartbeats.
        data = await asyncio.to_thread(gzip.compress, body, 1) if self._compress else body
        what = f"{self._to.name} {kind.path}"
        try:
            async with self._session.post(
                f"{self._to.address}/{kind.path}", data=data, allow_redirects=False
            ) as response:
                answer = await _start_of(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise Away(f"{what}: {self._told(error)}") from None
        if 200 <= response.status < 300:
            return Taken(0, "", is_read=False) if answer is None else kind.taken(answer)
        raise _http_failure(what, response.status, response.headers, answer or b"")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._session.close()

    def _told(self, error: Exception) -> str:
        # Without the url, whose path may hold a token.
        text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
        return _fit(text.replace(self._to.address, self._to.name)) or type(error).__name__


async def _start_of(response: aiohttp.ClientResponse) -> bytes | None:
    """The first bytes of the answer's body; None when it cannot be read to its end."""
    answer = b""
    try:
        async for chunk in response.content.iter_any():
            answer += chunk
            if len(answer) > MAX_RESPONSE_BYTES:
                return answer[:MAX_RESPONSE_BYTES] if response.status >= 300 else None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None
    return answer


def _http_failure(what: str, status: int, headers: Mapping[str, str], answer: bytes) -> Refused | Away:
    reason = f"{what}: HTTP {status} {_message_of(answer)}".rstrip()
    if status in RETRYABLE_STATUSES:
        return Away(reason, retry_after_s(headers))
    if status in REFUSED_STATUSES:
        return Refused(reason)
    if status == 413:
        return TooLarge(reason)
    # A redirect, a wrong password, path, method or media type: all that is not about these bytes.
    return Misconfigured(reason) if status < 500 else Failed(reason, retry_after_s(headers))


def _message_of(answer: bytes) -> str:
    try:
        return _fit(Status.FromString(answer).message)
    except DecodeError:
        return _fit(answer[: 4 * MESSAGE_LETTERS_MAX].decode(errors="replace"))


# gRPC

RETRYABLE_CODES = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
FAILED_CODES = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
ANSWER_TOO_LARGE = "CLIENT: Received message larger than max"
"""What gRPC says on our side of an answer beyond our bound. The call was OK."""


class Grpc:
    """gRPC. Bodies are serialized already and travel as they are."""

    def __init__(self, target: str, secure: bool, headers: Mapping[str, str], timeout_s: float, compress: bool) -> None:
        self._target, self._timeout_s = target, timeout_s
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        # With a scheme, because gRPC takes a host called unix or dns for one.
        target = f"dns:///{target}"
        more: dict[str, Any] = {"options": GRPC_OPTIONS, "compression": grpc.Compression.Gzip if compress else None}
        self._channel = (
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), **more)
            if secure
            else grpc.aio.insecure_channel(target, **more)
        )
        self._calls = {kind: self._channel.unary_unary(kind.method) for kind in Kind}

    async def export(self, kind: Kind, body: bytes) -> Taken:
        """Send one request. Raises Refused or Away."""
        try:
            answer: bytes = await self._calls[kind](body, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if ANSWER_TOO_LARGE in (error.details() or ""):
                return Taken(0, "", is_read=False)
            raise self._failure(error) from None
        return kind.taken(answer)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()

    def _failure(self, error: Any) -> Refused | Away:
        code, reason = error.code(), f"{self._target}: {error.code().name} {_fit(error.details() or '')}".rstrip()
        wanted_s = _retry_info_s(error.trailing_metadata() or ())
        if code in RETRYABLE_CODES or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and wanted_s is not None):
            return Away(reason, wanted_s)
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return Refused(reason)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TooLarge(reason)
        return Failed(reason, wanted_s) if code in FAILED_CODES else Misconfigured(reason)


def _retry_info_s(trailers: Any) -> float | None:
    """The delay that a google.rpc.RetryInfo among the status's details asks for; not bounded yet (`Backoff.failed`)."""
    info = RetryInfo()
    try:
        encoded = next((value for name, value in trailers if name == "grpc-status-details-bin"), b"")
        for detail in Status.FromString(encoded).details:
            if detail.Unpack(info):
                return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    except DecodeError:
        return None
    return None
