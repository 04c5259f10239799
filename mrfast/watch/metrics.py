"""/metrics: a Tally as Prometheus reads it. Imported in the page's process only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from .tally import STATES, Tally

Numbers = Mapping[Any, float]  # by the labels' values, a tuple


class Metrics:
    """The metrics of one job, from a registry of their own; all names begin with mrfast_."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.viewers = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the format that is asked for, and its content type."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not look before it is asked."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Every metric as of now."""
        tally, status = self._tally, self._tally.status | self._tally.end
        job = tally.job
        if job:
            labels = {name: str(job.get(name) or "") for name in ("job", "name", "mrfast", "output_url")}
            labels["app"] = str(tally.planned.get("app") or job.get("app") or "")
            yield InfoMetricFamily("mrfast_job", "The job.", labels)
        state = tally.state
        yield _gauge("job_state", "1 for the state in which the job is.", ["state"],
                     {(each,): float(each == state) for each in STATES})  # fmt: skip
        yield _gauge("job_seconds", "Since the job's first event, as of its last one.", [], {(): tally.at_s})
        tasks = {(kind, word): n for kind, words in tally.tasks().items() for word, n in words.items()}
        yield _gauge("tasks", "Tasks by kind and state.", ["kind", "state"], tasks)
        yield _gauge("attempts_running", "Attempts that run.", ["kind"],
                     {(kind,): tally.running()[kind] for kind in ("map", "reduce")})  # fmt: skip
        yield _counter("attempts_started", "Attempts handed out.", ["kind", "backup"], tally.started)
        yield _counter("attempts_ended", "Attempts that ended, by how.", ["kind", "outcome"], tally.outcomes)
        yield _counter("input_bytes", "Read by accepted map attempts.", [], {(): tally.read["bytes"]})
        yield _counter("input_records", "Read by accepted map attempts.", [], {(): tally.read["records"]})
        yield _counter("written_bytes", "Written by accepted attempts.", ["kind"],
                       {(kind,): n for kind, n in tally.written.items()})  # fmt: skip
        by_verb = _mapping(_mapping(status.get("requests")).get("by_verb"))
        yield _counter("requests", "Requests to object stores.", ["verb"], {(verb,): n for verb, n in by_verb.items()})
        yield _counter("cost_dollars", "What they cost.", [], {(): status.get("cost_usd") or 0.0})
        yield _gauge("workers", "Workers that are there.", [], {(): 0 if tally.end else status.get("workers", 0)})
        yield _gauge("app_count", "What the app counts by mrfast.count(), of accepted tasks.", ["name"],
                     {(name,): n for name, n in _mapping(status.get("counters")).items()})  # fmt: skip
        yield _counter("events", "Events of the job so far.", [], {(): tally.events})
        yield _gauge("page_viewers", "Who looks at the live page.", [], {(): self.viewers})


def _gauge(name: str, what: str, labels: list[str], values: Numbers) -> Metric:
    return _filled(GaugeMetricFamily(f"mrfast_{name}", what, labels=labels), values)


def _counter(name: str, what: str, labels: list[str], values: Numbers) -> Metric:
    return _filled(CounterMetricFamily(f"mrfast_{name}", what, labels=labels), values)


def _filled(metric: Any, values: Numbers) -> Metric:
    for labels, value in values.items():
        metric.add_metric(labels, float(value))
    family: Metric = metric
    return family


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
