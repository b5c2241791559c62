"""The digest of a published model: what it is made of, and when the ledger has one."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from sqlite_utils import Database

from axomsync.core.records import DurableSegment, ModelFile, ModelState, RemoteModel
from axomsync.ledger import Ledger
from axomsync.ledger.digests import digest_of
from axomsync.ledger.schema import migrations
from axomsync.status.documents import model_document

REMOTE = RemoteModel("m-1", "llama", "v1", None, None, "ready", "2027-01-01T00:00:00Z")
ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)
CONFIG = ModelFile("config.json", 2, "etag", (DurableSegment(0, 2, ONE),))
WEIGHTS = ModelFile("model.safetensors", 9, None, (DurableSegment(0, 5, TWO), DurableSegment(5, 9, THREE)))
EXPECTED = blake3(
    json.dumps([["config.json", 2, [ONE]], ["model.safetensors", 9, [TWO, THREE]]], separators=(",", ":")).encode()
).hexdigest()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "state", lambda: 1_900_000_000.0) as ledger:
        yield ledger


def told(ledger: Ledger) -> str | None:
    digest: str | None = model_document(ledger.read.model("m-1"))["digest"]
    return digest


def test_order_of_files_and_segments_and_etags_do_not_count() -> None:
    shuffled = ModelFile(WEIGHTS.rel, 9, "other etag", WEIGHTS.segments[::-1])
    assert digest_of([CONFIG, WEIGHTS]) == digest_of([shuffled, CONFIG]) == EXPECTED


@pytest.mark.parametrize(
    "other",
    [
        ModelFile("Config.json", 2, "etag", CONFIG.segments),
        ModelFile("config.json", 3, "etag", CONFIG.segments),
        ModelFile("config.json", 2, "etag", (DurableSegment(0, 2, TWO),)),
        ModelFile("config.json\udcff", 2, "etag", CONFIG.segments),
    ],
)
def test_another_path_size_or_content_gives_another_digest(other: ModelFile) -> None:
    assert digest_of([other, WEIGHTS]) != EXPECTED


def test_digest_is_told_while_the_model_is_published(ledger: Ledger) -> None:
    ledger.record_catalog([(REMOTE, ModelState.QUEUED, None)])
    assert told(ledger) is None
    ledger.move_model("m-1", ModelState.DOWNLOADING)
    ledger.move_model("m-1", ModelState.VERIFYING)
    ledger.record_published("m-1", "/models/llama/v1", [WEIGHTS, CONFIG], (), None)
    assert told(ledger) == EXPECTED
    ledger.replace_files("m-1", [CONFIG], damaged=True)
    assert told(ledger) == EXPECTED
    ledger.replace_files("m-1", [CONFIG])
    assert told(ledger) == digest_of([CONFIG])
    ledger.record_pruned("m-1", "not among the newest")
    assert told(ledger) is None


def test_model_that_was_found_on_disk_has_its_digest(ledger: Ledger) -> None:
    ledger.record_found(REMOTE, "/models/llama/v1", [WEIGHTS, CONFIG], (), (), ())
    assert told(ledger) == ledger.read.published()[0].digest == EXPECTED


def test_ledger_of_an_older_version_gets_the_digests_of_its_models(tmp_path: Path) -> None:
    path = tmp_path / "state" / "state.db"
    with Ledger(path.parent, lambda: 1.0) as ledger:
        ledger.record_found(REMOTE, "/models/llama/v1", [WEIGHTS, CONFIG], (), (), ())
    old = Database(path)
    old.execute("ALTER TABLE models DROP COLUMN digest")
    old.execute("DELETE FROM _sqlite_migrations WHERE name = 'm024_digest'")
    old.conn.commit()
    assert [pending.name for pending in migrations.pending(old)] == ["m024_digest"]
    old.close()
    with Ledger(path.parent, lambda: 1.0) as ledger:
        assert told(ledger) == EXPECTED
