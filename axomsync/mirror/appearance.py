"""How views show published models, pure: which links a view has, from what is published and where `current` leads.

A `flat` view has one link a name. It leads to `current`, not to a version: the rename that moves `current` moves the view in
the same instant. A `hf` view has a folder a name, like the cache of huggingface_hub: a snapshot for each published version,
and `refs/main`, which names the snapshot of `current`. Source of the layout: huggingface_hub's guide "Understand caching";
its version 2.4.0 was tried, and accepts a snapshot that is a link to a folder.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from axomsync.core.paths import CURRENT

_PART = r"\w(?:[\w.-]*\w)?"
_REPOSITORY = re.compile(rf"(?:{_PART}/)?(?=[^/]{{1,96}}\Z){_PART}", re.ASCII)  # huggingface_hub, `validate_repo_id`


@dataclass(frozen=True)
class Published:
    """What is published of one name: its label, its folder, the model id of each version, and where `current` leads."""

    label: str
    folder: str
    versions: Mapping[str, str]  # model id by name of the version's folder
    current: str | None  # a key of `versions`

    def without(self, version: str | None) -> "Published":
        """The same after the end of one version."""
        rest = {name: model_id for name, model_id in self.versions.items() if name != version}
        return Published(self.label, self.folder, rest, self.current if self.current in rest else None)


@dataclass(frozen=True)
class Repository:
    """A folder of a `hf` view: the target of each snapshot by its hash, and the hash in `refs/main`."""

    snapshots: Mapping[str, str]
    main: str | None


def link_of(name: Published) -> str | None:
    """Target of the name's link in a `flat` view; None when it has none."""
    return None if name.current is None else f"{name.folder}/{CURRENT}"


def repository_of(name: Published) -> Repository:
    """Content of the name's folder in a `hf` view. Without snapshots there is no folder."""
    snapshots = {commit_of(model_id): f"{name.folder}/{version}" for version, model_id in name.versions.items()}
    return Repository(snapshots, None if name.current is None else commit_of(name.versions[name.current]))


def repository_folder(label: str) -> str | None:
    """Name of a label's folder in a `hf` view; None for a label that `huggingface_hub` refuses as the id of a repository."""
    if "--" in label or ".." in label or label.endswith(".git") or _REPOSITORY.fullmatch(label) is None:
        return None
    return f"models--{label.replace('/', '--')}"


def commit_of(model_id: str) -> str:
    """The hash that stands for a version: 40 hexadecimal digits, as a commit has. On every machine it is the same."""
    return hashlib.sha256(f"axom model {model_id}".encode("utf-8", "surrogatepass")).hexdigest()[:40]
