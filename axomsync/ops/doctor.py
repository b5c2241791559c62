"""`axomsync doctor`: tries the real thing, and says of each part whether it works and, if not, what to do.

Every check stands alone: one that fails never keeps the others from being made. Failures handled: all that a part of
axomsync itself can meet (told in its own words), files of the kernel that are not there (that check is left out).
"""

import ctypes
import errno
import hashlib
import os
import pwd
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from axomsync.config import Settings, load_key, misspelt
from axomsync.console.client import Console
from axomsync.console.session import NotThere
from axomsync.core.errors import AxomsyncError, BadConfig, KeyRefused, LocalFault, Rejected
from axomsync.core.filesystems import REMOTE_FILESYSTEMS, filesystem_type
from axomsync.core.oserrors import local_fault
from axomsync.core.paths import ARCHIVE, CLAIMS, LEDGER_FILE, REJECTS
from axomsync.core.records import Presigned, RemoteModel
from axomsync.drop.watch import Watcher
from axomsync.ledger import Reader, UnreadyLedger, check_ledger
from axomsync.ops import access
from axomsync.storage.client import Storage
from axomsync.storage.s3 import plain_md5
from axomsync.transport import authorities
from axomsync.transport.http import host_of
from axomsync.transport.proxies import Proxies

SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 30.0, 600.0  # S3 refuses signatures that are off by more than 15 minutes
FEW_INODES = 10_000
FEW_BYTES = 100_000_000
WATCHES_SHARE = 0.8
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
NOBODY = "00000000-0000-0000-0000-000000000000"
PROBE_NAME, PROBE = "axomsync-doctor.jsonl", b'{"text": "written by axomsync doctor"}\n'


class Verdict(StrEnum):
    """How a part is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` is what to do about it."""

    subject: str
    verdict: Verdict
    found: str
    fix: str = ""


