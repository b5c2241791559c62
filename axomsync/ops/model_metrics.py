"""What the metrics tell about single models, so that boxes can be compared: which are published, where `current` leads.

Names and versions come from the console and become label values; so their number is limited. Failures handled: names with
control characters (escaped), a time that is none (left out), a `current` that leads nowhere.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from axomsync.core.records import Published
from axomsync.core.text import printable
from axomsync.mirror.layout import age

SERIES_MOST = 200

Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True)
class ModelSamples:
    """Samples of `axomsync_model_info` and of `axomsync_current_version_timestamp_seconds`."""

    info: Sequence[Sample]
    current_made: Sequence[Sample]


def model_samples(published: Sequence[Published], led: Callable[[Collection[str]], Collection[str]]) -> ModelSamples:
    """The samples of the newest models; `led` chooses the paths that `current` leads to."""
    newest = sorted(published, key=lambda model: age(model.created_at, model.id), reverse=True)[:SERIES_MOST]
    shown = led([model.path for model in newest])
    info: list[Sample] = []
    made: dict[str, float] = {}
    for model in newest:
        name, current = printable(model.name), model.path in shown
        labels = {
            "name": name,
            "version": printable(model.version),
            "id": printable(model.id),
            "digest": model.digest or "",
            "current": str(current).lower(),
        }
        info.append((labels, 1))
        made_at, _ = age(model.created_at, model.id)
        if current and made_at:
            made.setdefault(name, made_at)
    return ModelSamples(info, [({"name": name}, seconds) for name, seconds in made.items()])
