"""Writes of models: the catalog, their files, durable segments, publishing and retention."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from axomsync.core.records import DurableSegment, ModelFile, ModelState, RemoteModel
from axomsync.core.states import NOT_BEGUN_MODELS
from axomsync.ledger.digests import digest_of
from axomsync.ledger.rows import json_counts, json_list
from axomsync.ledger.states import Moves

_SET_PATH = "UPDATE models SET path = ?, reason = NULL WHERE id = ?"


class ModelWrites(Moves):
    """Writes of models."""

    def record_catalog(self, changes: Iterable[tuple[RemoteModel, ModelState, str | None]]) -> None:
        """Record new labels and states of models, the result of reconciling with the console's list."""
        changed = list(changes)

        def work(db: Database) -> None:
            now = self._now()
            for model, state, reason in changed:
                labels = (model.name, model.version, model.params, model.base_model_id, model.status, model.created_at)
                db.conn.execute(
                    "INSERT INTO models (id, name, version, params, base_model_id, remote_status, created_at, state, reason,"
                    " first_seen, updated_at) VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET"
                    " name = excluded.name, version = excluded.version, params = excluded.params,"
                    " base_model_id = excluded.base_model_id, remote_status = excluded.remote_status,"
                    " created_at = excluded.created_at",
                    (model.id, *labels, state, reason, now, now),
                )
                # What held up an earlier download says nothing about the next one.
                setbacks = {"attempts": 0, "next_attempt": None} if state in NOT_BEGUN_MODELS else {}
                self._move(db, "models", model.id, state, {"reason": reason, **setbacks})

        self.write(work)

    def note_presence(self, listed: Iterable[str]) -> None:
        """Update absence counters from one listing: reset those listed, add one to all others."""
        there = list(listed)

        def work(db: Database) -> None:
            db.conn.execute("CREATE TEMP TABLE IF NOT EXISTS listed (id TEXT PRIMARY KEY)")
            db.conn.execute("DELETE FROM listed")
            db.conn.executemany("INSERT OR IGNORE INTO listed VALUES (?)", ((model_id,) for model_id in there))
            db.conn.execute(
                "UPDATE models SET absent_polls = 0, absent_since = NULL"
                " WHERE absent_since IS NOT NULL AND id IN (SELECT id FROM listed)"
            )
            db.conn.execute(
                "UPDATE models SET absent_polls = absent_polls + 1, absent_since = coalesce(absent_since, ?)"
                " WHERE id NOT IN (SELECT id FROM listed)",
                (self._now(),),
            )

        self.write(work)

    def record_found(
        self,
        model: RemoteModel,
        path: str,
        files: Iterable[ModelFile],
        left_out: Iterable[str],
        remarks: Iterable[str],
        proofs: Iterable[str],
    ) -> None:
        """Record a model that exists in the mirror folder but not in this ledger; `proofs` has one word for each file.

        A poll and a repair may find it at once: the second one changes nothing.
        """
        found, others, odd, shown = list(files), json_list(left_out), tuple(remarks), json_counts(proofs)

        def work(db: Database) -> None:
            made = db.conn.execute(
                "INSERT INTO models (id, name, version, params, base_model_id, remote_status, created_at, state, path,"
                " left_out, remarks, reason, proofs, bytes_total, digest, first_seen, updated_at)"
                " VALUES (?,?,?,?,?,?,?,'published',?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                (
                    model.id, model.name, model.version, model.params, model.base_model_id, model.status, model.created_at,
                    path, others, json_list(odd), "; ".join(odd) or None, shown, sum(file.size for file in found),
                    digest_of(found), self._now(), self._now(),
                ),
            )  # fmt: skip
            if made.rowcount:
                insert_files(db, model.id, found)

        self.write(work)

    def record_published(
        self,
        model_id: str,
        path: str,
        files: Iterable[ModelFile],
        left_out: Iterable[str],
        verified_at: float | None,
        remarks: Iterable[str] = (),
        proofs: Iterable[str] = (),
    ) -> None:
        """Record that a model is complete at `path`. `verified_at` is None if its bytes were not read yet.

        `proofs` has one word for each file.
        """
        there, others, odd, shown = list(files), json_list(left_out), tuple(remarks), json_counts(proofs)

        def work(db: Database) -> None:
            db.conn.execute(
                'UPDATE models SET gateway_bytes = gateway_bytes + (SELECT coalesce(sum(s."end" - s.start), 0)'
                " FROM files f JOIN segments s ON s.file = f.id WHERE f.model = ?1 AND s.gateway IS NOT NULL) WHERE id = ?1",
                (model_id,),
            )
            db.conn.execute("DELETE FROM files WHERE model = ?", (model_id,))
            insert_files(db, model_id, there)
            changes: dict[str, Any] = {"path": path, "left_out": others, "bytes_total": sum(file.size for file in there)}
            changes |= {"remarks": json_list(odd), "reason": "; ".join(odd) or None, "proofs": shown}
            changes |= {"attempts": 0, "next_attempt": None, "verified_at": verified_at, "damage": None}
            changes |= {"digest": digest_of(there)}
            self._move(db, "models", model_id, ModelState.PUBLISHED, changes)

        self.write(work)

    def record_arrival(self, model: RemoteModel, *, pulled: bool) -> None:
        """Queue a model whose folder has just appeared, also one that no list has named yet.

        `record_published` follows; if it can't, the next pass finds the folder. `pulled`: see `record_wanted`.
        """

        def work(db: Database) -> None:
            labels = (model.name, model.version, model.params, model.base_model_id, model.status, model.created_at)
            db.conn.execute(
                "INSERT INTO models (id, name, version, params, base_model_id, remote_status, created_at, state,"
                " first_seen, updated_at) VALUES (?,?,?,?,?,?,?,'queued',?,?) ON CONFLICT DO NOTHING",
                (model.id, *labels, self._now(), self._now()),
            )
            self._move(db, "models", model.id, ModelState.QUEUED, {"reason": None} | ({"pulled": 1} if pulled else {}))

        self.write(work)

    def replace_files(self, model_id: str, files: Iterable[ModelFile], *, damaged: bool = False) -> None:
        """Replace the recorded files of a published model; the segments of a `damaged` one are only those that are good."""
        fresh = list(files)

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM files WHERE model = ?", (model_id,))
            insert_files(db, model_id, fresh)
            if not damaged:
                db.conn.execute("UPDATE models SET digest = ? WHERE id = ?", (digest_of(fresh), model_id))

        self.write(work)

    def record_path(self, model_id: str, path: str) -> None:
        """Record where the folder of a published model lies, after `[mirror] folder` was changed."""
        self.execute(_SET_PATH, path, model_id).result()

    def record_moved(self, model_id: str, old: Path, new: Path, *, leads: bool) -> None:
        """Record the new name of a published model's folder, after the console renamed the model. Hooks hear of it.

        `leads`: `current` leads there. Below the folder of another name it is noticed as any other move; below the same one
        it is not, since the model is the same: it is told here, unless a move to this model has not been noticed yet.
        """

        def work(db: Database) -> None:
            db.conn.execute(_SET_PATH, (str(new), model_id))
            sql = "SELECT 1 FROM currents WHERE folder = ? AND model = ?"
            noticed = db.conn.execute(sql, (str(new.parent), model_id)).fetchone()
            if new.parent != old.parent:
                self._tell(db, "model_removed", model_id, str(old))
            elif leads and noticed:
                self._tell(db, "current_moved", model_id)

        self.write(work)

    def record_pruned(self, model_id: str, reason: str) -> None:
        """Record that retention has removed the folder of a model: none of its bytes are on disk any more."""

        def work(db: Database) -> None:
            changes: dict[str, Any] = {"reason": reason, "path": None, "damage": None, "verified_at": None, "proofs": None}
            changes |= {"digest": None, "gateway_bytes": 0}
            self._move(db, "models", model_id, ModelState.PRUNED, changes)
            db.conn.execute("DELETE FROM segments WHERE file IN (SELECT id FROM files WHERE model = ?)", (model_id,))

        self.write(work)

    def note_verified(self, model_id: str, damage: str | None, proofs: Iterable[str]) -> None:
        """Record that the bytes of a published model were compared now; `damage` describes differences.

        `proofs` has one word for each file, from the model's record: a ledger of an older version does not have them.
        """
        sql = "UPDATE models SET damage = ?, verified_at = ?, proofs = ? WHERE id = ?"
        self.execute(sql, damage, self._now(), json_counts(proofs), model_id).result()

    def move_model(self, model_id: str, state: ModelState, **changes: Any) -> None:
        """Move a model to `state` and set columns. Raises `IllegalTransition` and `Forgotten`."""
        self.write(lambda db: self._move(db, "models", model_id, state, changes))

    def record_wanted(self, model_id: str, *, pulled: bool) -> None:
        """Queue a model; `pulled` keeps it although the selection would leave it out."""
        changes: dict[str, Any] = {"attempts": 0, "next_attempt": None, "reason": None} | ({"pulled": 1} if pulled else {})
        self.move_model(model_id, ModelState.QUEUED, **changes)

    def plan_files(self, model_id: str, files: Iterable[tuple[str, int]]) -> None:
        """Record the files of a model's manifest; files that left the manifest or changed size are forgotten."""
        wanted = dict(files)

        def work(db: Database) -> None:
            for row in list(db.query("SELECT id, rel, size FROM files WHERE model = ?", [model_id])):
                if wanted.get(row["rel"]) != row["size"]:
                    db.conn.execute("DELETE FROM files WHERE id = ?", (row["id"],))
            for rel, size in wanted.items():
                db.conn.execute(
                    "INSERT INTO files (model, rel, size) VALUES (?,?,?) ON CONFLICT DO NOTHING", (model_id, rel, size)
                )
            db.conn.execute("UPDATE models SET bytes_total = ? WHERE id = ?", (sum(wanted.values()), model_id))

        self.write(work)

    def record_durable(self, entries: Iterable[tuple[str, str, str | None, DurableSegment]]) -> None:
        """Record synced segments: `(model id, rel, ETag, segment)`. A segment that grew replaces those inside it."""
        grown = list(entries)

        def work(db: Database) -> None:
            for model_id, rel, etag, segment in grown:
                db.conn.execute("UPDATE files SET etag = ? WHERE model = ? AND rel = ?", (etag, model_id, rel))
                db.conn.execute(
                    'INSERT INTO segments (file, start, "end", blake3, gateway)'
                    " SELECT id, ?, ?, ?, ? FROM files WHERE model = ? AND rel = ?"
                    ' ON CONFLICT (file, start) DO UPDATE SET "end" = excluded."end", blake3 = excluded.blake3,'
                    " gateway = excluded.gateway"
                    ' WHERE excluded."end" >= segments."end"',
                    (segment.start, segment.end, segment.blake3, segment.gateway, model_id, rel),
                )
                db.conn.execute(
                    "DELETE FROM segments WHERE file = (SELECT id FROM files WHERE model = ? AND rel = ?)"
                    ' AND start > ? AND "end" <= ?',
                    (model_id, rel, segment.start, segment.end),
                )

        self.write(work)

    def discard_segments(self, model_id: str, rel: str, damaged: Iterable[DurableSegment]) -> None:
        """Delete these segments of a file: their bytes on disk differ from the received ones."""
        starts = [part.start for part in damaged]

        def work(db: Database) -> None:
            db.conn.executemany(
                "DELETE FROM segments WHERE start = ? AND file = (SELECT id FROM files WHERE model = ? AND rel = ?)",
                ((start, model_id, rel) for start in starts),
            )

        self.write(work)

    def discard_file(self, model_id: str, rel: str) -> None:
        """Delete all segments of a file: its object changed, or its partial download disappeared."""

        def work(db: Database) -> None:
            db.conn.execute(
                "DELETE FROM segments WHERE file = (SELECT id FROM files WHERE model = ? AND rel = ?)", (model_id, rel)
            )
            db.conn.execute("UPDATE files SET etag = NULL WHERE model = ? AND rel = ?", (model_id, rel))

        self.write(work)


def insert_files(db: Database, model_id: str, files: Iterable[ModelFile]) -> None:
    for file in files:
        cursor = db.conn.execute(
            "INSERT INTO files (model, rel, size, etag) VALUES (?,?,?,?)", (model_id, file.rel, file.size, file.etag)
        )
        db.conn.executemany(
            'INSERT INTO segments (file, start, "end", blake3) VALUES (?,?,?,?)',
            ((cursor.lastrowid, part.start, part.end, part.blake3) for part in file.segments),
        )
