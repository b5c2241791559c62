BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'axomsync','m001_first_schema','2027-01-01 00:00:00.000000+00:00');
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) STRICT;
INSERT INTO "facts" VALUES('identity','0123456789ab');
INSERT INTO "facts" VALUES('started_at','2027-01-15T08:00:00+00:00');
INSERT INTO "facts" VALUES('version','0.1.0');
INSERT INTO "facts" VALUES('lanes','8');
INSERT INTO "facts" VALUES('last_poll','1800000000.25');
CREATE TABLE files (
  id INTEGER PRIMARY KEY,
  model TEXT NOT NULL REFERENCES models(id) ON DELETE CASCADE,
  rel TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT,
  UNIQUE (model, rel)
) STRICT;
INSERT INTO "files" VALUES(1,'m-1','model.safetensors',1000,'"e1"');
INSERT INTO "files" VALUES(2,'m-1','config.json',10,'"e2"');
CREATE TABLE models (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL, version TEXT NOT NULL, params INTEGER, base_model_id TEXT,
  remote_status TEXT NOT NULL, created_at TEXT,
  state TEXT NOT NULL, reason TEXT, path TEXT,
  bytes_total INTEGER,
  attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL,
  first_seen REAL NOT NULL, updated_at REAL NOT NULL
) STRICT;
INSERT INTO "models" VALUES('m-1','llama','v1',7000000000,'base','ready','2027-01-01T00:00:00Z','downloading',NULL,NULL,1010,0,NULL,1800000000.25,1800000000.25);
INSERT INTO "models" VALUES('m-2','llama','v2',NULL,NULL,'training',NULL,'waiting','the console says ''training''',NULL,NULL,0,NULL,1800000000.25,1800000000.25);
INSERT INTO "models" VALUES('m-3','done','v1',NULL,NULL,'ready','2027-01-02T00:00:00Z','published',NULL,'/srv/axom/models/done/v1',NULL,0,NULL,1800000000.25,1800000000.25);
CREATE TABLE problems (             -- what keeps the agent from its work; those of single items are in their rows
  subject TEXT PRIMARY KEY, reason TEXT NOT NULL, since REAL NOT NULL, next_attempt REAL
) STRICT;
INSERT INTO "problems" VALUES('console','can''t connect',1800000000.25,1800000030.0);
CREATE TABLE segments (             -- bytes that are on disk for good
  file INTEGER NOT NULL REFERENCES files(id) ON DELETE CASCADE,
  start INTEGER NOT NULL, "end" INTEGER NOT NULL, blake3 TEXT NOT NULL,
  PRIMARY KEY (file, start)
) STRICT, WITHOUT ROWID;
INSERT INTO "segments" VALUES(1,0,600,'1111111111111111111111111111111111111111111111111111111111111111');
INSERT INTO "segments" VALUES(2,0,10,'2222222222222222222222222222222222222222222222222222222222222222');
CREATE TABLE signed_urls (          -- secrets: only until the PUT is confirmed, never exported
  upload INTEGER PRIMARY KEY REFERENCES uploads(id) ON DELETE CASCADE,
  url TEXT NOT NULL, expires_at REAL
) STRICT;
INSERT INTO "signed_urls" VALUES(4,'https://storage.example/bucket/going?X-Amz-Signature=0',NULL);
CREATE TABLE transfers (
  direction TEXT NOT NULL, name TEXT NOT NULL,
  bytes_done INTEGER NOT NULL, bytes_received INTEGER NOT NULL, bytes_total INTEGER NOT NULL,
  rate REAL NOT NULL, eta REAL,
  PRIMARY KEY (direction, name)
) STRICT;
INSERT INTO "transfers" VALUES('down','llama/v1',610,700,1010,5.5,60.0);
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
INSERT INTO "uploads" VALUES(1,X'612E6A736F6E6C','a.jsonl',2049,-5,12,1800000000000000001,1800000000000000002,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',1,'uploaded',NULL,'up-1','tmp/up-1/a.jsonl','"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"',NULL,0,0,NULL,1800000000.25,1800000000.25);
INSERT INTO "uploads" VALUES(2,X'7375622F636166E92E6A736F6E6C','caf%E9.jsonl',2049,18,12,3,4,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',1,'duplicate','the same content','up-1','tmp/up-1/a.jsonl',NULL,1,1,0,NULL,1800000000.25,1800000000.25);
INSERT INTO "uploads" VALUES(3,X'62726F6B656E2E6A736F6E6C','broken.jsonl',2049,19,5,5,6,NULL,NULL,NULL,'rejected','line 1: no JSON',NULL,NULL,NULL,NULL,1,0,NULL,1800000000.25,1800000000.25);
INSERT INTO "uploads" VALUES(4,X'676F696E672E6A736F6E6C','going.jsonl',2049,20,7,7,8,'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc','dddddddddddddddddddddddddddddddd',1,'uploading',NULL,'up-4','tmp/up-4/going.jsonl',NULL,NULL,1,0,NULL,1800000000.25,1800000000.25);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
CREATE UNIQUE INDEX uploads_in_drop ON uploads(path) WHERE in_drop;
CREATE INDEX uploads_content ON uploads(sha256, filename) WHERE state = 'uploaded';
COMMIT;
