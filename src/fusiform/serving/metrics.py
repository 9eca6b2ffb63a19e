"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

import os
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper ends of the histograms' steps."""
SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the folder in which several processes count together."""


class Metrics:
    """The counters of a process, or its part of those that several processes share; an ``Observer`` of the pool."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        here = self._registry
        self._requests = Counter(
            "fusiform_requests", "Requests that were answered, by status", ["endpoint", "code"], registry=here
        )
        self._seconds = Histogram(
            "fusiform_request_seconds", "Seconds from a request's headers to its answer", registry=here, buckets=SECONDS
        )
        self._stages = Histogram(
            "fusiform_stage_seconds",
            "Seconds of an image in the queue, in decoding and in the network",
            ["stage"],
            registry=here,
            buckets=SECONDS,
        )
        self._queue = self._stages.labels("queue")
        self._decode = self._stages.labels("decode")
        self._network = self._stages.labels("network")
        self._images = Counter("fusiform_images", "Images that went through a model", ["model"], registry=here)
        self._waiting = Gauge("fusiform_queue_images", "Images that wait", registry=here, multiprocess_mode="livesum")
        self._in_flight = Gauge(
            "fusiform_requests_in_flight",
            "Requests that are not answered yet",
            registry=here,
            multiprocess_mode="livesum",
        )
        self._shed = Counter("fusiform_shed_images", "Images refused because the queue was too long", registry=here)
        self._dropped = Counter(
            "fusiform_dropped_images", "Images that were not answered because the client had left", registry=here
        )
        self._loads = Counter(
            "fusiform_model_loads", "Models that were opened again", ["model", "result"], registry=here
        )

    def waiting(self, change: int) -> None:
        """See ``Observer``."""
        self._waiting.inc(change)

    def answered(self, model: str, waited: Sequence[float], decode: float, network: float) -> None:
        """See ``Observer``."""
        count = len(waited)
        self._images.labels(model).inc(count)
        for seconds in waited:
            self._queue.observe(seconds)
            self._decode.observe(decode / count)
            self._network.observe(network / count)

    def shed(self, count: int) -> None:
        """See ``Observer``."""
        self._shed.inc(count)

    def dropped(self, count: int) -> None:
        """See ``Observer``."""
        self._dropped.inc(count)

    def began(self) -> None:
        """A request has come."""
        self._in_flight.inc()

    def ended(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered, or its client left."""
        self._in_flight.dec()
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.observe(seconds)

    def refused(self, endpoint: str) -> None:
        """A request was refused as soon as its headers were there."""
        self._requests.labels(endpoint, "429").inc()
        self._seconds.observe(0)

    def loaded(self, model: str, *, well: bool) -> None:
        """A model was opened again, or could not be."""
        self._loads.labels(model, "ok" if well else "failed").inc()

    def text(self) -> bytes:
        """All of it, of all processes."""
        if SHARED not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
