"""Schema `metadata`: spaces, nodes, versions, the journal, chunks, uploads, conflicts, mailboxes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piccolo.apps.migrations.auto.migration_manager import MigrationManager

ID = "2026-11-22T13:50:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "metadata"

SPACES = """
CREATE TABLE spaces (
    space_id bytea PRIMARY KEY CHECK (length(space_id) = 16),
    owner_id bytea NOT NULL REFERENCES {accounts}.users ON DELETE CASCADE,
    history_id bytea NOT NULL CHECK (length(history_id) = 16),
    key_epoch integer NOT NULL DEFAULT 1,
    head_seq bigint NOT NULL DEFAULT 0,
    head_hash bytea NOT NULL CHECK (length(head_hash) = 32),
    policy text NOT NULL DEFAULT 'automatic' CHECK (policy IN ('automatic', 'manual')),
    home boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL
) WITH (fillfactor = 50);  -- updated by every commit: room for versions of the row on its page
CREATE INDEX spaces_owner ON spaces (owner_id);

CREATE TABLE members (
    space_id bytea NOT NULL REFERENCES spaces ON DELETE CASCADE,
    user_id bytea NOT NULL REFERENCES {accounts}.users ON DELETE CASCADE,
    role smallint NOT NULL CHECK (role BETWEEN 1 AND 3),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (space_id, user_id)
);
CREATE INDEX members_user ON members (user_id);

CREATE TABLE device_cursors (
    device_id bytea NOT NULL REFERENCES {accounts}.devices ON DELETE CASCADE,
    space_id bytea NOT NULL,
    history_id bytea NOT NULL,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (device_id, space_id)
) WITH (fillfactor = 80);
CREATE INDEX device_cursors_space ON device_cursors (space_id, seq);
"""

# Node ids come from devices: another space may use the same one, hence keys by (space, node).
# The token constraint is deferred, so that a group may swap names; its index lists directories.
# Of a table's indexes only the primary key begins with space_id: see `view.py` on plans.
NODES = """
CREATE TABLE files (
    space_id bytea NOT NULL,
    file_id bytea NOT NULL CHECK (length(file_id) = 16),
    user_id bytea NOT NULL,
    parent_id bytea NOT NULL,
    place_rev bigint NOT NULL,
    file_path text NOT NULL GENERATED ALWAYS AS
        (encode(parent_id, 'hex') || '/' || encode(name_token, 'hex')) STORED,
    file_name bytea NOT NULL,
    name_token bytea NOT NULL,
    name_epoch integer NOT NULL,
    type smallint NOT NULL,
    file_size bigint NOT NULL DEFAULT 0,
    checksum bytea NOT NULL DEFAULT '',
    version_number integer NOT NULL DEFAULT 0,
    version_vector bytea NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    modified_at timestamptz NOT NULL,
    sync_status text NOT NULL DEFAULT 'completed',
    conflict_status text NOT NULL DEFAULT 'none' CHECK (conflict_status IN ('none', 'open')),
    alive boolean NOT NULL DEFAULT true,
    deleted_at timestamptz,
    head_version bytea,
    head_hlc bigint NOT NULL DEFAULT 0,
    head_device bytea NOT NULL DEFAULT '',
    place_hash bytea NOT NULL DEFAULT '',
    manifest_hash bytea NOT NULL DEFAULT '',
    PRIMARY KEY (space_id, file_id),
    CONSTRAINT files_live_token EXCLUDE USING btree
        (parent_id WITH =, name_token WITH =, space_id WITH =) WHERE (alive)
        DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX idx_files_user_path ON files (user_id, file_path);
CREATE INDEX idx_files_checksum ON files (checksum);
CREATE INDEX idx_files_modified ON files (modified_at);
CREATE INDEX files_trash ON files (space_id, deleted_at) WHERE NOT alive;

CREATE TABLE file_versions (
    space_id bytea NOT NULL,
    version_id bytea NOT NULL CHECK (length(version_id) = 16),
    file_id bytea NOT NULL,
    version_number integer NOT NULL,
    checksum bytea NOT NULL,
    storage_path text NOT NULL GENERATED ALWAYS AS (encode(sha256(manifest), 'hex')) STORED,
    created_at timestamptz NOT NULL,
    is_current_version boolean NOT NULL,
    manifest bytea NOT NULL,
    manifest_key_epoch integer NOT NULL,
    refs bytea NOT NULL,
    paged boolean NOT NULL,
    size_bytes bigint NOT NULL,
    version_vector bytea NOT NULL,
    device_id bytea NOT NULL,
    hlc bigint NOT NULL,
    prev_version bytea,
    PRIMARY KEY (space_id, version_id)
);
ALTER TABLE file_versions ALTER COLUMN manifest SET STORAGE EXTERNAL;  -- sealed: no compressing
ALTER TABLE file_versions ALTER COLUMN refs SET STORAGE EXTERNAL;
CREATE INDEX file_versions_file ON file_versions (file_id, version_number);

CREATE TABLE merkle_buckets (
    space_id bytea NOT NULL,
    bucket integer NOT NULL CHECK (bucket BETWEEN 0 AND 65535),
    sum numeric(78) NOT NULL CHECK (sum >= 0),
    PRIMARY KEY (space_id, bucket)
) WITH (fillfactor = 80);
"""

# event_id is the seq: gap-free and unique within a space by compare-and-set on spaces.head_seq.
JOURNAL = """
CREATE TABLE sync_events (
    space_id bytea NOT NULL,
    event_id bigint NOT NULL,
    user_id bytea NOT NULL,
    file_id bytea NOT NULL,
    event_type text NOT NULL,
    timestamp timestamptz NOT NULL,
    client_id bytea NOT NULL,
    dot bigint NOT NULL,
    sync_status text NOT NULL DEFAULT 'completed'
        CHECK (sync_status IN ('pending', 'completed', 'failed')),
    kind text NOT NULL,
    commit_hash bytea,
    raw bytea NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (space_id, event_id, timestamp)
) PARTITION BY RANGE (timestamp);
CREATE INDEX sync_events_dot ON sync_events (client_id, dot) WHERE dot > 0;
CREATE INDEX idx_sync_events_user_time ON sync_events (user_id, timestamp);
CREATE TABLE sync_events_default PARTITION OF sync_events DEFAULT;

CREATE TABLE commits (
    space_id bytea NOT NULL,
    commit_hash bytea NOT NULL CHECK (length(commit_hash) = 32),
    header bytea NOT NULL,
    signature bytea NOT NULL,
    leaves bytea NOT NULL,
    device_id bytea NOT NULL,
    op bigint NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (space_id, commit_hash)
);
ALTER TABLE commits ALTER COLUMN leaves SET STORAGE EXTERNAL;
"""

# A space holds a chunk while a row of chunk_refs or leases says so. `refs` counts the versions
# and pages that name it, each once.
CHUNKS = """
CREATE TABLE chunks (
    address bytea PRIMARY KEY CHECK (length(address) = 32),
    size_bytes bigint NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE chunk_refs (
    space_id bytea NOT NULL,
    address bytea NOT NULL CHECK (length(address) = 32),
    size_bytes bigint NOT NULL,
    refs integer NOT NULL CHECK (refs >= 0),
    PRIMARY KEY (space_id, address)
) WITH (fillfactor = 90);

CREATE TABLE page_refs (
    space_id bytea NOT NULL,
    address bytea NOT NULL CHECK (length(address) = 32),
    refs bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (space_id, address)
);
ALTER TABLE page_refs ALTER COLUMN refs SET STORAGE EXTERNAL;

CREATE TABLE leases (
    space_id bytea NOT NULL,
    address bytea NOT NULL CHECK (length(address) = 32),
    size_bytes bigint NOT NULL,
    upload_id bytea,
    device_id bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (space_id, address)
);
CREATE INDEX leases_expiry ON leases (expires_at);

CREATE TABLE uploads (
    upload_id bytea PRIMARY KEY CHECK (length(upload_id) = 16),
    user_id bytea NOT NULL REFERENCES {accounts}.users ON DELETE CASCADE,
    space_id bytea NOT NULL,
    device_id bytea NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'committed', 'cancelled', 'expired')),
    refs bytea NOT NULL,
    reserved_bytes bigint NOT NULL CHECK (reserved_bytes >= 0),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
ALTER TABLE uploads ALTER COLUMN refs SET STORAGE EXTERNAL;
CREATE INDEX uploads_open ON uploads (expires_at) WHERE state = 'open';
CREATE INDEX uploads_user ON uploads (user_id) WHERE state = 'open';
"""

CONFLICTS = """
CREATE TABLE conflicts (
    conflict_id bytea PRIMARY KEY CHECK (length(conflict_id) = 16),
    space_id bytea NOT NULL,
    file_id bytea NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'copied', 'resolved')),
    policy text NOT NULL,
    head bytea NOT NULL,
    loser bytea NOT NULL,
    head_device bytea NOT NULL,
    loser_device bytea NOT NULL,
    seq bigint NOT NULL,
    opened_at timestamptz NOT NULL,
    copy_id bytea,
    closed_at timestamptz
);
CREATE INDEX conflicts_space ON conflicts (space_id, opened_at);
CREATE INDEX conflicts_open ON conflicts (space_id, file_id) WHERE state <> 'resolved';
"""

MAILBOXES = """
CREATE TABLE inbox (
    kind text NOT NULL,
    key text NOT NULL,
    message_id bytea NOT NULL,
    fingerprint bytea NOT NULL,
    answer bytea NOT NULL,
    answered_at timestamptz NOT NULL,
    PRIMARY KEY (kind, key, message_id)
);

