"""What is known of a model's bytes at the moment that counts: before they are published.

A published byte was proven by a checksum, or received in this life, or compared with the BLAKE3 that was recorded when an
earlier life received it. And all files are of the same moment: what an earlier life completed is asked for again, by one
byte; so is what was complete before another one was first met, unless storage's dates say that none was stored meanwhile.

Failures handled: a file that damage, a snapshot or an older ledger has changed on disk (its damaged segments are fetched
again), bytes that storage's or the manifest's checksum disproves (`Corrupt`), an ETag that looks like an MD5 and is none
(the same wrong digest twice, or what its host did before), a file that the manifest calls empty and that is not, an object
that was replaced since it was fetched (`SourceChanged`; the other files are asked for again, and it is fetched anew).
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
from axomsync.mirror.check.integrity import Comparison, Corrupt, compare, digests
from axomsync.mirror.check.verify import examine_file
from axomsync.mirror.fetch.partial import Job, PartialFile
from axomsync.runtime.habits import Habits
from axomsync.runtime.retry import persist
from axomsync.storage.client import Storage
from axomsync.storage.s3 import composite_md5, plain_md5

log = logging.getLogger(__name__)

ASKED_AT_ONCE = 8
URLS_IN_A_ROW = 3

Step = Callable[[], None]


class Proving:
    """The judge of one model's files, over all tries to fetch them. `uses_etags` is `[mirror] verify = "etag"`."""

    def __init__(self, ledger: Ledger, storage: Storage, habits: Habits, *, uses_etags: bool) -> None:
        self._ledger, self._storage, self._habits, self._uses_etags = ledger, storage, habits, uses_etags
        self._wrong: dict[str, str] = {}  # digests of files, by path, that were not what the ETag seemed to say
        self._siblings_parts: set[int] = set()  # part sizes that files of this model were proven with
        self.remarks: list[str] = []  # what is odd about the checksums, and no reason not to publish

    # Are all files of the same moment?

    def ask_again(
        self, job: Job, linked: Container[str], stop: threading.Event, random: Callable[[], float], step: Step
    ) -> dict[str, SourceChanged]:
        """Ask for files that may be others by now. Those that are were forgotten. Raises what asking raises."""
        doubtful = [file for file in job.files if file.rel not in linked and self._may_be_another(job, file)]
        changed: dict[str, SourceChanged] = {}
        with ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="ask") as pool:
            try:
                asked = {file: pool.submit(persist, partial(self._ask, job, file), stop, random) for file in doubtful}
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
            return False  # nothing would tell
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

    # Are they what storage has?

    def prove(
        self,
        job: Job,
        files: Mapping[str, ModelFile],
        listed: Mapping[str, ManifestFile],
        linked: Container[str],
        step: Step,
    ) -> tuple[dict[str, Proof], dict[str, Corrupt]]:
        """What is shown of each file, and what is wrong with others: that was forgotten and must be fetched again."""
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
        for file in job.files:  # when all that proves something has taught what it could
            if proofs[file.rel] is Proof.SIZE and file.rel not in corrupt:
                disproof = self._disproved(file, files[file.rel], compared.get(file.rel), step)
                if wrong := disproof or self._changed_on_disk(file, files[file.rel], step):
                    corrupt[file.rel] = wrong
        for file in job.files:
            if file.rel in corrupt:
                self._forget_what_is_wrong(job, file, files[file.rel], step)
                corrupt[file.rel] = Corrupt(f"{printable(file.rel)}: {corrupt[file.rel]}")
        return proofs, corrupt

    def _has_etag_to_compare(self, file: PartialFile) -> bool:
        return self._uses_etags and file.etag_is_md5 and not file.ignores_etags and file.size > 0

    def _held_to_manifest(self, file: PartialFile, listed: Mapping[str, ManifestFile], step: Step) -> Proof:
        """What the manifest's own checksums show. Raises `Corrupt`."""
        told = listed[file.rel].checksums if file.rel in listed else ()
        if not told:
            return Proof.SIZE
        found = digests(file.path, {name for name, _ in told}, step)
        for name, digest in told:
            if found[name] != digest:
                raise Corrupt(f"its {name} is {found[name]}, and the console says {digest}")
        return Proof.MANIFEST

    def _compared(self, file: PartialFile, recorded: ModelFile, step: Step) -> Comparison:
        """Compare with the ETag; what that proves is learned of the host."""
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
        """What an ETag that fits nothing means, in the light of what its host's ETags were before."""
        if comparison is None:
            return None
        if comparison.md5 is not None:
            return self._disproved_by_md5(file, recorded, comparison.md5)
        if composite_md5(recorded.etag) and self._siblings_parts and not comparison.composites:
            comparison = self._compared(file, recorded, step)  # they may have been proven after this one was compared
        if not comparison.composites:
            return None
        part, found = comparison.composites[0]
        if part not in self._siblings_parts and self._wrong.get(file.rel) == found:
            return None  # others of the host came in such parts, and this one hardly did: it came twice alike
        self._wrong[file.rel] = found
        how = "in one part" if part == recorded.size else f"in parts of {part} bytes, as others came to storage,"
        return Corrupt(f"{how} its ETag would be {found}, not {recorded.etag}")

    def _disproved_by_md5(self, file: PartialFile, recorded: ModelFile, found: str) -> Corrupt | None:
        told = f"its MD5 is {found}, storage says {plain_md5(recorded.etag)}"
        known = self._habits.of(file.host).etag_is_md5(file.size)
        if known is None and self._wrong.get(file.rel) == found:
            self.remarks.append(f"{printable(file.rel)}: {told}; it came twice alike, so the ETag is taken for no MD5")
            self._habits.saw_no_md5(file.host, file.size)
            known = False
        self._wrong[file.rel] = found
        return None if known is False else Corrupt(told)

    def _changed_on_disk(self, file: PartialFile, recorded: ModelFile, step: Step) -> Corrupt | None:
        """Whether what an earlier life received is still what it received."""
        if not file.believed:
            return None
        damage = examine_file(file.path, replace(recorded, segments=file.believed), step)
        return None if damage is None else Corrupt(f"it changed on disk since it was received: {damage.reason}")

    def _forget_what_is_wrong(self, job: Job, file: PartialFile, recorded: ModelFile, step: Step) -> None:
        """The segments that are no longer what they were; all of the file where none of them is, or none is known of."""
        damage = examine_file(file.path, recorded, step)
        damaged = damage.segments if damage is not None else ()
        if damaged and len(damaged) < len(recorded.segments):
            self._ledger.discard_segments(job.model_id, file.rel, damaged)
            file.lose(damaged, recorded.segments)
        else:
            self._ledger.discard_file(job.model_id, file.rel)
            file.fetch_anew()
