"""Schema `accounts`: users, devices, sessions, audit log."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piccolo.apps.migrations.auto.migration_manager import MigrationManager

ID = "2026-11-22T13:40:00:000000"
VERSION = "1.38.0"
DESCRIPTION = "accounts"

SCRIPT = """
CREATE TABLE {accounts}.users (
    user_id bytea PRIMARY KEY CHECK (length(user_id) = 16),
    username text NOT NULL,
    email text NOT NULL,
    auth_hash text NOT NULL,
    kdf_salt_seed bytea NOT NULL,
    kdf_memory_kib integer NOT NULL,
    kdf_time integer NOT NULL,
    kdf_lanes integer NOT NULL,
    wraps bytea NOT NULL,
    identity_sign bytea NOT NULL CHECK (length(identity_sign) = 32),
    keyring_rev bigint NOT NULL DEFAULT 1,
    keyring bytea NOT NULL,
    device_list_n integer NOT NULL DEFAULT 0,
    device_list_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    created_at timestamptz NOT NULL,
    last_login timestamptz,
    storage_quota bigint NOT NULL,
    used_storage bigint NOT NULL DEFAULT 0 CHECK (used_storage >= 0),
    account_status text NOT NULL DEFAULT 'active'
        CHECK (account_status IN ('active', 'suspended'))
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX idx_users_username ON {accounts}.users (username);
CREATE UNIQUE INDEX idx_users_email ON {accounts}.users (email);

CREATE TABLE {accounts}.devices (
    device_id bytea PRIMARY KEY CHECK (length(device_id) = 16),
    user_id bytea NOT NULL REFERENCES {accounts}.users ON DELETE CASCADE,
    sign bytea NOT NULL CHECK (length(sign) = 32),
    box bytea NOT NULL CHECK (length(box) = 32),
    sealed_name bytea NOT NULL DEFAULT '',
    mk_for_device bytea,
    certified boolean NOT NULL DEFAULT false,
    entry_n integer,
    entry bytea,
    signature bytea,
    created_at timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    revoked_at timestamptz
) WITH (fillfactor = 80);
CREATE INDEX devices_user ON {accounts}.devices (user_id);

CREATE TABLE {accounts}.device_entries (
    user_id bytea NOT NULL REFERENCES {accounts}.users ON DELETE CASCADE,
    n integer NOT NULL,
    entry bytea NOT NULL,
    signature bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, n)
);

CREATE TABLE {accounts}.refresh_families (
    family_id bytea PRIMARY KEY CHECK (length(family_id) = 16),
    user_id bytea NOT NULL REFERENCES {accounts}.users ON DELETE CASCADE,
    device_id bytea NOT NULL REFERENCES {accounts}.devices ON DELETE CASCADE,
    n bigint NOT NULL DEFAULT 1,
    token_hash bytea NOT NULL,
    previous_hash bytea,
    rotated_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    idle_expires_at timestamptz NOT NULL,
    absolute_expires_at timestamptz NOT NULL,
    revoked_at timestamptz
) WITH (fillfactor = 80);
CREATE INDEX refresh_families_device ON {accounts}.refresh_families (device_id);
CREATE INDEX refresh_families_user ON {accounts}.refresh_families (user_id);

CREATE TABLE {accounts}.audit_log (
    seq bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    user_id bytea,
    device_id bytea,
    event text NOT NULL,
    facts jsonb NOT NULL DEFAULT '{}',
    prev_hash bytea NOT NULL CHECK (length(prev_hash) = 32),
    hash bytea NOT NULL UNIQUE CHECK (length(hash) = 32)
);
CREATE INDEX audit_log_user ON {accounts}.audit_log (user_id, seq);

CREATE FUNCTION {accounts}.audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_rows_stay BEFORE UPDATE OR DELETE ON {accounts}.audit_log
    FOR EACH ROW EXECUTE FUNCTION {accounts}.audit_log_is_append_only();
CREATE TRIGGER audit_log_stays BEFORE TRUNCATE ON {accounts}.audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION {accounts}.audit_log_is_append_only();
REVOKE UPDATE, DELETE, TRUNCATE ON {accounts}.audit_log FROM PUBLIC, CURRENT_USER;

-- The second wall: the server's own role owns the tables and is not slowed down; any other role
-- that is granted SELECT (reports, support) sees one account's rows, named by `syncline.user_id`.
CREATE FUNCTION {accounts}.account() RETURNS bytea LANGUAGE sql STABLE AS
    $$ SELECT decode(current_setting('syncline.user_id', true), 'hex') $$;
ALTER TABLE {accounts}.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE {accounts}.devices ENABLE ROW LEVEL SECURITY;
ALTER TABLE {accounts}.device_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE {accounts}.refresh_families ENABLE ROW LEVEL SECURITY;
ALTER TABLE {accounts}.audit_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON {accounts}.users USING (user_id = {accounts}.account());
CREATE POLICY own ON {accounts}.devices USING (user_id = {accounts}.account());
CREATE POLICY own ON {accounts}.device_entries USING (user_id = {accounts}.account());
CREATE POLICY own ON {accounts}.refresh_families USING (user_id = {accounts}.account());
CREATE POLICY own ON {accounts}.audit_log USING (user_id = {accounts}.account());
"""


async def forwards() -> "MigrationManager":
    from actors.adapters.postgres.ddl import migration

    return migration(ID, DESCRIPTION, SCRIPT)