CREATE TABLE answered_ops (
    kind text NOT NULL,
    key text NOT NULL,
    device_id bytea NOT NULL,
    upto_op bigint NOT NULL,
    PRIMARY KEY (kind, key, device_id)
) WITH (fillfactor = 80);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    key text NOT NULL,
    envelope bytea NOT NULL,
    written_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL
);
CREATE INDEX outbox_due ON outbox (due_at);
"""

# As in `accounts`: nothing for the server's own role, one account's rows for any other role.
BY_ACCOUNT = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON {table} USING (user_id = {accounts}.account());
"""
BY_SPACE = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON {table} USING (space_id IN
    (SELECT m.space_id FROM {metadata}.members m WHERE m.user_id = {accounts}.account()));
"""
FOR_NOBODY = "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
WALLS = {
    BY_ACCOUNT: "members files sync_events uploads",
    BY_SPACE: "spaces device_cursors file_versions merkle_buckets commits chunk_refs page_refs "
    "leases conflicts",
    FOR_NOBODY: "chunks inbox answered_ops outbox",
}
WALL = "".join(
    policy.replace("{table}", table) for policy, names in WALLS.items() for table in names.split()
)
SCRIPT = SPACES + NODES + JOURNAL + CHUNKS + CONFLICTS + MAILBOXES + WALL


async def forwards() -> "MigrationManager":
    from actors.adapters.postgres.ddl import migration

    return migration(ID, DESCRIPTION, SCRIPT)
