"""The ledger's tables, as migrations: one function for each change, applied in order, never edited after a release.

Failures handled: a schema that is newer than this program (`NewerLedger`), unknown names of migrations (`Misfit`).
"""

import re
from pathlib import Path

from sqlite_utils import Database, Migrations

from axomsync import __version__
from axomsync.core.errors import NewerLedger
from axomsync.ledger.digests import digest_in_ledger
from axomsync.ledger.rows import Misfit

migrations = Migrations("axomsync")


@migrations()
def m001_first_schema(db: Database) -> None:
    """Uploads, models, their files and segments, transfers in flight, and the facts of the running agent."""
    _execute_all(db, _FIRST_SCHEMA)


@migrations()
def m002_shards(db: Database) -> None:
    """Shards: large files that are uploaded as several objects."""
    _execute_all(db, _SHARDS)


@migrations()
def m003_what_storage_may_keep(db: Database) -> None:
    """A digest for each shard; orphans."""
    _execute_all(db, _ORPHANS)


@migrations()
def m004_retention_and_hooks(db: Database) -> None:
    """Columns of models for retention and verification; events for hooks, recorded with the transition itself."""
    _execute_all(db, _RETENTION + _EVENTS)


@migrations()
def m005_requests(db: Database) -> None:
    """Requests of other processes to the agent."""
    _execute_all(db, _REQUESTS)


@migrations()
def m006_history(db: Database) -> None:
    """History of the latest events, for people."""
    _execute_all(db, _HISTORY)


@migrations()
def m007_repeated_lines(db: Database) -> None:
    """Lines of a dataset that repeat others."""
    _execute_all(db, _REPEATED)


@migrations()
def m008_left_out(db: Database) -> None:
    """Files of published models that `[mirror] files` did not select."""
    _execute_all(db, _LEFT_OUT)


@migrations()
def m009_rejected(db: Database) -> None:
    """Index of the files that were set aside."""
    _execute_all(db, _REJECTED)


@migrations()
def m011_receipts(db: Database) -> None:
    """Known receipts of the archive: a restored ledger has fewer, and the others are read again."""
    _execute_all(db, _RECEIPTS)


@migrations()
def m013_remarks(db: Database) -> None:
    """Remarks on the files of published models."""
    _execute_all(db, _REMARKS)


@migrations()
def m014_proofs(db: Database) -> None:
    """Proofs of the files of published models."""
    _execute_all(db, _PROOFS)


@migrations()
def m015_doubtful(db: Database) -> None:
    """Doubtful uploads: only an answer's status says that storage has the bytes; the ETag speaks against it."""
    _execute_all(db, _DOUBTFUL)


@migrations()
def m016_blake3(db: Database) -> None:
    """A second digest for files that are uploaded whole: comparing the sent bytes with it costs a quarter of SHA-256."""
    _execute_all(db, "ALTER TABLE uploads ADD COLUMN blake3 TEXT")


@migrations()
def m017_shape(db: Database) -> None:
    """The shape of datasets, as a trainer would see it."""
    _execute_all(db, _SHAPE)


@migrations()
def m018_removed(db: Database) -> None:
    """Events for published models that retention removed, with the folder that they had."""
    _execute_all(db, _REMOVED)


@migrations()
def m019_unpacked(db: Database) -> None:
    """Compressed files: the bytes that they hold, and their own digest."""
    _execute_all(db, _UNPACKED)


@migrations()
def m021_promotion(db: Database) -> None:
    """Where `current` of each name leads, so that each move is told; versions on trial."""
    _execute_all(db, _PROMOTION)


@migrations()
def m022_gateways(db: Database) -> None:
    """Gateways that bytes came through."""
    _execute_all(db, _GATEWAYS)


@migrations()
def m024_digest(db: Database) -> None:
    """One digest for all bytes of a published model."""
    _execute_all(db, "ALTER TABLE models ADD COLUMN digest TEXT")
    for (model,) in db.execute("SELECT id FROM models WHERE state = 'published'").fetchall():
        db.execute("UPDATE models SET digest = ? WHERE id = ?", [digest_in_ledger(db, model), model])


