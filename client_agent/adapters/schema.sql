-- The device's memory. One row per node in each of the three trees; observations, never work.
-- 64-bit unsigned numbers (inodes) are stored as signed ones of the same bits.

CREATE TABLE facts (
    name  TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

CREATE TABLE local (
    node BLOB PRIMARY KEY, parent BLOB NOT NULL, name TEXT NOT NULL, type INTEGER NOT NULL,
    inode INTEGER NOT NULL, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL, executable INTEGER NOT NULL,
    content_id BLOB NOT NULL, target TEXT NOT NULL, hlc INTEGER NOT NULL, racy INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE remote (
    node BLOB PRIMARY KEY, parent BLOB NOT NULL, name TEXT NOT NULL, type INTEGER NOT NULL,
    place_rev INTEGER NOT NULL, alive INTEGER NOT NULL, version BLOB NOT NULL,
    content_id BLOB NOT NULL, vector BLOB NOT NULL, size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, executable INTEGER NOT NULL, target TEXT NOT NULL,
    fault TEXT NOT NULL, device BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE synced (
    node BLOB PRIMARY KEY, parent BLOB NOT NULL, name TEXT NOT NULL, type INTEGER NOT NULL,
    content_id BLOB NOT NULL, version BLOB NOT NULL, vector BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE conflicts (
    loser BLOB PRIMARY KEY, node BLOB NOT NULL, head BLOB NOT NULL, copy BLOB NOT NULL,
    seq INTEGER NOT NULL, at_ms INTEGER NOT NULL, ours INTEGER NOT NULL,
    loser_device BLOB NOT NULL, head_device BLOB NOT NULL, copied INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The plan written down; derived again whenever it is lost.
CREATE TABLE queue (
    node BLOB PRIMARY KEY, step TEXT NOT NULL, path TEXT NOT NULL, priority INTEGER NOT NULL,
    attempts INTEGER NOT NULL, not_before_ms INTEGER NOT NULL, fault TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Commits sent, not yet known to be answered: resent byte for byte.
CREATE TABLE pending (
    op INTEGER PRIMARY KEY, header BLOB NOT NULL, signature BLOB NOT NULL, changes BLOB NOT NULL,
    upload BLOB
) STRICT;

-- Manifests in the clear (msgpack), by version: downloads, copies and adoption need no fetch.
CREATE TABLE contents (
    version BLOB PRIMARY KEY, node BLOB NOT NULL, content_id BLOB NOT NULL,
    manifest BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX contents_by_node ON contents (node);

-- Chunks that the space holds, by the keyed id of their plaintext: never sealed or sent again.
CREATE TABLE chunks (
    pid BLOB PRIMARY KEY, address BLOB NOT NULL, key_epoch INTEGER NOT NULL,
    length INTEGER NOT NULL, sealed_bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE history (
    id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, verb TEXT NOT NULL, path TEXT NOT NULL,
    node BLOB NOT NULL, detail TEXT NOT NULL
) STRICT;

PRAGMA user_version = 1;
