"""Deliberate faults of the agent. Each must be found: by a campaign of the kind and story that are named, or by tests.

    python -m tests.torture.mutants [NAME …]

A mutant is a copy of the program with one change. A campaign that finds nothing in `TRIES` runs lets it live.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.torture.campaign import PROGRAM, Bench
from tests.torture.forge import forged, place_for_runs
from tests.torture.schedule import KINDS, drawn

TRIES = 160


@dataclass(frozen=True)
class Mutant:
    """`found_by`: one of KINDS, or the tests that must fail."""

    name: str
    file: str
    old: str
    new: str
    found_by: str
    story: str = ""  # of the campaign


MUTANTS = (
    Mutant("notes are not synced", "core/folders.py",
           "                with TURNS.lent():\n                    os.fsync(stream.fileno())\n            yield name\n",
           "            yield name\n",
           "power"),
    Mutant("the ledger is not synced", "ledger/database.py", "PRAGMA synchronous = FULL",
           "PRAGMA synchronous = OFF", "power"),
    Mutant("the ledger knows bytes before they are synced", "mirror/fetch/journal.py",
           "os.fdatasync(mine[0].handle.descriptor)", "pass", "power"),
    Mutant("a model is published before it is synced", "mirror/publish/staging.py",
           "        os.fsync(descriptor)\n", "        pass\n", "power"),
    Mutant("a model appears file by file", "mirror/publish/folder.py",
           "os.rename(staging, target)", "__import__('shutil').copytree(staging, target)", "kill"),
    Mutant("a signed URL is not kept for a second try", "drop/put.py", "        body.keep(presigned)\n", "", "kill"),
    Mutant("confirmed before it is sent", "drop/put.py",
           "        file = self._file()\n",
           "        file = self._file()\n        body.confirm(None, '', doubtful=False)\n", "wire"),
    Mutant("claims are never released", "drop/delivery.py",
           "self._claims.release(self.content(upload))", "self.content(upload)",
           "tests/drop/test_several_agents.py"),
    Mutant("claims of files that stay are kept", "drop/recovery.py",
           "if self._keeps and claimed", "if False and claimed", "kill"),
    Mutant("what a killed life was writing stays", "ledger/identity.py", "if name.startswith(UNFINISHED)",
           "if False", "tests/ledger/test_identity.py"),  # a kill meets that one write about once in two hundred runs
    Mutant("lines are not checked", "drop/checking.py",
           "mode, shapes = self._settings.validate_, self._shapes()", 'mode, shapes = "off", None', "wire"),
    Mutant("an unchecked file is sent to its end", "drop/head_start.py",
           "self._wait(lambda: self._proof is not None)", "pass",
           "tests/drop/test_head_start.py"),
    Mutant("bytes are sent before they are checked", "drop/head_start.py",
           "self._wait(lambda: self._checked >= end)", "self._wait(lambda: True)", "tests/drop/test_head_start.py"),
    Mutant("the same content is sent again", "drop/delivery.py", "        if twin is not None:\n",
           "        if False:\n", "kill"),
    Mutant("the oldest version is kept", "mirror/retention.py",
           "sorted(published, key=lambda version: version.age)",
           "sorted(published, key=lambda version: version.age, reverse=True)", "kill", "retention"),
    Mutant("a short answer counts as whole", "storage/client.py",
           "_exactly(_chunks(response) if has_body else iter(()), extent.end - extent.start, gateway)",
           "_chunks(response)", "wire"),
    Mutant("a store that ignores Range is believed", "storage/client.py",
           "if extent.whole and start != 0:", "if False:", "tests/mirror/fetch tests/storage"),
    Mutant("another ETag is the same object", "storage/client.py",
           "if etag is not None and found is not None and found != etag:", "if False:",
           "tests/storage/test_storage.py"),
    Mutant("a read error leaves the old state", "ledger/database.py",
           "    with closing(db.conn.execute(sql, parameters)) as cursor:\n",
           "    if cursor := db.conn.execute(sql, parameters):\n", "tests/ledger"),
    Mutant("an unreadable folder looks empty", "drop/watch.py",
           "return any(path == folder or path.startswith(folder + b\"/\") for folder in self.unreadable)", "return False",
           "tests/drop/test_local_trouble.py tests/drop/test_watching.py"),
    Mutant("what is left undone is not told", "agent/one_shot.py",
           '    log.warning("ends with %d: %s%s", first.code, first.words, more)\n', "", "wire"),
    Mutant("too few descriptors are a bug", "storage/connections.py",
           "raise _unbuilt(error) from None", "raise", "limits"),
    Mutant("the state folder is open to all", "ledger/lock.py", "mode=0o750", "mode=0o755", "kill"),
    Mutant("links are followed", "core/folders.py",
           "os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC", "os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
           "tests/core tests/drop/test_planted.py"),
    Mutant("no limit on an answer of the console", "console/session.py", "ANSWER_LIMIT = ", "ANSWER_LIMIT = 1000 * ",
           "tests/console"),
    Mutant("the bandwidth is not kept", "runtime/throttle.py", "    def take(self, count: int) -> None:\n",
           "    def take(self, count: int) -> None:\n        return\n", "tests/runtime/test_throttle.py"),
    Mutant("the wall clock judges waits", "runtime/waits.py",
           "return max(0.0, known[1] - self._clock())", "return max(0.0, due - self._now())",
           "tests/runtime/test_clock.py"),
    Mutant("a file that is written to is taken", "drop/open_files.py",
           "return refusal.errno == errno.EAGAIN", "return False", "tests/drop/test_finished_or_not.py"),
    Mutant("shards are sent again", "drop/delivery.py", "                if not shard.uploaded\n", "", "kill"),
    Mutant("the no of a gate is not heard", "mirror/model_task.py",
           "        gate.ask(self._model, str(staging), self._context.stop, self._beat)\n", "", "kill", "gates"),
    Mutant("current moves without a word", "mirror/promotion.py",
           '    if promotes == "manual":\n        return place.served\n', "", "kill", "promotion"),
    Mutant("an import believes its disk", "mirror/sources.py", "if digest.hexdigest() != part.blake3:", "if False:",
           "kill", "import"),
    Mutant("an object that was replaced meanwhile is not asked for", "mirror/check/proving.py",
           "return file.last_answer is None or (job", "return (job", "kill", "replaced"),
    Mutant("a repair believes what it has", "mirror/check/verify.py", "_digest(descriptor, part, step) != part.blake3",
           "False", "kill", "repair"),
    Mutant("an absence does not end", "mirror/polling.py", "if is_back or any(", "if any(", "kill", "retention"),
    Mutant("an extension needs no record", "mirror/publish/folder.py",
           "            write_record(folder, record, self.access)\n            sync_folder(folder)\n", "", "kill",
           "extension"),
    Mutant("bytes of gateways are believed", "mirror/check/proving.py",
           "self._uses_etags = ledger, storage, habits, uses_etags", "self._uses_etags = ledger, storage, habits, False",
           "kill", "gateways"),
)  # fmt: skip


def main() -> int:
    """Run the mutants that are named, or all; the exit code is 1 if one lives."""
    chosen = [mutant for mutant in MUTANTS if not sys.argv[1:] or any(word in mutant.name for word in sys.argv[1:])]
    living = 0
    for mutant in chosen:
        found = _found(mutant)
        living += found is None
        print(f"{mutant.name}: {found or 'LIVES'}", flush=True)
    print(f"{len(chosen) - living} of {len(chosen)} found")
    return 1 if living else 0


def _found(mutant: Mutant) -> str | None:
    place = Path(tempfile.mkdtemp(prefix="axomsync-mutant-"))
    try:
        for name in ("axomsync", "tests", "pyproject.toml", "systemd", "docs", "config.example.toml", "debian", "deploy"):
            source = PROGRAM / name
            if source.is_dir():
                shutil.copytree(source, place / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copyfile(source, place / name)
        file = place / "axomsync" / mutant.file
        text = file.read_text()
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.name}: {mutant.file} has its text {text.count(mutant.old)} times")
        file.write_text(text.replace(mutant.old, mutant.new))
        return _by_campaign(mutant, place) if mutant.found_by in KINDS else _by_tests(mutant, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _by_campaign(mutant: Mutant, program: Path) -> str | None:
    place = place_for_runs()
    try:
        with forged(place, program) as forge:
            bench = Bench(place, forge)
            for seed in range(TRIES):
                broken, _ = bench.run(drawn(seed, mutant.found_by, mutant.story))
                if broken:
                    words = broken[0].strip().splitlines()[-1]  # of a calm life that breaks a promise, it is the last line
                    return f"{mutant.found_by}, seed {seed}: {words[:200]}"
        return None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _by_tests(mutant: Mutant, program: Path) -> str | None:
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not stress",
        *mutant.found_by.split(),
    ]
    done = subprocess.run(words, cwd=program, env=os.environ | {"PYTHONPATH": str(program)}, capture_output=True, text=True)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return failed[0][:200] if done.returncode == 1 and failed else None


if __name__ == "__main__":
    sys.exit(main())
