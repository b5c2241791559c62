"""Claims in `<drop>/.axomsync`: they decide which of several agents on one drop folder carries a content.

    agents/<identity>      an agent that has worked here
    claims/<digest>        a symlink to the identity of the agent that carries this content now
    claims/<digest>.json   its ids in storage, for other agents; also for later lives of an agent whose files stay

One atomic call makes a symlink with its target, on network filesystems too. An agent waits for the claim of any user. But it
believes a record only if its own user or root has made it, no other user may write to it, and it names the content itself:
agents that share a folder run as the same user. With `after = "delete"` no record is proof, see `put_away`.

Failures handled: an agent that died (its claim is not touched for `STALE_SECONDS` and may be taken over), one that comes
back (the claim is still its own), leftovers of a kill (swept at the next start), a folder that can't be written to (nobody
can claim there, each agent works for itself), links and files in the place of our folders or claims (`LocalFault`, nothing
is followed), records with invalid content (logged; the content is uploaded), a disk that can't be read (`LocalFault`).
"""

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import TypeAdapter

from axomsync.core.documents import NotADocument, read_document
from axomsync.core.folders import Folder
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import CLAIMS, UNFINISHED
from axomsync.core.records import Stored
from axomsync.core.text import printable
from axomsync.drop.documents import shard_document
from axomsync.drop.receipts import StoredShape, Text
from axomsync.drop.watch import folder_fault

log = logging.getLogger(__name__)

STALE_SECONDS = 900.0
TOUCH_SECONDS = 60.0

_RECORD = b".json"
_JUDGED = b".judged"
_MODE = 0o755
_NAME = re.compile(rb"[0-9a-f]{64}")
# With these errors this agent can't claim here, and no other agent can either.
_BARRED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT})


class _RecordShape(StoredShape):
    content: Text  # content that storage has


_SHAPE: TypeAdapter[_RecordShape] = TypeAdapter(_RecordShape)


