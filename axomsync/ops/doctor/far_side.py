"""Checks of the far side: console, key and scopes, storage, and the clock as the console has it.

Failures handled: a console that can't be asked (nothing behind it is tried), a scope that is missing (the others are tried).
"""

import hashlib
from collections.abc import Iterator

from axomsync.config import Settings, load_key
from axomsync.console.client import Console
from axomsync.console.session import NotThere
from axomsync.core.errors import AxomsyncError, KeyRefused, Rejected
from axomsync.core.records import ManifestFile, Presigned, RemoteModel
from axomsync.ops.doctor.findings import Finding, Verdict
from axomsync.ops.doctor.installation import Installation
from axomsync.storage.client import Storage
from axomsync.storage.s3 import plain_md5
from axomsync.transport.http import host_of

SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 30.0, 600.0  # S3 refuses signatures that are off by more than 15 minutes
NOBODY = "00000000-0000-0000-0000-000000000000"
PROBE_NAME, PROBE = "axomsync-doctor.jsonl", b'{"text": "written by axomsync doctor"}\n'
REACHABLE = "is storage reachable from here, and its certificate trusted?"


def console_and_storage(installation: Installation) -> Iterator[Finding]:
    """Check that the console answers, that the key has its scopes, and that storage accepts uploads and serves downloads."""
    settings = installation.settings
    try:
        console = Console(
            settings.console.url, lambda: load_key(settings, installation.environ), ca_file=installation.ca_file
        )
        storage = Storage.of(settings)
    except AxomsyncError as failure:
        fix = "correct that; neither console nor storage could be tried"
        yield Finding("console", Verdict.FAIL, str(failure), fix)
        return
    try:
        models = console.models()
    except AxomsyncError as failure:
        code = failure.exit_code if isinstance(failure, KeyRefused) else 1
        fix = "see the reason; nothing behind the console could be tried"
        yield Finding("console", Verdict.FAIL, str(failure), fix, code)
        return
    through = f", through {console.proxy}" if console.proxy else ""
    found = f"{host_of(console.url)} lists {len(models)} models (scope read){through}"
    yield Finding("console", Verdict.OK, found)
    if console.clock_ahead is not None:
        yield skew(console.clock_ahead)
    if settings.mirror.enabled:
        yield from _downloads(console, storage, settings, [model for model in models if model.status == "ready"])
    if settings.drop.enabled:
        yield from _uploads(console, storage, settings, write=installation.write)


def skew(ahead: float) -> Finding:
    """Judge this machine's clock by the console's, which is so many seconds `ahead`."""
    found = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the console's"
    fix = "set up time synchronisation (systemd-timesyncd or chrony): signed URLs depend on it"
    if abs(ahead) >= SKEW_FAIL_SECONDS:
        return Finding("clock", Verdict.FAIL, found, fix)
    if abs(ahead) >= SKEW_WARN_SECONDS:
        return Finding("clock", Verdict.WARN, found, fix)
    return Finding("clock", Verdict.OK, "agrees with the console's")


def _downloads(console: Console, storage: Storage, settings: Settings, ready: list[RemoteModel]) -> Iterator[Finding]:
    try:
        manifest = console.manifest(ready[0].id if ready else NOBODY)
    except NotThere:
        yield Finding("scope models", Verdict.OK, "granted; no model is ready to be fetched from")
        for gateway in settings.transfer.gateways:
            yield _through(gateway, storage, None)
        return
    except AxomsyncError as failure:
        yield _refused("scope models", failure, "to mirror, the key needs the scope models")
        return
    yield Finding("scope models", Verdict.OK, "granted")
    file = next((file for file in manifest.files if file.size), None)
    if file is None:
        return
    for gateway in settings.transfer.gateways:
        yield _through(gateway, storage, file)
    host = host_of(file.url)
    try:
        with storage.get(file.url, 0, 1, file.size, None) as reply:
            next(iter(reply.chunks))
    except AxomsyncError as failure:
        yield _refused("download", failure, REACHABLE)
    else:
        yield Finding("download", Verdict.OK, f"storage at {host} gives bytes")


def _through(gateway: str, storage: Storage, file: ManifestFile | None) -> Finding:
    """Fetch a byte through a gateway, if there is any. One that fails costs speed, and no model: others are asked."""
    try:
        if file is None:
            storage.greet(gateway)
            return Finding("gateway", Verdict.OK, f"{gateway} is there; no model is ready to be fetched through it")
        with storage.get(file.url, 0, 1, file.size, None, gateway) as reply:
            next(iter(reply.chunks))
    except AxomsyncError as failure:
        fix = "is its nginx up, does it serve storage's host, and may this box ask it? docs/gateways.md"
        return Finding("gateway", Verdict.WARN, f"{gateway}: {failure}", fix)
    return Finding("gateway", Verdict.OK, f"{gateway} gives bytes of storage at {host_of(file.url)}")


def _uploads(console: Console, storage: Storage, settings: Settings, *, write: bool) -> Iterator[Finding]:
    content_type = settings.drop.content_type
    try:
        presigned = console.presign(PROBE_NAME, content_type)
    except AxomsyncError as failure:
        yield _refused("scope datasets", failure, "to upload, the key needs the scope datasets")
        return
    yield Finding("scope datasets", Verdict.OK, "granted")
    if write:
        yield _put(storage, presigned, content_type)


def _put(storage: Storage, presigned: Presigned, content_type: str) -> Finding:
    """Upload a tiny object and judge the answer; the object stays in storage."""
    try:
        stored = storage.put(presigned.url, iter([PROBE]), len(PROBE), content_type)
    except AxomsyncError as failure:
        return _refused("upload", failure, REACHABLE)
    left = f"{len(PROBE)} bytes stay there as {presigned.key}; they are no dataset unless they are registered"
    host, plain = host_of(presigned.url), plain_md5(stored.etag)
    md5 = hashlib.md5(PROBE, usedforsecurity=False).hexdigest()
    if stored.has_body and plain != md5:
        found = f"storage at {host} answered the PUT with a body, which S3 never does: no upload would be confirmed"
        return Finding("upload", Verdict.FAIL, found, "check whether a proxy answers for storage")
    if stored.etag_is_md5 and plain not in (None, md5):
        found = f"storage at {host} accepted the upload, and gives an ETag that is not their MD5; {left}"
        return Finding("upload", Verdict.WARN, found, "if it encrypts objects, do nothing; else find what changes the bytes")
    return Finding("upload", Verdict.OK, f"storage at {host} accepts uploads; {left}")


def _refused(subject: str, failure: AxomsyncError, fix: str) -> Finding:
    has_own_fix = isinstance(failure, Rejected) and "scope" in str(failure)
    return Finding(subject, Verdict.FAIL, str(failure), "" if has_own_fix else fix)
