"""Proof of a model's bytes immediately before their publication.

Every published byte was proven by a checksum, or received by this process, or compared with the BLAKE3 that was recorded
when an earlier process received it. And all files are of one moment: files completed by an earlier process are requested
again, by one byte; so are files completed before another file was first met, unless storage's dates show that no object was
stored meanwhile.

Failures handled: a file changed on disk by damage, a snapshot or an older ledger (its damaged segments are fetched again),
bytes that storage's or the manifest's checksum disproves (`Corrupt`), an ETag that looks like an MD5 and is none (the same
wrong digest twice, or known of its host), a file that is empty in the manifest and not in storage, an object that was
replaced after its download (`SourceChanged`; the other files are requested again, and it is fetched again), gateways whose
caches are damaged (see `copies`).
"""

import logging
import threading
from collections.abc import Callable, Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from axomsync.core.errors import AxomsyncError, Refused, SourceChanged, UrlExpired
from axomsync.core.records import ManifestFile, ModelFile, Proof
from axomsync.core.text import printable
from axomsync.ledger import Ledger
from axomsync.mirror.check.copies import Copies
from axomsync.mirror.check.integrity import Comparison, Corrupt, compare, digests
from axomsync.mirror.check.verify import examine_file
from axomsync.mirror.fetch.partial import Job, PartialFile
from axomsync.runtime.habits import Habits
from axomsync.runtime.retry import persist
from axomsync.runtime.ring import Ring
from axomsync.storage.client import Storage
from axomsync.storage.s3 import composite_md5, plain_md5

log = logging.getLogger(__name__)

ASKED_AT_ONCE = 8
URLS_IN_A_ROW = 3

Step = Callable[[], None]