class Claims:
    """Claims of one agent. `keeps`: files stay after their upload, so records are also for its later lives."""

    def __init__(self, root: Path, identity: str, *, keeps: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._identity, self._keeps, self._clock = root, identity.encode(), keeps, clock
        self._from_future: dict[bytes, tuple[float, float]] = {}  # their times, and the monotonic time when first seen

    @property
    def alone(self) -> bool:
        """True if no other agent has worked here; False if that can't be read."""
        try:
            with self._opened(b"agents") as agents:
                return not any(name != self._identity and not name.startswith(UNFINISHED) for name in agents.names())
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def register(self, carried: Iterable[str] = ()) -> list[str]:
        """Make this agent known to the others; called once at its start. Returns the contents that it has claimed.

        Of its earlier claims, those on `carried` contents stay. Raises `LocalFault` for entries that a person must move
        away, and `FileNotFoundError` if folders disappear meanwhile.
        """
        wanted = {_name(content): content for content in carried}
        try:
            self._mark()
            with self._opened(b"claims", make=True) as claims:
                return [wanted[name] for name in self._sweep(claims, wanted.keys())]
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno not in _BARRED:
                raise folder_fault(error) from None
        return []

    def take(self, content: str) -> str | None:
        """Claim a content; returns None if this agent may carry it, else the identity of the agent that does.

        Raises `LocalFault` if the claims can't be read now.
        """
        try:
            with self._opened(b"claims", make=True) as claims:
                return self._take(claims, _name(content))
        except OSError as error:
            if error.errno in _BARRED:
                return None
            raise folder_fault(error) from None

    def touch(self, content: str) -> None:
        """Renew the claim: this agent still carries the content."""
        with suppress(OSError), self._opened(b"claims") as claims:
            if self._holder(claims, _name(content)) == self._identity:
                self._renew(claims, _name(content))

    def record(self, content: str) -> Stored | None:
        """Read the record of a content that an agent here has uploaded; None when there is none. Raises `LocalFault`."""
        name = _name(content) + _RECORD
        try:
            with self._opened(b"claims") as claims:
                document = read_document(claims, name, _SHAPE, ours=True)
            if document is not None and document.content != content:
                raise NotADocument("it is of another content")
        except NotADocument as why:
            log.warning("%s: no record of an upload: %s; the content is uploaded", self._shown(name), why)
            return None
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                return None  # it belongs to another user
            raise folder_fault(error) from None
        return None if document is None else document.stored()

    def settle(self, content: str, stored: Stored) -> None:
        """Write a record that storage has the content, if other agents or later lives need it."""
        if not self._keeps and self.alone:
            return
        shards = [shard_document(shard) for shard in stored.shards]
        ids = {"upload_id": stored.upload_id, "key": stored.key, "etag": stored.etag}
        document = {**ids, "shards": shards, "content": content}
        try:
            with self._opened(b"claims") as claims:
                claims.replace(_name(content) + _RECORD, json.dumps(document).encode())
        except OSError as error:
            if error.errno not in _BARRED:
                log.warning("%s (other agents here are not told of an upload)", local_fault(error))

    def release(self, content: str) -> None:
        """Release the claim: this agent no longer carries the content."""
        with suppress(OSError), self._opened(b"claims") as claims:
            if self._holder(claims, _name(content)) == self._identity:
                claims.unlink(_name(content))

    def forget(self, content: str) -> None:
        """Delete claim and record, so that no agent counts the content as uploaded. Raises `LocalFault`."""
        self.release(content)
        try:
            with self._opened(b"claims") as claims:
                claims.unlink(_name(content) + _RECORD)
        except FileNotFoundError:
            return
        except OSError as error:
            raise folder_fault(error) from None

    @contextmanager
    def _opened(self, name: bytes, *, make: bool = False) -> Iterator[Folder]:
        with Folder.open(self._root) as top, top.descend(CLAIMS + b"/" + name, make=_MODE if make else None) as folder:
            yield folder

    def _shown(self, name: bytes) -> str:
        return printable(os.fsdecode(os.path.join(os.fsencode(self._root), CLAIMS, b"claims", name)))

    def _take(self, claims: Folder, name: bytes) -> str | None:
        for _ in range(2):
            try:
                self._link(claims, name)
            except FileExistsError:
                holder = self._holder(claims, name)
                if holder == self._identity:
                    self._renew(claims, name)
                    return None
                if holder is not None and not self._take_over(claims, name):
                    return os.fsdecode(holder)
            else:
                return None
        return "which just began"

    def _link(self, claims: Folder, name: bytes) -> None:
        try:
            os.symlink(self._identity, name, dir_fd=claims.descriptor)
        except OSError as error:
            error.filename, error.filename2 = os.path.join(claims.path, name), None
            raise

    def _renew(self, claims: Folder, name: bytes) -> None:
        """Make the claim again; changing its times could touch another file that has taken its name."""
        fresh = UNFINISHED + secrets.token_hex(16).encode()
        self._link(claims, fresh)
        try:
            os.rename(fresh, name, src_dir_fd=claims.descriptor, dst_dir_fd=claims.descriptor)
        except BaseException:
            claims.unlink(fresh)
            raise

    def _take_over(self, claims: Folder, name: bytes) -> bool:
        """Remove the claim of an agent that died.

        Only one agent judges at a time, so that no fresh claim is taken for the old one.
        """
        judge = name + _JUDGED
        try:
            try:
                self._link(claims, judge)
            except FileExistsError:
                if self._is_stale(claims, judge):  # that agent died during its judgement
                    claims.unlink(judge)
                return False
            try:
                if not self._is_stale(claims, name):
                    return False
                claims.unlink(name)
            finally:
                claims.unlink(judge)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in _BARRED:
                return False
            raise
        return True

    def _is_stale(self, claims: Folder, name: bytes) -> bool:
        status = claims.status(name)
        if status is None:
            return False
        age = self._mark() - status.st_mtime
        if age >= -STALE_SECONDS:
            self._from_future.pop(name, None)
            return age > STALE_SECONDS
        # The clock was set back after the claim was made or touched. A living agent touches its claim again.
        made, known_since = self._from_future.get(name, (None, 0.0))
        if made != status.st_mtime:
            known_since = self._clock()
            self._from_future[name] = (status.st_mtime, known_since)
        return self._clock() - known_since > STALE_SECONDS

    def _mark(self) -> float:
        """Write this agent's file; returns its time by the filesystem's clock, which all agents share."""
        with self._opened(b"agents", make=True) as agents:
            agents.replace(self._identity, b"")
            status = agents.status(self._identity)
            if status is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), agents.path)
            return status.st_mtime

    def _sweep(self, claims: Folder, carried: Container[bytes]) -> list[bytes]:
        """Remove leftovers of earlier lives of this agent; returns its claims on `carried` contents."""
        held = []
        for name in claims.names():
            digest, suffix = name[:64], name[64:]
            if not _NAME.fullmatch(digest) or (suffix in (b"", _JUDGED) and self._holder(claims, name) != self._identity):
                continue
            if not suffix and digest in carried:
                held.append(digest)
            elif suffix in (b"", _JUDGED, _RECORD + b"." + self._identity):
                with suppress(FileNotFoundError):
                    claims.unlink(name)
        return held

    @staticmethod
    def _holder(claims: Folder, name: bytes) -> bytes | None:
        """Identity of the agent that has this claim; None if the claim is gone."""
        try:
            return os.readlink(name, dir_fd=claims.descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            error.filename = os.path.join(claims.path, name)
            if error.errno == errno.EINVAL:
                error.errno = errno.EEXIST  # no symlink: another program's file
            raise


def _name(content: str) -> bytes:
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest().encode()
