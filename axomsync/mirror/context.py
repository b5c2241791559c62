"""The context shared by the workers of one mirror folder."""

from dataclasses import dataclass

from axomsync.config import MirrorSettings
from axomsync.mirror.fetch.lanes import Lanes
from axomsync.mirror.publish.folder import MirrorFolder
from axomsync.runtime.worker import WorkerContext


@dataclass(frozen=True, kw_only=True)
class MirrorContext(WorkerContext):
    """The worker context with the mirror's own parts. `patience` is for a `Job`, in seconds."""

    settings: MirrorSettings
    mirror_folder: MirrorFolder
    lanes: Lanes
    patience: float
