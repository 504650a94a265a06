"""Every bound of the protocol, with its unit and its reason. Both sides enforce them."""

KIB, MIB, GIB = 1024, 1024**2, 1024**3

NAME_BYTES_MAX = 255  # what ext4, APFS and NTFS can hold
TREE_DEPTH_MAX = 500  # a path of 4,096 bytes cannot be deeper in practice
SYMLINK_BYTES_MAX = 4096  # PATH_MAX

COMMIT_CHANGES_MAX = 1000  # one transaction stays short
COMMIT_BYTES_MAX = 1 * MIB  # header and changes, without inline chunks
PACK_BYTES_MAX = 8 * MIB  # chunks in one request or one answer, inline ones included
PACK_CHUNKS_MAX = 2048  # 1000 changes with one chunk each, and pages
CHUNK_BYTES_MAX = 4 * MIB + 512 * KIB  # the largest cut (4 MiB), its padding and its seal
MISSING_ADDRESSES_MAX = 8192  # one question of 256 KiB
PAGE_ENTRIES_MAX = 1024  # chunks named by one page; about 256 on average
MANIFEST_BYTES_MAX = 768 * KIB  # 1 TiB in pages stays below it
VERSION_REFS_MAX = 16_384  # pages or chunks named by one version

PAGE_ROWS_MAX = 1000  # journal rows in one answer
PAGE_ROWS_BYTES_MAX = 4 * MIB
PUSH_ROWS_BYTES_MAX = 48 * KIB  # a push with more carries no rows: nudge, then fetch
FRAME_BYTES_MAX = 64 * KIB  # one WebSocket frame
LIST_MAX = 1000  # rows in one listing
JSON_BODY_BYTES_MAX = 256 * KIB

INLINE_FILE_BYTES_MAX = 1 * MIB  # below it a file's chunks travel inside its commit

LEASE_S = 24 * 3600  # how long an uploaded chunk waits for its commit
UPLOAD_TTL_S = 24 * 3600
HEARTBEAT_S = 60  # how often a quiet device asks for its cursor, with jitter
POLL_S = 60

TURN_TIMEOUT_S = 20  # an ask that takes longer is answered `busy`
DELIVERIES_MAX = 5  # then a message becomes a dead letter

USERNAME_MAX = 64
EMAIL_MAX = 254
DEVICE_NAME_MAX = 64
DEVICES_MAX = 200  # per account
SPACES_MAX = 1000  # per account
KEYRING_BYTES_MAX = 128 * KIB

# Floors for the password hash of an account; a device refuses a server that names less.
ARGON_MEMORY_KIB_MIN, ARGON_MEMORY_KIB_MAX = 65_536, 1_048_576
ARGON_TIME_MIN, ARGON_TIME_MAX = 3, 64
ARGON_LANES_MIN, ARGON_LANES_MAX = 1, 16
