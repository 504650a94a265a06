"""The tables as Piccolo sees them: for operators' tools, and for reading what columns there are.

The hot path speaks SQL through asyncpg and never imports this. What Piccolo cannot say stands in
the migrations: composite keys (here the column that varies most is marked), partitions, checks.
Times are timestamptz with millisecond precision; ids, hashes and everything sealed are bytea.
A node's or version's key is (space_id, its id): ids come from devices, and spaces may share them.
"""

import os

from piccolo.columns import (
    JSONB,
    BigInt,
    Boolean,
    Bytea,
    Integer,
    Numeric,
    SmallInt,
    Text,
    Timestamptz,
)
from piccolo.table import Table

from actors.adapters.postgres.schemas import schemas

_SCHEMAS = schemas(os.environ.get("SYNCLINE_NAMESPACE", ""))
_ACCOUNTS, _METADATA = _SCHEMAS


class Users(Table, tablename="users", schema=_ACCOUNTS):
    """An account. `used_storage` is kept exactly by the turns that change it."""

    user_id = Bytea(primary_key=True)
    username = Text(unique=True)
    email = Text(unique=True)
    auth_hash = Text()
    kdf_salt_seed = Bytea()
    kdf_memory_kib = Integer()
    kdf_time = Integer()
    kdf_lanes = Integer()
    wraps = Bytea()  # encoded `Wraps`
    identity_sign = Bytea()
    keyring_rev = BigInt()
    keyring = Bytea()
    device_list_n = Integer()  # newest entry of device_entries, and its hash
    device_list_hash = Bytea()
    created_at = Timestamptz()
    last_login = Timestamptz(null=True, default=None)
    storage_quota = BigInt()
    used_storage = BigInt()
    account_status = Text()  # active, suspended


class Devices(Table, tablename="devices", schema=_ACCOUNTS):
    """A device that signed in. `entry` and `signature` are the list entry that added it."""

    device_id = Bytea(primary_key=True)
    user_id = Bytea()
    sign = Bytea()
    box = Bytea()
    sealed_name = Bytea()
    mk_for_device = Bytea(null=True, default=None)
    certified = Boolean()
    entry_n = Integer(null=True, default=None)
    entry = Bytea(null=True, default=None)
    signature = Bytea(null=True, default=None)
    created_at = Timestamptz()
    last_seen = Timestamptz()
    revoked_at = Timestamptz(null=True, default=None)


class DeviceEntries(Table, tablename="device_entries", schema=_ACCOUNTS):
    """The signed, chained device list of an account. Key: (user_id, n). Append only."""

    user_id = Bytea(primary_key=True)
    n = Integer()
    entry = Bytea()
    signature = Bytea()
    created_at = Timestamptz()


class RefreshFamilies(Table, tablename="refresh_families", schema=_ACCOUNTS):
    """One sign-in: its newest refresh token, hashed, and the one before it (30 s of grace)."""

    family_id = Bytea(primary_key=True)
    user_id = Bytea()
    device_id = Bytea()
    n = BigInt()
    token_hash = Bytea()
    previous_hash = Bytea(null=True, default=None)
    rotated_at = Timestamptz()
    created_at = Timestamptz()
    idle_expires_at = Timestamptz()
    absolute_expires_at = Timestamptz()
    revoked_at = Timestamptz(null=True, default=None)


class AuditLog(Table, tablename="audit_log", schema=_ACCOUNTS):
    """Security events, hash-chained; rows can be neither changed nor removed."""

    seq = BigInt(primary_key=True)
    at = Timestamptz()
    user_id = Bytea(null=True, default=None)
    device_id = Bytea(null=True, default=None)
    event = Text()
    facts = JSONB()
    prev_hash = Bytea()
    hash = Bytea()


