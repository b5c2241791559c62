"""Reads of the ledger, in any process: uploads, models, and the agent's records about itself."""

from functools import partial
from typing import TypeVar

from axomsync.core.records import Current, Event, Happening, Problem, Published, Transfer, Trial
from axomsync.ledger.model_queries import ModelQueries
from axomsync.ledger.rows import Misfit, Row, fitting
from axomsync.ledger.upload_queries import UploadQueries

T = TypeVar("T")


class Reader(UploadQueries, ModelQueries):
    """Reads of everything in the ledger."""

    def events_due(self, now: float) -> list[Event]:
        """Events whose hooks are due, oldest first."""
        sql = 'SELECT id, kind, "table", subject, at, attempts, next_attempt, path FROM events'
        due = f"{sql} WHERE NOT done AND coalesce(next_attempt, 0) <= ? ORDER BY id"
        return self._rows(due, (now,), make=partial(_plain, Event))

    def published(self) -> list[Published]:
        """Published models with their folders, newest first."""
        sql = "SELECT id, name, version, path, created_at, digest FROM models WHERE state = 'published' AND path IS NOT NULL"
        return self._rows(f"{sql} ORDER BY made_at(created_at) DESC, id DESC", make=partial(_plain, Published))

    def currents(self) -> list[Current]:
        """Where `current` of each name was last seen to lead."""
        return self._rows("SELECT folder, model FROM currents", make=partial(_plain, Current))

    def trials(self) -> list[Trial]:
        """Versions on trial, and those that failed and still matter."""
        return self._rows("SELECT * FROM trials ORDER BY began_at", make=partial(_plain, Trial))

    def kept_for_trials(self) -> set[str]:
        """Ids of the models that a trial may have to go back to."""
        sql = "SELECT model FROM currents WHERE guarded UNION SELECT previous FROM trials"
        running = "WHERE previous IS NOT NULL AND (verdict IS NULL OR verdict = 'failed')"
        return {str(row["model"]) for row in self._rows(f"{sql} {running}")}  # own names

    def transfers(self) -> list[Transfer]:
        """Transfers in flight, as last reported by the agent."""
        return self._rows("SELECT * FROM transfers ORDER BY direction, name", make=partial(_plain, Transfer))

    def problems(self) -> list[Problem]:
        """Problems of the agent, oldest first."""
        return self._rows("SELECT * FROM problems ORDER BY since", make=partial(_plain, Problem))

    def new_requests(self) -> list[Row]:
        """Requests that the agent has not started, oldest first."""
        return self._rows("SELECT * FROM requests WHERE begun_at IS NULL ORDER BY id")

    def request(self, request: int) -> Row | None:
        """One request; None if it ended long ago."""
        return next(iter(self._rows("SELECT * FROM requests WHERE id = ?", (request,))), None)

    def history(self, most: int) -> list[Happening]:
        """Latest lines of the history, newest first."""
        columns = "at, kind, subject, state, reason"
        sql = f"SELECT {columns} FROM history ORDER BY id DESC LIMIT ?"  # noqa: S608  # own names
        return self._rows(sql, (most,), make=partial(_plain, Happening))

    def version(self) -> int:
        """A number that changes with every write."""
        return int(self._rows("PRAGMA data_version")[0]["data_version"])

    def facts(self) -> dict[str, str | None]:
        """The agent's facts about itself, by name."""
        return dict(self._rows("SELECT * FROM facts", make=_fact))


def _plain(kind: type[T], row: Row) -> T:
    return fitting(kind, **row)


def _fact(row: Row) -> tuple[str, str | None]:
    if not isinstance(row["name"], str) or not isinstance(row["value"], str | None):
        raise Misfit("facts")
    return row["name"], row["value"]