class Proving:
    """Judges one model's files, over all tries to fetch them. `uses_etags`: `[mirror] verify = "etag"`."""

    def __init__(self, ledger: Ledger, storage: Storage, habits: Habits, ring: Ring, *, uses_etags: bool) -> None:
        self._ledger, self._storage, self._habits, self._uses_etags = ledger, storage, habits, uses_etags
        self._copies = Copies(ring)
        self._wrong: dict[str, set[str]] = {}  # digests of files, by path, that contradicted the ETag
        self._siblings_parts: set[int] = set()  # part sizes that proved files of this model
        self.remarks: list[str] = []  # oddities of checksums that do not block the model

    # All files of one moment

    def ask_again(
        self, job: Job, linked: Container[str], stop: threading.Event, random: Callable[[], float], step: Step
    ) -> dict[str, SourceChanged]:
        """Request files that may have changed; changed ones are discarded and returned. Raises the failures of requests."""
        doubtful = [file for file in job.files if file.rel not in linked and self._may_be_another(job, file)]
        changed: dict[str, SourceChanged] = {}
        with ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="ask") as pool:
            try:
                asked = {file: pool.submit(persist, partial(self._ask, job, file), stop, random, step) for file in doubtful}
                for file, answer in asked.items():
                    step()
                    try:
                        answer.result()
                    except SourceChanged as failure:
                        self._ledger.discard_file(job.model_id, file.rel)
                        file.fetch_anew()
                        job.is_disturbed = True
                        changed[file.rel] = failure
                    except AxomsyncError as failure:
                        raise failure.about(printable(file.rel)) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return changed

    def _may_be_another(self, job: Job, file: PartialFile) -> bool:
        if not file.size:
            return file.last_answer is None
        if not self._uses_etags or file.etag is None or file.ignores_etags:
            return False  # a change could not be seen
        return file.last_answer is None or (job.is_disturbed and file.last_answer < job.last_meeting)

    def _ask(self, job: Job, file: PartialFile) -> None:
        for last in (*(False,) * (URLS_IN_A_ROW - 1), True):
            asked_at = job.clock()
            url, generation, fresh = job.urls.url(file.rel)
            try:
                with self._storage.get(url, 0, min(1, file.size), file.size, file.etag) as reply:
                    for _ in reply.chunks:
                        break
                    file.last_answer = asked_at
                    return
            except (UrlExpired, Refused) as refusal:
                if last or (isinstance(refusal, Refused) and fresh):
                    raise
                job.urls.refused(generation)

    # The same bytes as storage

    def prove(
        self,
        job: Job,
        files: Mapping[str, ModelFile],
        listed: Mapping[str, ManifestFile],
        linked: Container[str],
        step: Step,
    ) -> tuple[dict[str, Proof], dict[str, Corrupt]]:
        """Prove all files. Returns the proofs, and the faults of wrong files, which are discarded to be fetched again."""
        proofs: dict[str, Proof] = {}
        corrupt: dict[str, Corrupt] = {}
        compared: dict[str, Comparison] = {}
        for file in job.files:
            try:
                linked_and_untouched = file.rel in linked and not file.generation
                proofs[file.rel] = Proof.PROVEN if linked_and_untouched else self._held_to_manifest(file, listed, step)
            except Corrupt as fault:
                proofs[file.rel], corrupt[file.rel] = Proof.SIZE, fault
                continue
            if not linked_and_untouched and self._has_etag_to_compare(file):
                compared[file.rel] = self._compared(file, files[file.rel], step)
                if compared[file.rel].proven:
                    proofs[file.rel] = Proof.PROVEN
        for file in job.files:  # last, when all proofs have taught the host's habits
            if proofs[file.rel] is Proof.SIZE and file.rel not in corrupt:
                disproof = self._disproved(file, files[file.rel], compared.get(file.rel), step)
                if wrong := disproof or self._changed_on_disk(file, files[file.rel], step):
                    corrupt[file.rel] = wrong
        for file in job.files:
            if file.rel not in corrupt and self._uses_etags:
                doubt = self._copies.doubt(file, files[file.rel], proofs[file.rel], step)
                corrupt |= {file.rel: doubt} if doubt is not None else {}
            if file.rel in corrupt:
                self._forget_what_is_wrong(job, file, files[file.rel], step)
                corrupt[file.rel] = corrupt[file.rel].about(printable(file.rel))
        return proofs, corrupt

    def _has_etag_to_compare(self, file: PartialFile) -> bool:
        return self._uses_etags and file.etag_is_md5 and not file.ignores_etags and file.size > 0

    def _held_to_manifest(self, file: PartialFile, listed: Mapping[str, ManifestFile], step: Step) -> Proof:
        """Compare with the manifest's own checksums. Raises `Corrupt`."""
        told = listed[file.rel].checksums if file.rel in listed else ()
        if not told:
            return Proof.SIZE
        found = digests(file.path, {name for name, _ in told}, step)
        for name, digest in told:
            if found[name] != digest:
                raise Corrupt(f"its {name} is {found[name]}, and the console says {digest}")
        return Proof.MANIFEST

    def _compared(self, file: PartialFile, recorded: ModelFile, step: Step) -> Comparison:
        """Compare with the ETag; a proof is added to the host's habits."""
        sizes = (*sorted(self._siblings_parts), *self._habits.of(file.host).part_sizes)
        found = compare(file.path, recorded.etag, file.evidence, step, sizes)
        if found.proven and found.part_size is None:
            self._habits.saw_md5(file.host, file.size)
        elif found.part_size is not None:
            self._siblings_parts.add(found.part_size)
            self._habits.saw_part_size(file.host, found.part_size)
        return found

    def _disproved(
        self, file: PartialFile, recorded: ModelFile, comparison: Comparison | None, step: Step
    ) -> Corrupt | None:
        """Judge an ETag that fits nothing, knowing the host's earlier ETags."""
        if comparison is None:
            return None
        if comparison.md5 is not None:
            return self._disproved_by_md5(file, recorded, comparison.md5)
        if composite_md5(recorded.etag) and self._siblings_parts and not comparison.composites:
            comparison = self._compared(file, recorded, step)  # siblings may have been proven after this comparison
        if not comparison.composites:
            return None
        part, found = comparison.composites[0]
        if part not in self._siblings_parts and found in self._wrong.get(file.rel, ()):
            return None  # the same bytes came twice: this object was made with other parts
        self._wrong.setdefault(file.rel, set()).add(found)
        how = "in one part" if part == recorded.size else f"in parts of {part} bytes, as others came to storage,"
        return Corrupt(f"{how} its ETag would be {found}, not {recorded.etag}")

    def _disproved_by_md5(self, file: PartialFile, recorded: ModelFile, found: str) -> Corrupt | None:
        told = f"its MD5 is {found}, storage says {plain_md5(recorded.etag)}"
        known = self._habits.of(file.host).etag_is_md5(file.size)
        if known is None and found in self._wrong.get(file.rel, ()):
            self.remarks.append(f"{printable(file.rel)}: {told}; it came twice alike, so the ETag is taken for no MD5")
            self._habits.saw_no_md5(file.host, file.size)
            known = False
        self._wrong.setdefault(file.rel, set()).add(found)
        return None if known is False else Corrupt(told)

    def _changed_on_disk(self, file: PartialFile, recorded: ModelFile, step: Step) -> Corrupt | None:
        """Check the bytes that an earlier process received."""
        if not file.believed:
            return None
        damage = examine_file(file.path, replace(recorded, segments=file.believed), step)
        return None if damage is None else Corrupt(f"it changed on disk since it was received: {damage.reason}")

    def _forget_what_is_wrong(self, job: Job, file: PartialFile, recorded: ModelFile, step: Step) -> None:
        """Discard the damaged segments, or the whole file when all are damaged or none is known."""
        damage = examine_file(file.path, recorded, step)
        damaged = damage.segments if damage is not None else ()
        if damaged and len(damaged) < len(recorded.segments):
            self._ledger.discard_segments(job.model_id, file.rel, damaged)
            file.lose(damaged, recorded.segments)
        else:
            self._ledger.discard_file(job.model_id, file.rel)
            file.distrust(recorded.segments)
            file.fetch_anew()