class Spaces(Table, tablename="spaces", schema=_METADATA):
    """A space and the head of its journal. Every commit's turn locks its row."""

    space_id = Bytea(primary_key=True)
    owner_id = Bytea()
    history_id = Bytea()
    key_epoch = Integer()
    head_seq = BigInt()
    head_hash = Bytea()
    policy = Text()  # automatic, manual
    home = Boolean()
    created_at = Timestamptz()


class Members(Table, tablename="members", schema=_METADATA):
    """Who may do what in a space; the owner has a row too. Key: (space_id, user_id)."""

    space_id = Bytea()
    user_id = Bytea(primary_key=True)
    role = SmallInt()  # protocol.messages.Role
    created_at = Timestamptz()


class DeviceCursors(Table, tablename="device_cursors", schema=_METADATA):
    """How far a device has applied a journal. Key: (device_id, space_id)."""

    device_id = Bytea(primary_key=True)
    space_id = Bytea()
    history_id = Bytea()
    seq = BigInt()
    hash = Bytea()
    updated_at = Timestamptz()


class Files(Table, tablename="files", schema=_METADATA):
    """The nodes, dead ones included. Key: (space_id, file_id)."""

    space_id = Bytea()
    file_id = Bytea(primary_key=True)
    user_id = Bytea()  # the space's owner
    parent_id = Bytea()
    place_rev = BigInt()
    file_path = Text()  # `<parent hex>/<token hex>`, generated
    file_name = Bytea()  # the sealed place
    name_token = Bytea()  # unique in its directory among live nodes
    name_epoch = Integer()
    type = SmallInt()  # protocol.entry.NodeType
    file_size = BigInt()  # sealed bytes of the head's chunks
    checksum = Bytea()  # content id
    version_number = Integer()
    version_vector = Bytea()  # 16-byte device, 8-byte counter; repeated
    created_at = Timestamptz()
    modified_at = Timestamptz()
    sync_status = Text()
    conflict_status = Text()  # none, open
    alive = Boolean()
    deleted_at = Timestamptz(null=True, default=None)
    head_version = Bytea(null=True, default=None)
    head_hlc = BigInt()
    head_device = Bytea()
    place_hash = Bytea()
    manifest_hash = Bytea()


class FileVersions(Table, tablename="file_versions", schema=_METADATA):
    """Every accepted content. Key: (space_id, version_id)."""

    space_id = Bytea()
    version_id = Bytea(primary_key=True)
    file_id = Bytea()
    version_number = Integer()
    checksum = Bytea()
    storage_path = Text()  # SHA-256 of the sealed manifest, hex; generated
    created_at = Timestamptz()
    is_current_version = Boolean()
    manifest = Bytea()
    manifest_key_epoch = Integer()
    refs = Bytea()  # 32-byte address, 8-byte size; repeated in file order
    paged = Boolean()
    size_bytes = BigInt()
    version_vector = Bytea()
    device_id = Bytea()
    hlc = BigInt()
    prev_version = Bytea(null=True, default=None)


class MerkleBuckets(Table, tablename="merkle_buckets", schema=_METADATA):
    """Sums of leaves mod 2^256 by the first two bytes of the node id. Key: (space_id, bucket)."""

    space_id = Bytea()
    bucket = Integer(primary_key=True)
    sum = Numeric(digits=(78, 0))


class SyncEvents(Table, tablename="sync_events", schema=_METADATA):
    """The journals. Key: (space_id, event_id = seq); partitioned by month of `timestamp`."""

    space_id = Bytea()
    event_id = BigInt(primary_key=True)
    user_id = Bytea()  # the space's owner
    file_id = Bytea()
    event_type = Text()  # a ChangeKind, or the RowKind of a server's row
    timestamp = Timestamptz()
    client_id = Bytea()  # the device; empty for a server's row
    dot = BigInt()  # of the device; 0 for a server's row
    sync_status = Text()
    kind = Text()  # RowKind
    commit_hash = Bytea(null=True, default=None)
    body = Bytea(db_column_name="raw")  # the row's bytes, as chained
    hash = Bytea()


