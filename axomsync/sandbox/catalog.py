"""The state of the sandbox's console: keys, models, datasets and uploads, in memory and in one JSON file.

Owns that file. Every change is on disk before it is visible, by writing a new file and renaming it, so a sandbox that is
killed and started again in its folder answers as before. Nothing here does I/O to storage or knows HTTP.

Failures handled: a file that something else has written (`NoCatalog`), an id or version that exists (`Conflict`), an unknown
id (`KeyError`).
"""

import dataclasses
import os
import secrets
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson

from axomsync.sandbox.errors import Conflict, NoCatalog

SCOPES = ("read", "models", "datasets")


@dataclass(frozen=True, slots=True)
class BaseModel:
    id: str
    family: str
    name: str
    version: str
    params: int
    precision: str


@dataclass(frozen=True, slots=True)
class PublishedFile:
    rel: str
    size: int
    key: str


@dataclass(frozen=True, slots=True)
class PublishedModel:
    id: str
    name: str
    version: str
    params: int
    base_model_id: str
    job_id: str
    status: str
    created_at: str
    files: tuple[PublishedFile, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    id: str
    name: str
    version: str
    shard_count: int
    bytes: int
    status: str
    created_at: str


@dataclass(frozen=True, slots=True)
class GrantedUpload:
    upload_id: str
    key: str
    filename: str
    content_type: str
    created_at: str


BASE_MODELS = (
    BaseModel("42c01c10-5f0e-4c1c-9d1a-3f6b0e2a7c11", "falcon", "falcon-h1-1.5b", "bf16", 1_550_000_000, "bf16"),
    BaseModel("9a7d3b52-0c64-4e0b-8f52-b1d6f4a90e27", "minilm", "all-minilm-l6-v2", "fp32", 22_713_216, "fp32"),
)


@dataclass(slots=True)
class _State:
    """The persisted state; lists are oldest first."""

    keys: dict[str, list[str]] = field(default_factory=dict)
    models: list[PublishedModel] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    uploads: list[GrantedUpload] = field(default_factory=list)


class Catalog:
    """Thread-safe. Lists are newest first, as the console's are. Raises `KeyError` for unknown ids."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.RLock()
        self._state = _load(file)

    def full_key(self) -> str:
        """Return a key with every scope: the oldest one there is, else a new one."""
        with self._lock:
            for key, scopes in self._state.keys.items():
                if set(SCOPES) <= set(scopes):
                    return key
            return self.create_key(SCOPES)

    def create_key(self, scopes: Iterable[str]) -> str:
        """Make a key. Raises `ValueError` for a scope that the console does not have."""
        granted = sorted(set(scopes))
        if unknown := set(granted) - set(SCOPES):
            raise ValueError(f"unknown scope: {', '.join(sorted(unknown))}; there are {', '.join(SCOPES)}")
        key = f"axom_live_{secrets.token_urlsafe(24)}"
        with self._change() as state:
            state.keys[key] = granted
        return key

    def revoke_key(self, key: str) -> None:
        with self._change() as state:
            del state.keys[key]

    def scopes(self, key: str) -> frozenset[str] | None:
        """Return the scopes of a key; None for a key that does not exist or exists no more."""
        with self._lock:
            scopes = self._state.keys.get(key)
        return None if scopes is None else frozenset(scopes)

    def models(self) -> list[PublishedModel]:
        with self._lock:
            return self._state.models[::-1]

    def model(self, model_id: str) -> PublishedModel:
        with self._lock:
            for model in self._state.models:
                if model.id == model_id:
                    return model
        raise KeyError(model_id)

    def add_model(
        self,
        name: str,
        version: str,
        files: Iterable[PublishedFile],
        *,
        status: str,
        model_id: str | None,
        params: int,
    ) -> PublishedModel:
        model = PublishedModel(
            id=model_id or str(uuid.uuid4()),
            name=name,
            version=version,
            params=params,
            base_model_id=BASE_MODELS[0].id,
            job_id=str(uuid.uuid4()),
            status=status,
            created_at=_now(),
            files=tuple(files),
        )
        with self._change() as state:
            if any(m.id == model.id for m in state.models):
                raise Conflict(f"there is a model {model.id} already")
            state.models.append(model)
        return model

    def set_model_status(self, model_id: str, status: str) -> None:
        with self._change() as state:
            index = state.models.index(self.model(model_id))
            state.models[index] = dataclasses.replace(state.models[index], status=status)

    def remove_model(self, model_id: str) -> PublishedModel:
        with self._change() as state:
            model = self.model(model_id)
            state.models.remove(model)
        return model

    def datasets(self) -> list[Dataset]:
        with self._lock:
            return self._state.datasets[::-1]

    def add_dataset(self, name: str, version: str, *, shard_count: int, size: int) -> Dataset:
        """Add a dataset. Raises `Conflict` for a name and version that exist: datasets are immutable."""
        dataset = Dataset(str(uuid.uuid4()), name, version, shard_count, size, "ready", _now())
        with self._change() as state:
            if any((d.name, d.version) == (name, version) for d in state.datasets):
                raise Conflict(f"there is a dataset {name}/{version} already")
            state.datasets.append(dataset)
        return dataset

    def uploads(self) -> list[GrantedUpload]:
        with self._lock:
            return self._state.uploads[::-1]

    def add_upload(self, upload: GrantedUpload) -> None:
        with self._change() as state:
            state.uploads.append(upload)

    @contextmanager
    def _change(self) -> Iterator[_State]:
        """Yield a copy to change, which replaces the state once it is on disk."""
        with self._lock:
            old = self._state
            new = _State(dict(old.keys), list(old.models), list(old.datasets), list(old.uploads))
            yield new
            _save(self._file, new)
            self._state = new


def new_upload(filename: str, content_type: str) -> GrantedUpload:
    """Return an upload with the key that the console documents: `tmp/<upload_id>/<filename>`."""
    upload_id = str(uuid.uuid4())
    return GrantedUpload(upload_id, f"tmp/{upload_id}/{filename}", filename, content_type, _now())


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _load(file: Path) -> _State:
    if not file.exists():
        return _State()
    try:
        saved = orjson.loads(file.read_bytes())
        models = [PublishedModel(**{**m, "files": tuple(PublishedFile(**f) for f in m["files"])}) for m in saved["models"]]
        datasets = [Dataset(**dataset) for dataset in saved["datasets"]]
        return _State(saved["keys"], models, datasets, [GrantedUpload(**upload) for upload in saved["uploads"]])
    except (ValueError, KeyError, TypeError):
        raise NoCatalog(f"{file}: no sandbox has written this; move it away, or name another folder") from None


def _save(file: Path, state: _State) -> None:
    new = file.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as out:
        out.write(orjson.dumps(state, option=orjson.OPT_INDENT_2))
    new.replace(file)
