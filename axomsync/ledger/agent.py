"""Writes of the agent about itself (transfers, problems, facts, history), of events for hooks, of requests to the agent."""

from collections.abc import Iterable

from sqlite_utils import Database

from axomsync.core.records import Problem, Transfer
from axomsync.ledger.committer import Write
from axomsync.ledger.states import Moves


class AgentWrites(Moves):
    """Writes of everything but uploads and models."""

    # Events for hooks

    def record_hook(self, event: int, output: str, next_attempt: float | None) -> None:
        """Record that a hook ran for an event, with its `output`; the event is done unless there is a `next_attempt`."""
        sql = "UPDATE events SET attempts = attempts + 1, output = ?, next_attempt = ?, done = ? WHERE id = ?"
        self.execute(sql, output, next_attempt, int(next_attempt is None), event).result()

    def drop_events(self, kinds: Iterable[str], done_before: float) -> None:
        """Mark events of these kinds as done; delete those done before that time, except lasting failures."""
        unwanted = list(kinds)

        def work(db: Database) -> None:
            for kind in unwanted:
                db.conn.execute("UPDATE events SET done = 1 WHERE kind = ? AND NOT done", (kind,))
            db.conn.execute(
                "DELETE FROM events WHERE done AND at < ? AND NOT (kind = 'failed' AND \"table\" = 'models')", (done_before,)
            )

        self.write(work)

    # Requests of other processes

    def begin_request(self, request: int) -> bool:
        """Mark the request as started; False when its caller has taken it back."""
        sql, values = "UPDATE requests SET begun_at = ? WHERE id = ? AND begun_at IS NULL", (self._now(), request)
        return self.write(lambda db: db.conn.execute(sql, values).rowcount > 0)

    def end_request(self, request: int, outcome: str) -> None:
        """Mark the request as ended; the waiting command reads the outcome."""
        sql = "UPDATE requests SET outcome = ?, ended_at = ? WHERE id = ?"
        self.execute(sql, outcome, self._now(), request).result()

    def set_request_back(self, request: int) -> None:
        """Mark the request as not started: the agent stops, and the next one starts it again."""
        self.execute("UPDATE requests SET begun_at = NULL WHERE id = ?", request).result()

    def recover_requests(self, outcome: str, kept: float) -> None:
        """Give `outcome` to requests that a crash interrupted; delete those that ended more than `kept` seconds ago."""

        def work(db: Database) -> None:
            now = self._now()
            ended = "UPDATE requests SET outcome = ?, ended_at = ? WHERE begun_at IS NOT NULL AND ended_at IS NULL"
            db.conn.execute(ended, (outcome, now))
            db.conn.execute("DELETE FROM requests WHERE ended_at < ?", (now - kept,))

        self.write(work)

    # The agent about itself

    def show_transfers(self, transfers: Iterable[Transfer]) -> None:
        """Replace the transfers that other processes see."""
        rows = list(transfers)

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM transfers")
            for t in rows:
                db.conn.execute(
                    "INSERT OR REPLACE INTO transfers VALUES (?,?,?,?,?,?,?)",
                    (t.direction, t.name, t.bytes_done, t.bytes_received, t.bytes_total, t.rate, t.eta),
                )

        self.write(work)

    def set_facts(self, **facts: str | None) -> None:
        """Set named values of the agent that `status` shows, such as the time of the last poll."""

        def work(db: Database) -> None:
            for name, value in facts.items():
                db.conn.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

        self.write(work)
        self.facts_set.update(facts)

    def show_problems(self, problems: Iterable[Problem], over: Problem) -> Write[None]:
        """Replace the problems that other processes see; the problem that is `over` is added to the history."""
        rows = list(problems)

        def work(db: Database) -> None:
            db.conn.execute("DELETE FROM problems")
            for p in rows:
                db.conn.execute("INSERT INTO problems VALUES (?,?,?,?)", (p.subject, p.reason, p.since, p.next_attempt))
            self._add_history(db, "problem", over.subject, "began", over.reason)
            self._add_history(db, "problem", over.subject, "over", None)

        return self.submit(work)

    def show_problem(self, subject: str, reason: str, next_attempt: float | None) -> Write[None]:
        """Add a problem or change its reason; it keeps its start time."""

        def work(db: Database) -> None:
            known = db.conn.execute("SELECT 1 FROM problems WHERE subject = ?", (subject,)).fetchone()
            db.conn.execute(
                "INSERT INTO problems VALUES (?, ?, ?, ?) ON CONFLICT (subject) DO UPDATE"
                " SET reason = excluded.reason, next_attempt = excluded.next_attempt",
                (subject, reason, self._now(), next_attempt),
            )
            if known is None:
                self._add_history(db, "problem", subject, "began", reason)

        return self.submit(work)

    def clear_problem(self, subject: str) -> Write[None]:
        """Delete a problem."""

        def work(db: Database) -> None:
            if db.conn.execute("DELETE FROM problems WHERE subject = ?", (subject,)).rowcount:
                self._add_history(db, "problem", subject, "over", None)

        return self.submit(work)

    def add_history(self, kind: str, subject: str, state: str, reason: str | None = None) -> None:
        """Add a line to the history."""
        self.write(lambda db: self._add_history(db, kind, subject, state, reason))