class Doctor:
    """Looks at one installation as the user who calls. `write` allows to leave a tiny object in storage."""

    def __init__(self, settings: Settings, config: Path, environ: Mapping[str, str], *, write: bool) -> None:
        self._settings, self._environ, self._write = settings, environ, write
        self._ca_file = str(settings.console.ca_file) if settings.console.ca_file else None
        self._units = access.units(config)
        self.key_refused = False

    def findings(self) -> Iterator[Finding]:
        """All checks, as they are made."""
        service = access.service_user(self._units, access.SERVICE_USER)
        yield from user(os.geteuid(), service.pw_name if service else None)
        yield from variables(misspelt(self._environ))
        yield from proxies(Proxies.of(self._environ))
        yield from certificates(self._ca_file, self._environ)
        yield from self._far_side()
        yield clock(_clock_is_synchronised())
        for name, folder in self._folders().items():
            yield from self._folder(name, folder)
        yield from self._access(service if self._units else access.caller())
        if self._settings.drop.enabled:
            yield from self._watching()
        yield self._ledger()

    # The far side

    def _far_side(self) -> Iterator[Finding]:
        try:
            url, settings = self._settings.console.url, self._settings
            self._console = Console(url, lambda: load_key(settings, self._environ), ca_file=self._ca_file)
            self._storage = Storage.of(settings)
        except AxomsyncError as failure:
            fix = "correct that; neither console nor storage could be tried"
            yield Finding("console", Verdict.FAIL, str(failure), fix)
            return
        yield from self._console_and_storage()

    def _console_and_storage(self) -> Iterator[Finding]:
        try:
            models = self._console.models()
        except AxomsyncError as failure:
            self.key_refused = isinstance(failure, KeyRefused)
            yield Finding("console", Verdict.FAIL, str(failure), "see the reason; nothing behind the console could be tried")
            return
        through = f", through {self._console.proxy}" if self._console.proxy else ""
        found = f"{host_of(self._console.url)} lists {len(models)} models (scope read){through}"
        yield Finding("console", Verdict.OK, found)
        if self._console.clock_ahead is not None:
            yield skew(self._console.clock_ahead)
        if self._settings.mirror.enabled:
            yield from self._downloads([model for model in models if model.status == "ready"])
        if self._settings.drop.enabled:
            yield from self._uploads()

    def _downloads(self, ready: list[RemoteModel]) -> Iterator[Finding]:
        try:
            manifest = self._console.manifest(ready[0].id if ready else NOBODY)
        except NotThere:
            yield Finding("scope models", Verdict.OK, "granted; no model is ready to be fetched from")
            return
        except AxomsyncError as failure:
            yield _refused("scope models", failure, "a key that mirrors needs the scope models")
            return
        yield Finding("scope models", Verdict.OK, "granted")
        file = next((file for file in manifest.files if file.size), None)
        if file is None:
            return
        host = host_of(file.url)
        try:
            with self._storage.get(file.url, 0, 1, file.size, None) as reply:
                next(iter(reply.chunks))
        except AxomsyncError as failure:
            yield _refused("download", failure, "is storage reachable from here, and its certificate trusted?")
        else:
            yield Finding("download", Verdict.OK, f"storage at {host} gives bytes")

    def _uploads(self) -> Iterator[Finding]:
        try:
            presigned = self._console.presign(PROBE_NAME, self._settings.drop.content_type)
        except AxomsyncError as failure:
            yield _refused("scope datasets", failure, "a key that uploads needs the scope datasets")
            return
        yield Finding("scope datasets", Verdict.OK, "granted")
        if self._write:
            yield self._put(presigned)

    def _put(self, presigned: Presigned) -> Finding:
        try:
            stored = self._storage.put(presigned.url, iter([PROBE]), len(PROBE), self._settings.drop.content_type)
        except AxomsyncError as failure:
            return _refused("upload", failure, "is storage reachable from here, and its certificate trusted?")
        left = (
            f"{len(PROBE)} bytes are left there as {presigned.key}, and are never a dataset unless somebody registers them"
        )
        host, plain = host_of(presigned.url), plain_md5(stored.etag)
        md5 = hashlib.md5(PROBE, usedforsecurity=False).hexdigest()
        if stored.has_body and plain != md5:
            found = f"storage {host} answered with a body, as no PUT is answered: nothing would be confirmed"
            return Finding("upload", Verdict.FAIL, found, "does a proxy answer in its place?")
        if stored.etag_is_md5 and plain not in (None, md5):
            found = f"storage at {host} took bytes and gives an ETag that is not their MD5; {left}"
            return Finding("upload", Verdict.WARN, found, "if it encrypts objects itself, nothing; else it changes bytes")
        return Finding("upload", Verdict.OK, f"storage at {host} takes bytes; {left}")

    # This machine

    def _folders(self) -> dict[str, Path]:
        s = self._settings
        wanted = {"state": True, "drop": s.drop.enabled, "mirror": s.mirror.enabled}
        places = {"state": s.state.folder, "drop": s.drop.folder, "mirror": s.mirror.folder}
        return {name: folder for name, folder in places.items() if wanted[name]}

    def _folder(self, name: str, folder: Path) -> Iterator[Finding]:
        subject = f"{name} folder"
        if os.path.lexists(folder) and not folder.is_dir():
            what = "a link that leads to no folder" if folder.is_symlink() else "no folder"
            yield Finding(subject, Verdict.FAIL, f"{folder} is {what}", f"move it away, or correct [{name}] folder")
            return
        if not folder.is_dir():
            is_made = name == "state" and _can_be_made(folder)
            yield (
                Finding(subject, Verdict.OK, f"{folder} is made by the first start")
                if is_made
                else Finding(subject, Verdict.FAIL, f"{folder} is not there", f"create it, or correct [{name}] folder")
            )
            return
        if (obstacle := self._not_writable(subject, folder)) is not None:
            yield obstacle
            return
        if name == "drop":
            yield from _places(folder)
            yield from self._where_files_are_put(folder)
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        yield filesystem(name, folder, filesystem_type(folder))
        yield space(name, folder, free, self._settings.mirror.reserve if name == "mirror" else FEW_BYTES)
        if status.f_files:
            yield inodes(name, folder, status.f_favail)

    def _not_writable(self, subject: str, folder: Path) -> Finding | None:
        try:
            if self._write:
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.write(b"x")
            elif os.statvfs(folder).f_flag & os.ST_RDONLY:
                raise OSError(errno.EROFS, "")
            elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "it may not be written")
        except OSError as error:
            found, _, fix = str(local_fault(error, str(folder))).partition("; ")
            return Finding(subject, Verdict.FAIL, found, fix.removeprefix("run: "))
        return None

    def _where_files_are_put(self, drop: Path) -> Iterator[Finding]:
        """`uploaded` and `rejected` may have filesystems and rights of their own."""
        for place in (drop / os.fsdecode(name) for name in (ARCHIVE, REJECTS)):
            if place.is_symlink() or not place.is_dir():
                continue
            if (obstacle := self._not_writable(f"drop {place.name}/", place)) is not None:
                yield obstacle
            elif place.stat().st_dev != drop.stat().st_dev:
                status = os.statvfs(place)
                yield filesystem(f"drop {place.name}/", place, filesystem_type(place))
                yield space(f"drop {place.name}/", place, status.f_bavail * status.f_frsize, FEW_BYTES)
                if status.f_files:
                    yield inodes(f"drop {place.name}/", place, status.f_favail)

    def _access(self, service: pwd.struct_passwd | None) -> Iterator[Finding]:
        """What keeps the service from folders that whoever calls can use."""
        folders, drop = self._folders(), self._settings.drop.folder if self._settings.drop.enabled else None
        obstacles = access.denied(folders, drop, service)
        yield from (Finding("rights", Verdict.FAIL, obstacle.found, obstacle.fix) for obstacle in obstacles)
        if not obstacles:
            whom = service.pw_name if service else f"the user {os.geteuid()}"
            yield Finding("rights", Verdict.OK, f"{whom} may use the folders that people made in the drop folder")
        if drop is not None and (trap := access.umask_trap(drop, service)) is not None:
            yield Finding("rights", Verdict.WARN, trap.found, trap.fix)
        for unit in self._units:
            hidden = access.hidden_by(unit, folders)
            yield from (Finding("unit", Verdict.FAIL, obstacle.found, obstacle.fix) for obstacle in hidden)
            if not hidden:
                yield Finding("unit", Verdict.OK, f"{unit['Id']} lets its service write to every folder")

    def _watching(self) -> Iterator[Finding]:
        watcher = Watcher(self._settings.drop.folder, self._settings.drop.observer, lambda: None)
        try:
            watcher.heal()
            if watcher.fault is not None:
                yield Finding("watching", Verdict.WARN, watcher.fault, "until then files are found by [drop] rescan only")
                return
            yield Finding("watching", Verdict.OK, watcher.kind)
        finally:
            watcher.stop()
        limit = _number_in("/proc/sys/fs/inotify/max_user_watches")
        if watcher.kind == "inotify" and limit is not None:
            yield watches(sum(1 for _ in os.walk(self._settings.drop.folder)), limit)

    def _ledger(self) -> Finding:
        path = self._settings.state.folder / LEDGER_FILE
        try:
            check_ledger(path)
        except LocalFault as fault:
            return Finding("ledger", Verdict.FAIL, str(fault), "find out who put it there, and move it away")
        if not os.path.exists(path):
            return Finding("ledger", Verdict.OK, f"{path} is made by the first start")
        said = _soundness(path)
        if said == "ok":
            return Finding("ledger", Verdict.OK, f"{path} is sound")
        fix = "stop the agent and move the file away: the ledger is rebuilt from receipts and published models"
        return Finding("ledger", Verdict.FAIL, f"{path}: {said}", fix)


