"""The status page, the metrics and the middleware of a process that goes by etcd."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry
from werkzeug.test import Client

from sa_readonly.metrics import ReadOnlyCollector
from sa_readonly.workers import process
from sa_readonly.wsgi import ReadOnlyMiddleware
from tests.etcd_fleet import Fleet, Worker, bare, fleet

__all__ = ["bare", "fleet"]  # fixtures


def page(worker: Worker) -> tuple[Client, Any]:
    """A client of a process, and its status page."""

    def application(_environ: Any, start_response: Any) -> Any:
        worker.write()
        start_response("200 OK", [])
        return [b"written"]

    app = ReadOnlyMiddleware(application, worker.selector, details=lambda _environ: True)
    client = Client(app)
    return client, json.loads(
        client.get("/-/read-only", headers=[("Accept", "application/json")]).data
    )


def test_each_process_tells_of_the_workers_of_all_hosts(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setattr(process, "host", lambda: "another")
        fleet.worker().write()
    fleet.worker().write()
    hosts = ["another", process.host()]
    fleet.on()
    for worker in fleet.workers:
        worker.look()
    for worker in fleet.workers:
        client, told = page(worker)
        assert [one["host"] for one in told["workers"]] == hosts
        assert (told["mode"], told["reason"]) == ("read-only", "upgrade")
        assert (told["sums"]["workers"], told["sums"]["drained"]) == (2, 2)
        assert (told["registered"], told["generation"]) == (True, fleet.read().generation)
        answer = client.post("/save")
        assert (answer.status_code, b"upgrade" in answer.data) == (503, True)
    registry = CollectorRegistry()
    registry.register(ReadOnlyCollector(fleet.workers[1].selector))
    lines = generate_latest(registry).decode()
    # Each host tells Prometheus of its own processes, so that a sum counts each once.
    assert f'sa_readonly_workers{{switch="{fleet.store.key}"}} 1.0' in lines
    assert f'sa_readonly_read_only{{switch="{fleet.store.key}"}} 1.0' in lines
