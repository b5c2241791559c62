"""The far side without its HTTP server: a catalog, an object store and a relay in front of it, with all they can do.

Presigned URLs are signed for the relay, so speed and outages of storage are made there. Failures handled: an id that is
taken, a dataset of uploads that storage does not have (`Conflict`).
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from axomsync.sandbox.catalog import Catalog, PublishedFile
from axomsync.sandbox.errors import Conflict
from axomsync.sandbox.objectstore import Method, ObjectStore
from axomsync.sandbox.relay import Relay


@dataclass(frozen=True, slots=True)
class UploadState:
    upload_id: str
    key: str
    filename: str
    stored: int | None  # bytes in storage; None before a PUT has succeeded


class FarSide:
    """State in `folder` survives a restart. `relay` is there once the sandbox has started."""

    relay: Relay

    def __init__(self, folder: Path, store: ObjectStore, url_lifetime: timedelta, rate: float | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.store, self.url_lifetime = folder, store, url_lifetime
        self.catalog = Catalog(folder / "console.json")
        self.key = self.catalog.full_key()
        self._rate = rate

    @property
    def rate(self) -> float | None:
        """Bytes per second for each storage connection and direction; None is unlimited, 0 a stall."""
        return self._rate

    @rate.setter
    def rate(self, rate: float | None) -> None:
        self._rate = rate
        self.relay.rate = rate

    def create_key(self, scopes: Iterable[str]) -> str:
        return self.catalog.create_key(scopes)

    def revoke_key(self, key: str) -> None:
        self.catalog.revoke_key(key)

    def publish_model(
        self,
        name: str,
        version: str,
        folder: Path,
        *,
        status: str = "ready",
        model_id: str | None = None,
        params: int = 0,
        part_size: int | None = None,
    ) -> str:
        """Store every file under `folder` into the bucket, then list the model; returns its id.

        `part_size` (bytes) stores the files as multipart uploads. Raises `Conflict` when `model_id` is taken.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if not paths:
            raise ValueError(f"no files in {folder}")
        # Not under the model's id: a removed and republished id gets new objects, as a retrained model would.
        root = f"models/{uuid.uuid4()}"
        files = []
        for path in paths:
            rel = path.relative_to(folder).as_posix()
            self.store.put_file(f"{root}/{rel}", path, part_size=part_size)
            files.append(PublishedFile(rel, path.stat().st_size, f"{root}/{rel}"))
        return self.catalog.add_model(name, version, files, status=status, model_id=model_id, params=params).id

    def presign(self, method: Method, key: str) -> str:
        """Return a URL through the relay that lives for `url_lifetime`."""
        return self.store.presign(method, key, lifetime=self.url_lifetime, endpoint=self.relay.endpoint)

    def set_model_status(self, model_id: str, status: str) -> None:
        self.catalog.set_model_status(model_id, status)

    def remove_model(self, model_id: str) -> None:
        """Remove a model from the list, and its files from storage."""
        for file in self.catalog.remove_model(model_id).files:
            self.store.delete(file.key)

    def uploads(self) -> list[UploadState]:
        """Return every upload that was granted, newest first, and its size in storage."""
        stored = {entry.key: entry.size for entry in self.store.list("tmp")}
        return [UploadState(u.upload_id, u.key, u.filename, stored.get(u.key)) for u in self.catalog.uploads()]

    def register_dataset(self, name: str, version: str, upload_ids: Iterable[str]) -> str:
        """Make a dataset of finished uploads, as a person does in the console; returns its id.

        Raises `KeyError` for an unknown upload and `Conflict` for one that storage does not have.
        """
        known = {upload.upload_id: upload for upload in self.uploads()}
        sizes = [known[upload_id].stored for upload_id in upload_ids]
        if not sizes or None in sizes:
            raise Conflict("not every upload has been stored")
        total = sum(size for size in sizes if size is not None)
        return self.catalog.add_dataset(name, version, shard_count=len(sizes), size=total).id