def _soundness(path: Path) -> str:
    """What SQLite and the agent's own reading say of the ledger; "ok" when it is whole."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            said = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if said == "ok":
            with closing(Reader(path)) as ledger:
                ledger.uploads()
                ledger.all_shards()
                ledger.models()
    except UnreadyLedger:
        return "ok"  # of an older version: the next start brings it up to date
    except (sqlite3.Error, AxomsyncError) as error:
        return str(error).removeprefix(f"{path}: ")
    return said


# Verdicts on what was found


def _places(drop: Path) -> Iterator[Finding]:
    """The sub-folders that the agent fills are folders, or are not there yet."""
    for place in (drop / os.fsdecode(name) for name in (ARCHIVE, REJECTS, CLAIMS)):
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            found = f"{place} is a symlink or a file, which the agent does not follow"
            yield Finding("drop folder", Verdict.FAIL, found, "move it away; the agent makes a folder there")


def user(euid: int, service: str | None) -> Iterator[Finding]:
    """Root may do what the service may not."""
    if euid == 0 and service not in (None, "root"):
        fix = f"runuser -u {service} -- axomsync doctor, with the key in $AXOM_KEY"
        yield Finding("user", Verdict.WARN, f"looking as root, while the service runs as {service}", fix)


def variables(advice: list[str]) -> Iterator[Finding]:
    """Of the environment."""
    for line in advice:
        yield Finding("environment", Verdict.WARN, line, "correct its name, or unset it")


def proxies(found: Proxies) -> Iterator[Finding]:
    """Proxies change who answers."""
    for warning in found.warnings:
        yield Finding("proxy", Verdict.WARN, warning, "set the variable right where the agent is started, or unset it there")
    told = ", ".join(f"{scheme} goes through {proxy}" for scheme, proxy in sorted(found.named.items()))
    yield Finding("proxy", Verdict.OK, told or "none is used")


def certificates(ca_file: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whom this machine trusts."""
    for complaint in authorities.complaints(environ):
        yield Finding("certificates", Verdict.WARN, complaint, "set the variable right where the agent is started")
    try:
        known = authorities.any_known(authorities.tls_context(ca_file))
    except BadConfig as bad:
        yield Finding("certificates", Verdict.FAIL, str(bad), "correct that, or leave ca_file out")
        return
    if known:
        own = f", and those of {ca_file}" if ca_file else ""
        yield Finding("certificates", Verdict.OK, f"the system's authorities are trusted{own}")
    else:
        yield Finding("certificates", Verdict.FAIL, "no certificate authority is known on this machine", authorities.FIX)