class Commits(Table, tablename="commits", schema=_METADATA):
    """What proves the rows of one commit. Key: (space_id, commit_hash)."""

    space_id = Bytea()
    commit_hash = Bytea(primary_key=True)
    header = Bytea()
    signature = Bytea()
    leaves = Bytea()
    device_id = Bytea()
    op = BigInt()
    created_at = Timestamptz()


class Chunks(Table, tablename="chunks", schema=_METADATA):
    """Every chunk and page in the chunk store, of whatever space."""

    address = Bytea(primary_key=True)
    size_bytes = BigInt()
    created_at = Timestamptz()


class ChunkRefs(Table, tablename="chunk_refs", schema=_METADATA):
    """Chunks a space refers to. `refs`: how many versions and pages name it, each counted once.

    Key: (space_id, address). A space holds a chunk while it has a row here or in `leases`.
    """

    space_id = Bytea()
    address = Bytea(primary_key=True)
    size_bytes = BigInt()
    refs = Integer()


class PageRefs(Table, tablename="page_refs", schema=_METADATA):
    """What a page of this space lists, as its upload declared. Key: (space_id, address)."""

    space_id = Bytea()
    address = Bytea(primary_key=True)
    refs = Bytea()  # as in file_versions
    created_at = Timestamptz()


class Leases(Table, tablename="leases", schema=_METADATA):
    """Chunks that wait for the commit that will name them. Key: (space_id, address)."""

    space_id = Bytea()
    address = Bytea(primary_key=True)
    size_bytes = BigInt()
    upload_id = Bytea(null=True, default=None)
    device_id = Bytea()
    expires_at = Timestamptz()


class Uploads(Table, tablename="uploads", schema=_METADATA):
    """Upload sessions; the owner's reservation is the sum of the open ones."""

    upload_id = Bytea(primary_key=True)
    user_id = Bytea()
    space_id = Bytea()
    device_id = Bytea()
    state = Text()  # open, committed, cancelled, expired
    refs = Bytea()  # as in file_versions
    reserved_bytes = BigInt()
    created_at = Timestamptz()
    expires_at = Timestamptz()


class Conflicts(Table, tablename="conflicts", schema=_METADATA):
    """The records of conflicts; `copy_id` is the node that the loser became."""

    conflict_id = Bytea(primary_key=True)
    space_id = Bytea()
    file_id = Bytea()
    state = Text()  # open, copied, resolved
    policy = Text()
    head = Bytea()
    loser = Bytea()
    head_device = Bytea()
    loser_device = Bytea()
    seq = BigInt()
    opened_at = Timestamptz()
    copy_id = Bytea(null=True, default=None)
    closed_at = Timestamptz(null=True, default=None)


class Inbox(Table, tablename="inbox", schema=_METADATA):
    """What an address answered. Key: (kind, key, message_id)."""

    kind = Text()
    key = Text()
    message_id = Bytea(primary_key=True)
    fingerprint = Bytea()
    answer = Bytea()
    answered_at = Timestamptz()


class AnsweredOps(Table, tablename="answered_ops", schema=_METADATA):
    """The greatest op whose answer a device has read. Key: (kind, key, device_id)."""

    kind = Text()
    key = Text()
    device_id = Bytea(primary_key=True)
    upto_op = BigInt()


class Outbox(Table, tablename="outbox", schema=_METADATA):
    """Messages told in a turn and not known to be delivered."""

    id = BigInt(primary_key=True)
    kind = Text()
    key = Text()
    envelope = Bytea()
    written_at = Timestamptz()
    due_at = Timestamptz()


TABLES: tuple[type[Table], ...] = (
    Users, Devices, DeviceEntries, RefreshFamilies, AuditLog,
    Spaces, Members, DeviceCursors, Files, FileVersions, MerkleBuckets, SyncEvents, Commits,
    Chunks, ChunkRefs, PageRefs, Leases, Uploads, Conflicts, Inbox,
    AnsweredOps, Outbox,
)  # fmt: skip
