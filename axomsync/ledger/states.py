"""Transitions of uploads and models between states, with their lines in the history.

Failures handled: an illegal transition (`IllegalTransition`, nothing is changed), a row that a person had struck meanwhile
(`Forgotten`), a repeated setback (recorded once).
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from axomsync.core.errors import Forgotten
from axomsync.core.policy import same_but_for_numbers
from axomsync.core.records import ModelState, UploadState
from axomsync.core.states import ENDS, SETBACKS, IllegalTransition, is_legal
from axomsync.core.text import printable
from axomsync.ledger.committer import Committer
from axomsync.ledger.rows import known_state

HISTORY_MOST = 500
_SUCCESSES: Mapping[str, str] = {UploadState.UPLOADED: "last_success_up", ModelState.PUBLISHED: "last_success_down"}
_LABELS = {"uploads": "path", "models": "name || '/' || version"}


class Moves(Committer):
    """Writes of states; `now` is the wall clock."""

    def __init__(self, path: Path, now: Callable[[], float], patience: float) -> None:
        super().__init__(path, patience)
        self._now = now
        self.transitions: Counter[tuple[str, str]] = Counter()  # since the start, by table and new state
        self.facts_set: set[str] = set()  # since the start; for those who may not wait for the file

    def _move(self, db: Database, table: str, row_id: int | str, state: str, changes: Mapping[str, Any]) -> None:
        row = db.conn.execute(
            f"SELECT state, attempts, {_LABELS[table]} FROM {table} WHERE id = ?",  # noqa: S608  # own names
            (row_id,),
        ).fetchone()
        if row is None:
            raise Forgotten(f"{table.removesuffix('s')} {printable(str(row_id))}")
        if row[0] != state and not is_legal(table, known_state(table, row[0]), state):
            raise IllegalTransition(f"{table} {row_id} can't go from {row[0]} to {state}; this is a bug in axomsync")
        columns = {**changes, "state": str(state), "updated_at": self._now()}
        assignments = ", ".join(f"{column} = ?" for column in columns)
        db.conn.execute(f"UPDATE {table} SET {assignments} WHERE id = ?", (*columns.values(), row_id))  # noqa: S608
        if row[0] != state:
            self._note_transition(db, table, row, str(state), changes.get("reason"))

    def _move_all(self, db: Database, table: str, old: str, state: str) -> None:
        """Move every row that is in the state `old`."""
        rows = db.conn.execute(f"SELECT id FROM {table} WHERE state = ?", (old,)).fetchall()  # noqa: S608  # own names
        for (row_id,) in rows:
            self._move(db, table, row_id, state, {})

    def _tell(self, db: Database, kind: str, model_id: str, path: str | None = None) -> None:
        """Add an event of a model for hooks; `path` is the folder that it had, if it is no longer there."""
        sql = "INSERT INTO events (kind, \"table\", subject, at, path) VALUES (?, 'models', ?, ?, ?)"
        db.conn.execute(sql, (kind, model_id, self._now(), path))

    def _note_transition(self, db: Database, table: str, row: tuple[Any, ...], state: str, reason: str | None) -> None:
        _, attempts, label = row
        self.transitions[table, state] += 1
        if fact := _SUCCESSES.get(state):
            db.conn.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (fact, str(self._now())))
        begins = state == ModelState.DOWNLOADING and not attempts
        if begins or state in ENDS or (reason and state in SETBACKS):
            self._add_history(db, table.removesuffix("s"), printable(os.fsdecode(label)), state, reason)

    def _add_history(self, db: Database, kind: str, subject: str, state: str, reason: str | None) -> None:
        """Add a line to the history, unless it repeats the last setback of the subject."""
        last = db.conn.execute(
            "SELECT state, reason FROM history WHERE kind = ? AND subject = ? ORDER BY id DESC LIMIT 1", (kind, subject)
        ).fetchone()
        if reason and last and last[0] == state and same_but_for_numbers(last[1] or "", reason) and state in SETBACKS:
            return
        added = db.conn.execute(
            "INSERT INTO history (at, kind, subject, state, reason) VALUES (?,?,?,?,?)",
            (self._now(), kind, subject, state, reason),
        )
        db.conn.execute("DELETE FROM history WHERE id <= ?", ((added.lastrowid or 0) - HISTORY_MOST,))
