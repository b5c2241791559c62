"""Reuse of files: a file that another version of the same name has is shared with the new version, not fetched.

A file counts as unchanged when path and size are equal, storage proved it then and gives the same checksum now, and its
bytes still have the recorded digests. Failures handled: a store that gives no checksum or does not answer, a filesystem
without hard links or reflinks, a file with damaged bytes (all of them are fetched).
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from axomsync.core.errors import AxomsyncError
from axomsync.core.records import ManifestFile, ModelFile, Proof
from axomsync.mirror.check.verify import Step, examine_file
from axomsync.mirror.fetch.urls import SignedUrls
from axomsync.mirror.publish import current
from axomsync.mirror.publish.access import for_owner
from axomsync.mirror.publish.record import read_record
from axomsync.storage.client import Storage
from axomsync.storage.s3 import composite_md5, plain_md5

WORTH_ASKING = 1024 * 1024  # bytes; a smaller file takes no more requests to fetch than to check
FICLONE = 0x40049409  # ioctl_ficlone(2)


def link(
    parent: Path, file: ManifestFile, target: Path, urls: SignedUrls, storage: Storage, step: Step
) -> tuple[Path, ModelFile] | None:
    """Put the unchanged `file` at the free path `target`; returns its source and its ledger data.

    `parent` is the folder of the name. None when no version below it has the same bytes.
    """
    if file.size < WORTH_ASKING:
        return None
    for path, known in _candidates(parent, file):
        if _storage_has(known, urls, storage) and examine_file(path, known, step) is None and _share(path, target):
            return path, known
    return None


def _candidates(parent: Path, file: ManifestFile) -> list[tuple[Path, ModelFile]]:
    """Files at the same path in other versions, newest first, each content once."""
    found: dict[str, tuple[Path, ModelFile]] = {}
    for version in current.versions(parent):
        record = read_record(parent / version)
        for known in record.files if record else ():
            alike = known.rel == file.rel and known.size == file.size
            if alike and record and record.proofs[known.rel] is Proof.PROVEN and known.etag:
                found.setdefault(known.etag, (parent / version / known.rel, known))
    return list(found.values())


def _storage_has(known: ModelFile, urls: SignedUrls, storage: Storage) -> bool:
    """Check that the object still has the file's proven checksum. One byte is fetched: a signed URL allows no HEAD."""
    if plain_md5(known.etag) is None and composite_md5(known.etag) is None:
        return False
    with suppress(AxomsyncError):  # fetching meets the same failure and handles it
        url, _, _ = urls.url(known.rel)
        with storage.get(url, 0, 1, known.size, known.etag) as reply:
            if not reply.whole:
                for _ in reply.chunks:
                    pass
            return reply.etag == known.etag and reply.etag_is_md5
    return False


def _share(source: Path, target: Path) -> bool:
    """Share the file's blocks; on a filesystem without reflinks, make a hard link; False when neither works.

    Only with shared blocks does a write into one version leave the other unchanged.
    """
    try:
        with source.open("rb") as original, open(target, "xb", opener=for_owner) as copy:
            fcntl.ioctl(copy.fileno(), FICLONE, original.fileno())
        return True
    except OSError:
        target.unlink(missing_ok=True)
    with suppress(OSError):
        os.link(source, target, follow_symlinks=False)
        return True
    return False
