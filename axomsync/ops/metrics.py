"""The metrics of `/metrics`: read from the ledger and the running parts at each scrape, so nothing costs in between.

Names follow prometheus.io/docs/practices/naming. Labels take words of the contract and nothing else, and every series is
there from the start, at zero. Failures handled: a ledger that can't be read (what comes from it is left out of that
scrape, and `axomsync_ledger_readable` is 0; the agent's own problems are told all the same).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from axomsync import __version__
from axomsync.core.errors import LocalFault
from axomsync.core.records import ModelState, Problem, Published, UploadState
from axomsync.drop.rules import Rule
from axomsync.ops.model_metrics import ModelSamples, Sample, model_samples
from axomsync.runtime.problems import SUBJECTS
from axomsync.runtime.ring import Ring

Status = Mapping[str, Any]


@dataclass(frozen=True, eq=False)  # a registry keeps collectors apart by what they are, not by what they hold
class AgentCollector(Collector):
    """One agent. `status` is the document of `axomsync status`; the others are running parts, asked at each scrape."""

    status: Callable[[], Status]
    hanging: Callable[[], list[str]]
    moved: Callable[[], Mapping[str, int]]  # bytes since the start, by direction
    transitions: Counter[tuple[str, str]]  # since the start, by table and new state
    folders: Callable[[], Mapping[str, int | None]]  # free bytes by the folder's section
    problems: Callable[[], Iterable[Problem]]  # of the agent, from its memory, and of the disks that `folders` asked
    ring: Ring = field(default_factory=Ring)
    published: Callable[[], Sequence[Published]] = list
    led: Callable[[Collection[str]], Collection[str]] = frozenset  # of paths of models, those that `current` leads to
    poll_seconds: float = 0.0  # between two polls; 0 when nothing is mirrored

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics of axomsync itself."""
        yield _gauge("build_info", "The version that runs; always 1.", [({"version": __version__}, 1)])
        yield _gauge("healthy", "1 while the workers make progress or have nothing to do.", [({}, not self.hanging())])
        moved = [({"direction": direction}, count) for direction, count in self.moved().items()]
        yield _counter("transferred_bytes", "Bytes that went over the wire since the start, repeats included.", moved)
        for kind, states in (("upload", UploadState), ("model", ModelState)):
            passed: list[Sample] = [({"state": str(s)}, self.transitions[f"{kind}s", str(s)]) for s in states]
            yield _counter(f"{kind}_transitions", f"Times that {kind}s came into a state since the start.", passed)
        free = [({"folder": folder}, count) for folder, count in self.folders().items() if count is not None]
        yield _gauge(
            "free_bytes", "Bytes that can still be written to the filesystem of a folder in use, while it answers.", free
        )
        begun = {problem.subject for problem in self.problems()}
        yield _gauge("problem", "1 while a part of the agent has a problem; status says which.", [
            ({"subject": subject}, subject in begun) for subject in SUBJECTS
        ])  # fmt: skip
        yield from _of_gateways(self.ring)
        yield _gauge("poll_interval_seconds", "Seconds between two polls of the console; 0 when nothing is mirrored.", [
            ({}, self.poll_seconds)
        ])  # fmt: skip
        try:
            status, published = self.status(), self.published()
        except LocalFault:
            yield _gauge("ledger_readable", "1 while the ledger can be read.", [({}, 0)])
            return
        yield _gauge("ledger_readable", "1 while the ledger can be read.", [({}, 1)])
        yield from _from_status(status)
        yield from _of_models(model_samples(published, self.led))


def registry(collector: AgentCollector) -> CollectorRegistry:
    """Return a registry of the agent, its process, and Python."""
    made = CollectorRegistry()
    made.register(collector)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    return made


def _of_gateways(ring: Ring) -> Iterator[Metric]:
    came = [({"result": result}, count) for result, count in ring.totals().items()]
    yield _counter(
        "gateway_bytes",
        "Bytes of models since the start, with gateways: through the owner of a block, through the next one, from storage; "
        "wrong ones are counted twice.",
        came,
    )
    yield _gauge("gateway_up", "1, or 0 since a request through the gateway failed and until one succeeds.", [
        ({"gateway": state.gateway}, state.up) for state in ring.states()
    ])  # fmt: skip


def _from_status(status: Status) -> Iterator[Metric]:
    agent, console, drop, mirror = (status[part] for part in ("agent", "console", "drop", "mirror"))
    yield _gauge("start_time_seconds", "When the agent started.", [({}, _seconds(agent["since"]))])
    yield _gauge("paused", "1 while somebody has paused the agent.", [({}, agent["paused"])])
    yield _gauge("console_up", "1 when the console answered last time.", [({}, console["ok"] is True)])
    yield _gauge("console_last_poll_timestamp_seconds", "When the console answered a poll last.", [
        ({}, _seconds(console["last_poll"]))
    ])  # fmt: skip
    yield _gauge("last_success_timestamp_seconds", "When storage confirmed an upload, or a model was published, last.", [
        ({"direction": "up"}, _seconds(drop["last_success"])), ({"direction": "down"}, _seconds(mirror["last_success"])),
    ])  # fmt: skip
    yield _gauge("uploads", "Files ever taken from the drop folder, by state.", _by_state(drop["counts"]))
    yield _gauge("models", "Models of the console, by local state.", _by_state(mirror["counts"]))
    alone = {one["rule"]: one["files"] + one.get("folders", 0) for one in drop["left_alone"]}
    yield _gauge("left_alone", "Files and folders of the drop folder that are not taken, by rule.", [
        ({"rule": str(rule)}, alone.get(str(rule), 0)) for rule in Rule
    ])  # fmt: skip
    transfers, left = Counter({"up": 0, "down": 0}), Counter({"up": 0, "down": 0})
    for transfer in status["transfers"]:
        transfers[transfer["direction"]] += 1
        left[transfer["direction"]] += transfer["bytes_total"] - transfer["bytes_done"]
    yield _gauge("transfers", "Transfers in flight.", _by_direction(transfers))
    yield _gauge("remaining_bytes", "Bytes of the transfers in flight that are not durable yet.", _by_direction(left))
    yield _gauge("problems", "Problems that status shows, those of single files and models included.", [
        ({}, len(status["problems"]))
    ])  # fmt: skip


def _of_models(samples: ModelSamples) -> Iterator[Metric]:
    yield _gauge("model_info", "Published models, at most the 200 newest; always 1.", samples.info)
    yield _gauge(
        "current_version_timestamp_seconds",
        "When the console made the version that `current` of a name leads to.",
        samples.current_made,
    )


def _by_state(counts: Mapping[str, int]) -> list[Sample]:
    return [({"state": state}, count) for state, count in counts.items()]


def _by_direction(counts: Mapping[str, int]) -> list[Sample]:
    return [({"direction": direction}, count) for direction, count in counts.items()]


def _gauge(name: str, words: str, samples: Iterable[Sample]) -> Metric:
    return _filled(GaugeMetricFamily(f"axomsync_{name}", words), samples)


def _counter(name: str, words: str, samples: Iterable[Sample]) -> Metric:
    return _filled(CounterMetricFamily(f"axomsync_{name}", words), samples, "_total")


def _filled(family: Metric, samples: Iterable[Sample], suffix: str = "") -> Metric:
    for labels, value in samples:
        family.add_sample(family.name + suffix, dict(labels), float(value))
    return family


def _seconds(time: str | None) -> float:
    return 0.0 if time is None else datetime.fromisoformat(time).timestamp()