def skew(ahead: float) -> Finding:
    """`ahead` is by how many seconds the console's clock is before this one."""
    found = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the console's"
    fix = "set up time synchronisation (systemd-timesyncd or chrony): signed URLs depend on it"
    if abs(ahead) >= SKEW_FAIL_SECONDS:
        return Finding("clock", Verdict.FAIL, found, fix)
    if abs(ahead) >= SKEW_WARN_SECONDS:
        return Finding("clock", Verdict.WARN, found, fix)
    return Finding("clock", Verdict.OK, "agrees with the console's")


_SYNCHRONISE = "enable systemd-timesyncd or chrony; for a container, on its host"


def clock(synchronised: bool) -> Finding:
    """Whether something keeps this machine's clock right."""
    if synchronised:
        return Finding("time sync", Verdict.OK, "the kernel's clock is synchronised")
    return Finding("time sync", Verdict.WARN, "nothing synchronises the clock", _SYNCHRONISE)


def _can_be_made(folder: Path) -> bool:
    """Whether this user may make a folder that is not there, and those on the way to it."""
    there = next(above for above in folder.absolute().parents if os.path.lexists(above))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK, effective_ids=True)


def filesystem(name: str, folder: Path, kind: str) -> Finding:
    """SQLite's locks and file events can't be trusted where several machines write."""
    subject = f"{name} filesystem"
    if kind not in REMOTE_FILESYSTEMS:
        return Finding(subject, Verdict.OK, f"{kind or 'unknown'} at {folder}")
    if name == "state":
        return Finding(subject, Verdict.FAIL, f"{folder} is on {kind}", "name a folder on a local disk as [state] folder")
    told = "new files are found by polling" if name == "drop" else "fsync and renames are as good as its server makes them"
    return Finding(subject, Verdict.WARN, f"{folder} is on {kind}: {told}", "a local disk is better, where you have one")


def space(name: str, folder: Path, free: int, least: int) -> Finding:
    """Bytes that can still be written."""
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if free >= least:
        return Finding(f"{name} space", Verdict.OK, found)
    fix = "free some space; for models also [mirror] keep, max_size and reserve"
    return Finding(f"{name} space", Verdict.FAIL, f"{found}, and {least / 1e9:.1f} GB must be", fix)


def inodes(name: str, folder: Path, free: int) -> Finding:
    """A disk may be full of small files."""
    if free >= FEW_INODES:
        return Finding(f"{name} inodes", Verdict.OK, f"{free:,} free")
    return Finding(f"{name} inodes", Verdict.WARN, f"{free:,} left in {folder}", "remove small files, or use a larger disk")


def watches(folders: int, limit: int) -> Finding:
    """inotify needs one watch a folder, and the limit is shared by all programs of a user."""
    found = f"{folders:,} folders of at most {limit:,} watches"
    if folders < limit * WATCHES_SHARE:
        return Finding("inotify", Verdict.OK, found)
    return Finding("inotify", Verdict.WARN, found, f"sysctl fs.inotify.max_user_watches={max(limit, folders) * 2}")


def _refused(subject: str, failure: AxomsyncError, fix: str) -> Finding:
    told = isinstance(failure, Rejected) and "scope" in str(failure)  # it says itself what to do
    return Finding(subject, Verdict.FAIL, str(failure), "" if told else fix)


def _clock_is_synchronised() -> bool:
    adjtimex: Callable[[ctypes.Array[ctypes.c_char]], int] = ctypes.CDLL(None).adjtimex
    return adjtimex(ctypes.create_string_buffer(512)) != TIME_ERROR  # all zeros: it only asks


def _number_in(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
