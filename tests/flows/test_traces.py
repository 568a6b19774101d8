"""The spans that a run sends to a collector of traces, through the exporter beside it."""

import gzip
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests import steps
from tests.conftest import ROOT

INSTRUMENT = Path(sys.executable).with_name("opentelemetry-instrument")


@pytest.fixture
def collector():
    """A collector that keeps the spans it receives over HTTP: its address, and (scope, span) of each."""
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            whole = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
            for resource in ExportTraceServiceRequest.FromString(whole).resource_spans:
                spans.extend(
                    (scope.scope.name, span) for scope in resource.scope_spans for span in scope.spans
                )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", spans
    server.shutdown()


@pytest.mark.slow
def test_a_run_and_its_tasks_come_to_the_collector_as_one_trace(without_run_logger, store, collector):
    if not INSTRUMENT.exists():
        pytest.fail("no exporter") if os.environ.get("CI") else pytest.skip("no exporter; run: make install")
    steps.put(store, shards=2)
    steps.train(store)
    url, spans = collector
    process = subprocess.run(
        [
            INSTRUMENT,
            sys.executable,
            "-m",
            "tests.toy",
            "toy",
            "score",
            "--store",
            store.uri,
            "--workers",
            "1",
        ],
        cwd=ROOT,
        env=os.environ
        | {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        | {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    assert {scope for scope, _ in spans} == {"prefect"}, "its own server is quiet"
    (flow,) = [span for _, span in spans if ("prefect.run.type", "flow") in texts(span)]
    tasks = {span.name.rpartition("-")[0]: span for _, span in spans if span is not flow}
    for name in ("resolve-scoring", "begin", "plan-shards", "reconcile", "publish"):
        assert (tasks[name].trace_id, tasks[name].parent_span_id) == (flow.trace_id, flow.span_id)
    assert [name for name in tasks if name.startswith("score-shards")]
    assert all("prefect.run.id" in dict(texts(span)) for _, span in spans)


def texts(span):
    return [(one.key, one.value.string_value) for one in span.attributes]
