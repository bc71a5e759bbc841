"""A real OTLP receiver for the tests: gRPC by opentelemetry-proto's own servicers, and HTTP by aiohttp.

It keeps what it acknowledged, and answers as a test tells it to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from aiohttp import web
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

REQUESTS = {
    "/v1/metrics": (metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse),
    "/v1/logs": (logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse),
    "/v1/traces": (traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
}


@dataclass(frozen=True)
class Answer:
    """How the receiver answers a request: a gRPC code or HTTP status, and when it wants to be asked again."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    status: int = 200
    retry_after_s: int | None = None
    rejected: int = 0


UNAVAILABLE = Answer(grpc.StatusCode.UNAVAILABLE, 503)
INVALID = Answer(grpc.StatusCode.INVALID_ARGUMENT, 400)
UNAUTHENTICATED = Answer(grpc.StatusCode.UNAUTHENTICATED, 401)


@dataclass
class Received:
    """What was acknowledged, and everything that was asked."""

    requests: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: int = 0
    answers: deque[Answer] = field(default_factory=deque)
    """Answers to the next requests, in order; when there is none, `judge` answers."""
    judge: Callable[[Any], Answer] = lambda request: Answer()

    def answer(self, request: Any, headers: dict[str, str]) -> Answer:
        self.asked += 1
        answer = self.answers.popleft() if self.answers else self.judge(request)
        if answer.code is grpc.StatusCode.OK:
            self.requests.append(request)
            self.headers.append(headers)
        return answer

    def points(self) -> list[tuple[str, dict[str, str], Any]]:
        """Name, attributes with those of the Resource, and the point, of every point acknowledged."""
        return [
            (metric.name, _attributes(group.resource, point), point)
            for request in self.requests
            if isinstance(request, metrics.ExportMetricsServiceRequest)
            for group in request.resource_metrics
            for scope in group.scope_metrics
            for metric in scope.metrics
            for point in (*metric.gauge.data_points, *metric.sum.data_points)
        ]

    def log_records(self) -> list[tuple[dict[str, str], Any]]:
        """Attributes with those of the Resource, and the record, of every log record acknowledged."""
        return [
            (_attributes(group.resource, record), record)
            for request in self.requests
            if isinstance(request, logs.ExportLogsServiceRequest)
            for group in request.resource_logs
            for scope in group.scope_logs
            for record in scope.log_records
        ]

    def spans(self) -> list[tuple[dict[str, str], Any]]:
        """The same of spans."""
        return [
            (_attributes(group.resource, span), span)
            for request in self.requests
            if isinstance(request, traces.ExportTraceServiceRequest)
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]


def _attributes(*owners: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for owner in owners for one in owner.attributes}


class GrpcReceiver(AbstractAsyncContextManager["GrpcReceiver"]):
    """An OTLP/gRPC receiver on loopback. `stop` and `start` keep its port."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.received = Received()
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"grpc://{self.host}:{self.port}"

    async def start(self) -> None:
        self._server = grpc.aio.server()
        metrics_grpc.add_MetricsServiceServicer_to_server(self._servicer(metrics, "Metrics"), self._server)
        logs_grpc.add_LogsServiceServicer_to_server(self._servicer(logs, "Logs"), self._server)
        traces_grpc.add_TraceServiceServicer_to_server(self._servicer(traces, "Trace"), self._server)
        self.port = self._server.add_insecure_port(f"{self.host}:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _servicer(self, module: Any, name: str) -> Any:
        received, response = self.received, getattr(module, f"Export{name}ServiceResponse")

        class Servicer:
            async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 (the service's own name)
                headers = dict(context.invocation_metadata())
                answer = received.answer(request, headers)
                if answer.code is not grpc.StatusCode.OK:
                    context.set_trailing_metadata(_retry_info(answer))
                    await context.abort(answer.code, "as the test wants it")
                return _partly(response(), answer)

        return Servicer()


def _retry_info(answer: Answer) -> tuple[tuple[str, bytes], ...]:
    if answer.retry_after_s is None:
        return ()
    detail = AnyMessage()
    detail.Pack(RetryInfo(retry_delay=Duration(seconds=answer.retry_after_s)))
    status = Status(code=answer.code.value[0], message="as the test wants it", details=[detail])
    return (("grpc-status-details-bin", status.SerializeToString()),)


class HttpReceiver(AbstractAsyncContextManager["HttpReceiver"]):
    """An OTLP/HTTP receiver on loopback. `stop` and `start` keep its port."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.received = Received()
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        application = web.Application(client_max_size=2**24)
        application.router.add_post("/v1/{kind}", self._export)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host.strip("[]"), self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _export(self, http: web.Request) -> web.Response:
        model, response = REQUESTS[http.path]
        body = await http.read()  # aiohttp has undone the gzip
        answer = self.received.answer(model.FromString(body), dict(http.headers))
        more = {} if answer.retry_after_s is None else {"Retry-After": str(answer.retry_after_s)}
        body = _partly(response(), answer).SerializeToString() if answer.status == 200 else b""
        return web.Response(status=answer.status, body=body, headers=more, content_type="application/x-protobuf")


def _partly(response: Any, answer: Answer) -> Any:
    if answer.rejected:
        (counter,) = (
            name for name in response.partial_success.DESCRIPTOR.fields_by_name if name.startswith("rejected")
        )
        setattr(response.partial_success, counter, answer.rejected)
        response.partial_success.error_message = "as the test wants it"
    return response
