"""How an OTLP request travels: gRPC, or protobuf over HTTP. What comes back is one of three things.

It was taken (perhaps not all of it: `partial_success`), it can never be taken (`Refused`), or the receiver does not take
anything now (`Away`), which a wrong password or path is too: it is no fault of the data. Redirects are not followed.
Source: OTLP specification 1.x, "OTLP/gRPC Response", "OTLP/HTTP Response", "Failures" and "Throttling".
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp
import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from sinks.backoff import retry_after_s

MAX_RESPONSE_BYTES = 64 * 1024
MISCONFIGURED_RETRY_S = 30.0
GRPC_OPTIONS = [
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 10_000),
]


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
            return Taken(0, "")
        return Taken(getattr(partial, self.value[3]), partial.error_message)


class Taken(NamedTuple):
    """A request was taken, save `rejected` of its points, log records or spans, for the reason in `message`."""

    rejected: int
    message: str


class Refused(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """The receiver will never take these bytes."""


class Away(Exception):  # noqa: N818 (it reads as a state, not as a mistake)
    """The receiver takes nothing now. `retry_after_s` is when it wants to be asked again; None where it did not say."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


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


def place(endpoint: str) -> Place:
    """Read `grpc(s)://host[:4317]` or `http(s)://host[:4318][/path]`. Raises ValueError."""
    url = urlsplit(endpoint)
    if url.username or url.password:
        raise ValueError(f"the OTLP endpoint of {url.hostname} holds a password; it belongs into the headers")
    match url.scheme:
        case "grpc" | "grpcs":
            return Place(f"{url.hostname}:{url.port or 4317}", True, url.scheme == "grpcs")
        case "http" | "https":
            base = f"{url.scheme}://{url.netloc}{'' if url.port else ':4318'}{url.path.rstrip('/')}"
            return Place(base, False, url.scheme == "https")
    raise ValueError(f"OTLP endpoint {endpoint!r} must begin with grpc://, grpcs://, http:// or https://")


def connect(endpoint: str, headers: Mapping[str, str], timeout_s: float, compress: bool) -> Transport:
    """The transport of an endpoint. Call it in a running loop. Raises ValueError."""
    to = place(endpoint)
    if to.is_grpc:
        return Grpc(to.address, to.is_secure, headers, timeout_s, compress)
    return Http(to.address, headers, timeout_s, compress)


# HTTP

RETRYABLE_STATUSES = {429, 502, 503, 504}
MISCONFIGURED_STATUSES = {301, 302, 303, 307, 308, 401, 403, 404, 405}


class Http:
    """Protobuf over HTTP/1.1."""

    def __init__(self, base: str, headers: Mapping[str, str], timeout_s: float, compress: bool) -> None:
        self._base, self._compress = base, compress
        encoding = {"Content-Encoding": "gzip"} if compress else {}
        self._session = aiohttp.ClientSession(
            headers={**headers, "Content-Type": "application/x-protobuf", **encoding},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        )

    async def export(self, kind: Kind, body: bytes) -> Taken:
        """Send one request. Raises Refused or Away."""
        url = f"{self._base}/{kind.path}"
        # In a thread: 2 MB take some 20 ms, in which the loop owes Kafka its heartbeats.
        data = await asyncio.to_thread(gzip.compress, body, 1) if self._compress else body
        try:
            async with self._session.post(url, data=data, allow_redirects=False) as response:
                answer = await _start_of(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Away(f"{url}: {str(error) or type(error).__name__}") from error
        if 200 <= response.status < 300:
            return kind.taken(answer)
        raise _http_failure(url, response.status, response.headers, answer)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._session.close()


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    answer = b""
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > MAX_RESPONSE_BYTES:
            break
    return answer[:MAX_RESPONSE_BYTES]


def _http_failure(url: str, status: int, headers: Mapping[str, str], answer: bytes) -> Refused | Away:
    reason = f"{url}: HTTP {status} {_message_of(answer)}".rstrip()
    if status in RETRYABLE_STATUSES:
        return Away(reason, retry_after_s(headers))
    if status in MISCONFIGURED_STATUSES:
        mend = "check the endpoint, its path and the headers that authenticate"
        return Away(f"{reason}; {mend}", MISCONFIGURED_RETRY_S)
    return Refused(reason)


def _message_of(answer: bytes) -> str:
    try:
        return str(Status.FromString(answer).message)[:500]
    except DecodeError:
        return answer[:500].decode(errors="replace")


# gRPC

RETRYABLE_CODES = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
MISCONFIGURED_CODES = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}


class Grpc:
    """gRPC. Bodies are serialized already and travel as they are."""

    def __init__(self, target: str, secure: bool, headers: Mapping[str, str], timeout_s: float, compress: bool) -> None:
        self._target, self._timeout_s = target, timeout_s
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
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
            raise self._failure(error) from error
        return kind.taken(answer)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()

    def _failure(self, error: Any) -> Refused | Away:
        code, reason = error.code(), f"{self._target}: {error.code().name} {error.details() or ''}".rstrip()
        wanted_s = _retry_info_s(error.trailing_metadata() or ())
        if code in RETRYABLE_CODES or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and wanted_s is not None):
            return Away(reason, wanted_s)
        if code in MISCONFIGURED_CODES:
            mend = "check the endpoint and the headers that authenticate"
            return Away(f"{reason}; {mend}", MISCONFIGURED_RETRY_S)
        return Refused(reason)


def _retry_info_s(trailers: Any) -> float | None:
    """The delay that a google.rpc.RetryInfo among the status's details asks for."""
    info = RetryInfo()
    for detail in _details(trailers):
        if detail.Unpack(info):
            return float(info.retry_delay.ToTimedelta().total_seconds())
    return None


def _details(trailers: Any) -> list[Any]:
    try:
        encoded = next((value for name, value in trailers if name == "grpc-status-details-bin"), b"")
        return list(Status.FromString(encoded).details)
    except DecodeError:
        return []
