"""Writes about `current`: where it leads, and the versions on trial."""

from sqlite_utils import Database

from axomsync.ledger.facts import CURRENTS_UNKNOWN
from axomsync.ledger.states import Moves


class PromotionWrites(Moves):
    """Writes about `current`. `folder` is the folder of a name."""

    def record_current(self, folder: str, model_id: str, *, told: bool, trial: bool, guarded: bool) -> None:
        """Record that `current` leads to another model; `told`: hooks hear of it; `trial`: it has to stay healthy.

        The model that led before is the one to go back to. Any other trial of the name is over.
        """

        def work(db: Database) -> None:
            now = self._now()
            known = db.conn.execute("SELECT model FROM currents WHERE folder = ?", (folder,)).fetchone()
            db.conn.execute("DELETE FROM trials WHERE folder = ?", (folder,))
            if trial:
                db.conn.execute(
                    "INSERT INTO trials (folder, model, previous, began_at) VALUES (?,?,?,?)",
                    (folder, model_id, known and known[0], now),
                )
            self._set_current(db, folder, model_id, told=told, guarded=guarded)

        self.write(work)

    def forget_current(self, folder: str) -> None:
        """Forget a name that is no longer there."""

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM currents WHERE folder = ?", (folder,))
            db.conn.execute("DELETE FROM trials WHERE folder = ?", (folder,))

        self.write(work)

    def currents_are_known(self, *, guarded: bool) -> None:
        """Record that each `current` was read; `guarded`: from now on retention keeps what leads until a trial begins."""

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM facts WHERE name = ?", (CURRENTS_UNKNOWN,))
            db.conn.execute("UPDATE currents SET guarded = ?", (int(guarded),))

        self.write(work)

    def plan_check(self, folder: str, model_id: str, ends_at: float, next_check: float, reason: str | None) -> None:
        """Record a check that decides nothing yet, with what it said, and the time of the next one."""
        sql = (
            "UPDATE trials SET ends_at = ?, next_check = ?, reason = ?, checks = checks + 1"
            " WHERE folder = ? AND model = ? AND verdict IS NULL"
        )
        self.execute(sql, ends_at, next_check, reason, folder, model_id).result()

    def judge_trial(self, folder: str, model_id: str, verdict: str, reason: str | None) -> None:
        """Record the end of a trial, or what was done about its failure."""
        sql = "UPDATE trials SET verdict = ?, reason = coalesce(?, reason) WHERE folder = ? AND model = ?"
        self.execute(sql, verdict, reason, folder, model_id).result()

    def end_trial(self, folder: str, model_id: str) -> None:
        """Forget a trial: the version is healthy, or it no longer matters."""
        self.execute("DELETE FROM trials WHERE folder = ? AND model = ?", folder, model_id).result()

    def record_way_back(self, folder: str, model_id: str, back: str, *, guarded: bool) -> None:
        """Record that `current` went back from a model that failed its trial."""

        def work(db: Database) -> None:
            db.conn.execute("UPDATE trials SET verdict = 'back' WHERE folder = ? AND model = ?", (folder, model_id))
            self._set_current(db, folder, back, told=True, guarded=guarded)

        self.write(work)

    def _set_current(self, db: Database, folder: str, model_id: str, *, told: bool, guarded: bool) -> None:
        now = self._now()
        db.conn.execute("INSERT OR REPLACE INTO currents VALUES (?,?,?,?)", (folder, model_id, now, int(guarded)))
        if told:
            self._tell(db, "current_moved", model_id)