def _execute_all(db: Database, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            db.execute(statement)


_FIRST_SCHEMA = """
CREATE TABLE uploads (
  id INTEGER PRIMARY KEY,
  path BLOB NOT NULL,              -- relative to the drop folder, as the filesystem has it
  filename TEXT NOT NULL,
  dev INTEGER NOT NULL, ino INTEGER NOT NULL, bytes INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  sha256 TEXT, md5 TEXT, lines INTEGER,
  state TEXT NOT NULL, reason TEXT,
  upload_id TEXT, key TEXT, etag TEXT,
  duplicate_of INTEGER REFERENCES uploads(id),
  in_drop INTEGER NOT NULL DEFAULT 1,  -- 1 while the file lies where it was dropped
  attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL,
  created_at REAL NOT NULL, updated_at REAL NOT NULL
) STRICT;
CREATE UNIQUE INDEX uploads_in_drop ON uploads(path) WHERE in_drop;
CREATE INDEX uploads_content ON uploads(sha256, filename) WHERE state = 'uploaded';
CREATE TABLE signed_urls (          -- secrets: only until the PUT is confirmed, never exported
  upload INTEGER PRIMARY KEY REFERENCES uploads(id) ON DELETE CASCADE,
  url TEXT NOT NULL, expires_at REAL
) STRICT;
CREATE TABLE models (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL, version TEXT NOT NULL, params INTEGER, base_model_id TEXT,
  remote_status TEXT NOT NULL, created_at TEXT,
  state TEXT NOT NULL, reason TEXT, path TEXT,
  bytes_total INTEGER,
  attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL,
  first_seen REAL NOT NULL, updated_at REAL NOT NULL
) STRICT;
CREATE TABLE files (
  id INTEGER PRIMARY KEY,
  model TEXT NOT NULL REFERENCES models(id) ON DELETE CASCADE,
  rel TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT,
  UNIQUE (model, rel)
) STRICT;
CREATE TABLE segments (             -- bytes that are on disk for good
  file INTEGER NOT NULL REFERENCES files(id) ON DELETE CASCADE,
  start INTEGER NOT NULL, "end" INTEGER NOT NULL, blake3 TEXT NOT NULL,
  PRIMARY KEY (file, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE transfers (
  direction TEXT NOT NULL, name TEXT NOT NULL,
  bytes_done INTEGER NOT NULL, bytes_received INTEGER NOT NULL, bytes_total INTEGER NOT NULL,
  rate REAL NOT NULL, eta REAL,
  PRIMARY KEY (direction, name)
) STRICT;
CREATE TABLE problems (             -- what keeps the agent from its work; those of single items are in their rows
  subject TEXT PRIMARY KEY, reason TEXT NOT NULL, since REAL NOT NULL, next_attempt REAL
) STRICT;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) STRICT;
"""

_SHARDS = """
CREATE TABLE shards (               -- ranges of a file that are uploaded as objects of their own
  upload INTEGER NOT NULL REFERENCES uploads(id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  filename TEXT NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
  upload_id TEXT, key TEXT, etag TEXT, uploaded INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (upload, number)
) STRICT;
CREATE TABLE signed_shard_urls (    -- secrets, as signed_urls
  upload INTEGER NOT NULL, number INTEGER NOT NULL, url TEXT NOT NULL, expires_at REAL,
  PRIMARY KEY (upload, number),
  FOREIGN KEY (upload, number) REFERENCES shards(upload, number) ON DELETE CASCADE
) STRICT;
"""

_ORPHANS = """
ALTER TABLE shards ADD COLUMN blake3 TEXT;
CREATE TABLE orphans (              -- objects that storage has or may have although their key was given to nobody
  upload INTEGER NOT NULL,          -- whose row may be gone
  upload_id TEXT NOT NULL, key TEXT NOT NULL, created_at REAL NOT NULL,
  PRIMARY KEY (upload, key)
) STRICT;
"""

_RETENTION = """
ALTER TABLE models ADD COLUMN pulled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN absent_polls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN absent_since REAL;
ALTER TABLE models ADD COLUMN damage TEXT;
ALTER TABLE models ADD COLUMN verified_at REAL;
"""

# A model that is blocked repeatedly, for example by a full disk, has failed once until it is published.
_EVENTS = """
CREATE TABLE events (               -- what hooks are run for; kept a while with what the hook said
  id INTEGER PRIMARY KEY,
  kind TEXT NOT NULL, "table" TEXT NOT NULL, subject TEXT NOT NULL, at REAL NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL,
  done INTEGER NOT NULL DEFAULT 0, output TEXT
) STRICT;
CREATE INDEX events_due ON events(next_attempt) WHERE NOT done;
CREATE INDEX events_of ON events("table", subject);
CREATE TRIGGER model_published AFTER UPDATE OF state ON models
  WHEN new.state = 'published' AND old.state <> 'published' BEGIN
  DELETE FROM events WHERE kind = 'failed' AND "table" = 'models' AND subject = new.id AND done;  -- it may fail anew
  INSERT INTO events (kind, "table", subject, at) VALUES ('model_published', 'models', new.id, new.updated_at); END;
CREATE TRIGGER model_failed AFTER UPDATE OF state ON models
  WHEN new.state IN ('blocked', 'failed') AND old.state <> new.state
  AND NOT EXISTS (SELECT 1 FROM events WHERE kind = 'failed' AND "table" = 'models' AND subject = new.id) BEGIN
  INSERT INTO events (kind, "table", subject, at) VALUES ('failed', 'models', new.id, new.updated_at); END;
CREATE TRIGGER upload_done AFTER UPDATE OF state ON uploads
  WHEN new.state = 'uploaded' AND old.state <> 'uploaded' BEGIN
  INSERT INTO events (kind, "table", subject, at) VALUES ('upload_done', 'uploads', new.id, new.updated_at); END;
CREATE TRIGGER upload_failed AFTER UPDATE OF state ON uploads
  WHEN new.state IN ('failed', 'rejected', 'held') AND old.state <> new.state BEGIN
  INSERT INTO events (kind, "table", subject, at) VALUES ('failed', 'uploads', new.id, new.updated_at); END;
"""

_REMOVED = """
ALTER TABLE events ADD COLUMN path TEXT;
CREATE TRIGGER model_removed AFTER UPDATE OF state ON models
  WHEN new.state = 'pruned' AND old.state = 'published' BEGIN
  INSERT INTO events (kind, "table", subject, at, path)
    VALUES ('model_removed', 'models', new.id, new.updated_at, old.path); END;
"""

_REQUESTS = """
CREATE TABLE requests (             -- written by other processes, see agent/requests.py
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  verb TEXT NOT NULL, argument TEXT, parameters TEXT NOT NULL,
  asked_at REAL NOT NULL, begun_at REAL, ended_at REAL,
  outcome TEXT                      -- JSON: answer, error, exit_code
) STRICT;
CREATE INDEX new_requests ON requests(id) WHERE begun_at IS NULL;
"""

_HISTORY = """
CREATE TABLE history (              -- the last transitions worth telling
  id INTEGER PRIMARY KEY,
  at REAL NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL, reason TEXT
) STRICT;
CREATE INDEX history_of ON history(kind, subject, id);
"""

# JSON of records.RepeatedLines.
_REPEATED = "ALTER TABLE uploads ADD COLUMN repeated_lines TEXT"

# JSON of records.Shape.
_SHAPE = "ALTER TABLE uploads ADD COLUMN shape TEXT"

_UNPACKED = """
ALTER TABLE uploads ADD COLUMN unpacked INTEGER;
ALTER TABLE uploads ADD COLUMN packed_sha256 TEXT;
"""

# A JSON list of lines.
_REMARKS = "ALTER TABLE models ADD COLUMN remarks TEXT"

_DOUBTFUL = "ALTER TABLE uploads ADD COLUMN doubtful INTEGER NOT NULL DEFAULT 0"

# A JSON object: by the word for a proof, the number of files that have it.
_PROOFS = "ALTER TABLE models ADD COLUMN proofs TEXT"

# A JSON list of their paths.
_LEFT_OUT = "ALTER TABLE models ADD COLUMN left_out TEXT"

_REJECTED = "CREATE INDEX uploads_rejected ON uploads(id) WHERE state = 'rejected' AND NOT in_drop"

_RECEIPTS = """
CREATE TABLE receipts (
  path BLOB PRIMARY KEY,            -- below the drop folder
  mark TEXT NOT NULL                -- by which one that was replaced is told from the one that is known
) STRICT, WITHOUT ROWID;
DELETE FROM facts WHERE name = 'receipts_read';
"""


# Moves that an older version made are not told: `currents_unknown` stays until the links were read for the first time.
_PROMOTION = """
CREATE TABLE currents (             -- what `current` of a name was last seen to lead to
  folder TEXT PRIMARY KEY,          -- of the name
  model TEXT NOT NULL, at REAL NOT NULL,
  guarded INTEGER NOT NULL          -- 1 while retention keeps the model until its successor is on trial
) STRICT;
CREATE TABLE trials (               -- versions that have to stay healthy, until another one leads
  folder TEXT PRIMARY KEY,
  model TEXT NOT NULL, previous TEXT,
  began_at REAL NOT NULL,
  ends_at REAL, next_check REAL,    -- NULL before the first check
  checks INTEGER NOT NULL DEFAULT 0,
  verdict TEXT,                     -- NULL while it runs; then failed, and when that has been acted upon, back or stays
  reason TEXT                       -- what the last check said
) STRICT;
INSERT INTO facts SELECT 'currents_unknown', '1' WHERE EXISTS (SELECT 1 FROM models WHERE state = 'published');
"""

# The gateway of a segment is known until the model is published: then its bytes are added to those of the model.
_GATEWAYS = """
ALTER TABLE segments ADD COLUMN gateway TEXT;
ALTER TABLE models ADD COLUMN gateway_bytes INTEGER NOT NULL DEFAULT 0;
CREATE INDEX segments_of_gateways ON segments(file) WHERE gateway IS NOT NULL;
"""


def newest_migration() -> str:
    """Return the name of the newest schema that this program knows."""
    return max(str(migration.name) for migration in migrations.pending(Database(memory=True)))


def refuse_newer(db: Database, path: Path) -> None:
    known = {migration.name for migration in migrations.pending(Database(memory=True))}
    unknown = [str(applied.name) for applied in migrations.applied(db) if applied.name not in known]
    if any(not re.fullmatch(r"m\d{3}(_[a-z0-9_]+)?", name) for name in unknown):
        raise Misfit("a migration")
    if unknown:
        row = db.execute("SELECT value FROM facts WHERE name = 'version'").fetchone()
        writer = row[0] if row else "an unknown version"
        raise NewerLedger(
            f"{path}: written by a newer axomsync: by {writer}, and this is {__version__}, which "
            f"does not know {', '.join(unknown)}; install that version again, or restore a ledger from before the upgrade"
        )
