"""Reads of models, and of their files with the durable segments."""

from collections.abc import Iterable

from axomsync.core.errors import Forgotten
from axomsync.core.records import DurableSegment, Model, ModelFile, ModelState
from axomsync.core.text import printable
from axomsync.ledger.queries import Queries
from axomsync.ledger.rows import Row, fitting, to_model

# Segments may overlap, where the rest of a straggler was fetched twice. Few came through gateways and are not published yet:
# SQLite must begin with them, and would begin with all files.
_MODELS = (
    "SELECT m.*, (SELECT coalesce(sum(min(f.size,"
    ' (SELECT coalesce(sum(s."end" - s.start), 0) FROM segments s WHERE s.file = f.id))), 0)'
    " FROM files f WHERE f.model = m.id) AS bytes_done,"
    " m.gateway_bytes + coalesce(g.bytes, 0) AS bytes_from_gateways FROM models m LEFT JOIN ("
    'SELECT f.model AS model, sum(s."end" - s.start) AS bytes FROM segments s INDEXED BY segments_of_gateways'
    " CROSS JOIN files f ON f.id = s.file WHERE s.gateway IS NOT NULL GROUP BY f.model) g ON g.model = m.id"
)


class ModelQueries(Queries):
    """Reads of models."""

    def models(self, *states: ModelState) -> list[Model]:
        """Every model ever listed, or those in one of `states`; newest first."""
        among = _among(states) if states else ""
        return self._rows(f"{_MODELS} {among} ORDER BY made_at(created_at) DESC, id DESC", make=to_model)

    def latest_models(self, most: int) -> list[Model]:
        """At most `most` of the newest models, and `most` of the unfinished ones; newest first."""
        states = "('queued', 'downloading', 'verifying', 'blocked', 'failed')"
        undone = f"SELECT id FROM models WHERE state IN {states} LIMIT ?"  # noqa: S608
        latest = "SELECT id FROM models ORDER BY made_at(created_at) DESC, id DESC LIMIT ?"
        sql = f"{_MODELS} WHERE m.id IN ({undone}) OR m.id IN ({latest}) ORDER BY made_at(created_at) DESC, id DESC"
        return self._rows(sql, (most, most), make=to_model)

    def models_due(self, states: Iterable[ModelState], now: float) -> list[Model]:
        """Models in one of `states` whose next attempt is due, oldest first."""
        sql = f"{_MODELS} {_among(states)} AND coalesce(next_attempt, 0) <= ? ORDER BY made_at(created_at), id"
        return self._rows(sql, (now,), make=to_model)

    def model(self, model_id: str) -> Model:
        """One model by its id. Raises `Forgotten`."""
        for row in self._rows(f"{_MODELS} WHERE m.id = ?", (model_id,), make=to_model):
            return row
        raise Forgotten(f"model {printable(model_id)}")

    def model_counts(self) -> dict[str, int]:
        """Number of models in each state, zero included."""
        return self._counts("models", ModelState)

    def files(self, model_id: str) -> list[ModelFile]:
        """The files of a model with their durable segments, by path."""
        segments: dict[int, list[DurableSegment]] = {}
        query = 'SELECT s.file, s.start, s."end", s.blake3, s.gateway FROM segments s JOIN files f ON f.id = s.file'
        for file, segment in self._rows(f"{query} WHERE f.model = ? ORDER BY s.start", (model_id,), make=_segment):
            segments.setdefault(file, []).append(segment)

        def with_segments(row: Row) -> ModelFile:
            own = tuple(segments.get(row["id"], ()))
            return fitting(ModelFile, rel=row["rel"], size=row["size"], etag=row["etag"], segments=own)

        return self._rows("SELECT * FROM files WHERE model = ? ORDER BY rel", (model_id,), make=with_segments)


def _segment(row: Row) -> tuple[int, DurableSegment]:
    names = ("start", "end", "blake3", "gateway")
    return row["file"], fitting(DurableSegment, **{name: row[name] for name in names})


def _among(states: Iterable[ModelState]) -> str:
    return "WHERE state IN ({})".format(", ".join(f"'{state}'" for state in states))
