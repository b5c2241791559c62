"""The JSON documents that no table and no agent is needed for."""

from pathlib import Path

from axomsync.core.records import Dataset, Model, ModelState, RemoteModel
from axomsync.drop.handover import Batch
from axomsync.mirror.catalog import Change
from axomsync.status.documents import answer_document, current_document, dataset_documents, model_document, model_documents


def listed(id_: str, created_at: str | None) -> RemoteModel:
    return RemoteModel(id_, "m", id_, None, None, "ready", created_at)


def known(id_: str, created_at: str) -> Model:
    return Model(
        id_, "m", id_, None, None, "training", created_at, ModelState.WAITING, "it trains", None, 0, None, 0, None, 0.0
    )  # fmt: skip


def test_models_are_told_as_they_are_after_the_console_has_answered() -> None:
    changes = [
        Change(listed("b", "2026-02-01"), ModelState.QUEUED, None),
        Change(listed("new", "2026-03-01"), ModelState.IGNORED, "not among the newest 2"),
        Change(listed("undated", None), ModelState.QUEUED, None),
    ]
    rows = model_documents([known("a", "2026-01-01"), known("b", "2026-02-01")], changes)
    assert [(row["id"], row["state"], row["reason"], row["remote_status"]) for row in rows] == [
        ("new", "ignored", "not among the newest 2", "ready"),
        ("b", "queued", None, "ready"),
        ("a", "waiting", "it trains", "training"),
        ("undated", "queued", None, "ready"),
    ]
    assert all(row.keys() == model_document(known("a", "2026-01-01")).keys() for row in rows)


def test_datasets_are_followed_by_uploads_that_none_was_made_of() -> None:
    made, left = Batch("a", 1, 10, "2026-01-01T00:00:00"), Batch("b", 2, 20, "2026-01-01T00:00:00")
    dataset = Dataset("1", "a", "v1", 1, 10, "ready", "2026-01-02T00:00:00Z")
    first, second = dataset_documents([dataset], [made, left])
    assert (first["id"], first["uploaded_from"]) == ("1", "a")
    assert (second["id"], second["status"], second["uploaded_from"]) == (None, "not registered", "b")
    assert (second["shard_count"], second["bytes"]) == (2, 20)
    assert first.keys() == second.keys()
    (alone,) = dataset_documents([], [left])
    assert alone.keys() == first.keys()


def test_an_answer_says_if_an_agent_gave_it() -> None:
    assert answer_document(None) == {"running": False}
    assert answer_document({"retried": []}) == {"running": True, "retried": []}
    assert current_document(Path("/m/name"), "v1", pinned=True) == {
        "path": "/m/name/current",
        "version": "v1",
        "pinned": True,
    }
