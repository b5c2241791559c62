"""What is known of a model's bytes at the moment that counts: before they are published.

A published byte was proven by a checksum, or received in this life, or compared with the BLAKE3 that was recorded when an
earlier life received it. And all files are of the same moment: what an earlier life completed is asked for again, by one
byte; so is what was complete before another one was first met, where an object changed or storage's dates say that one was
stored meanwhile.

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

from axomsync.errors import AxomsyncError, Refused, SourceChanged, UrlExpired, printable
from axomsync.habits import Habits
from axomsync.ledger import Ledger
from axomsync.mirror.integrity import Comparison, Corrupt, Proof, compare, digests
from axomsync.mirror.partial import Job, PartialFile
from axomsync.mirror.verify import examine_file
from axomsync.records import ManifestFile, ModelFile
from axomsync.retry import persist
from axomsync.s3 import composite_md5, has_parts, plain_md5
from axomsync.storage import Storage

log = logging.getLogger(__name__)

ASKED_AT_ONCE = 8
URLS_IN_A_ROW = 3

Step = Callable[[], None]


class Proving:
    """The judge of one model's files, over all tries to fetch them. `uses_etags` is `[mirror] verify = "etag"`."""

    def __init__(self, ledger: Ledger, storage: Storage, habits: Habits, *, uses_etags: bool) -> None:
        self._ledger, self._storage, self._habits, self._uses_etags = ledger, storage, habits, uses_etags
        self._wrong: dict[str, str] = {}  # MD5s of files, by path, that were not what the ETag seemed to say

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
                        file.start_over()
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
            url, generation, fresh = job.links.url(file.rel)
            try:
                with self._storage.get(url, 0, min(1, file.size), file.size, file.etag) as reply:
                    for _ in reply.chunks:
                        break
                    file.last_answer = asked_at
                    return
            except (UrlExpired, Refused) as refusal:
                if last or (isinstance(refusal, Refused) and fresh):
                    raise
                job.links.refused(generation)

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
        proofs = dict.fromkeys(files, Proof.SIZE)
        corrupt: dict[str, Corrupt] = {}
        compared: dict[str, Comparison] = {}
        for file in job.files:
            if file.rel in linked and not file.generation:
                proofs[file.rel] = Proof.PROVEN
            elif fault := self._contradicts_manifest(file, listed.get(file.rel), step):
                corrupt[file.rel] = fault
            else:
                if (told := listed.get(file.rel)) is not None and told.checksums:
                    proofs[file.rel] = Proof.MANIFEST
                if self._uses_etags and file.etag_is_md5 and not file.ignores_etags and file.size:
                    sizes = self._habits.of(file.host).part_sizes
                    found = compared[file.rel] = compare(file.path, files[file.rel].etag, file.evidence, step, sizes)
                    if found.proven:
                        self._learn(file, found)
                        proofs[file.rel] = Proof.PROVEN
        for file in job.files:  # when all that proves something has taught what it could
            comparison = compared.get(file.rel)
            if proofs[file.rel] is not Proof.SIZE or file.rel in corrupt:
                continue
            disproof = self._disproved(file, files[file.rel].etag, comparison) if comparison else None
            if wrong := disproof or self._changed_on_disk(file, files[file.rel], step):
                corrupt[file.rel] = wrong
        for file in job.files:
            if file.rel in corrupt:
                self._forget_what_is_wrong(job, file, files[file.rel], step)
                corrupt[file.rel] = Corrupt(f"{printable(file.rel)}: {corrupt[file.rel]}")
        return proofs, corrupt

    def _contradicts_manifest(self, file: PartialFile, told: ManifestFile | None, step: Step) -> Corrupt | None:
        if told is None or not told.checksums:
            return None
        found = digests(file.path, {name for name, _ in told.checksums}, step)
        wrong = [name for name, digest in told.checksums if found[name] != digest]
        return Corrupt(f"its {wrong[0]} is {found[wrong[0]]}, and the console says another") if wrong else None

    def _learn(self, file: PartialFile, found: Comparison) -> None:
        if found.part_size is None:
            self._habits.saw_md5(file.host, file.size)
        else:
            self._habits.saw_part_size(file.host, found.part_size)

    def _disproved(self, file: PartialFile, etag: str | None, comparison: Comparison) -> Corrupt | None:
        """What an ETag that fits nothing means, in the light of what its host's ETags were before."""
        habits = self._habits.of(file.host)
        if comparison.md5 is not None:
            told = f"its MD5 is {comparison.md5}, storage says {plain_md5(etag)}"
            if habits.etag_is_md5(file.size) is False:
                return None
            if habits.etag_is_md5(file.size) is None and self._wrong.get(file.rel) == comparison.md5:
                log.info("%s: %s, twice alike: the ETag is no MD5", printable(file.rel), told)
                self._habits.saw_no_md5(file.host, file.size)
                return None
            self._wrong[file.rel] = comparison.md5
            return Corrupt(told)
        if (composite := composite_md5(etag)) is None:
            return None
        for part in habits.part_sizes:
            if has_parts(file.size, part, composite[1]):
                return Corrupt(f"in parts of {part} bytes, as others came to storage, it is not what {composite[0]} says")
        return None

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
            file.start_over()
