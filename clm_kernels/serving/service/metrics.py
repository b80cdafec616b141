"""`Metrics`: what the service counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """A registry of its own, so that several services in a process do not mix.

    Args:
        waiting: gives the number of texts in the queue.
        tasks: gives the number of tasks that are served.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, waiting: Callable[[], int], tasks: Callable[[], int]):
        self._all = own = CollectorRegistry()
        self.requests = Counter("clm_requests", "Answers, by path and status.", ("path", "status"), registry=own)
        self.texts = Counter("clm_texts", "Texts that were classified, by task.", ("task",), registry=own)
        self.seconds = Histogram("clm_request_seconds", "From a request to its answer.", buckets=SECONDS, registry=own)
        self.batches = Histogram("clm_batch_texts", "Texts of a batch.", buckets=SIZES, registry=own)
        for name, what, number in (("waiting", "Texts that wait.", waiting), ("tasks", "Tasks that are served.", tasks)):
            Gauge(f"clm_{name}", what, registry=own).set_function(number)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._all)
