"""Lists inside one column, and rows as records. The formats are fixed: rows stay for years.

refs: 32-byte address and 8-byte size, repeated in file order. Vectors: 16-byte device and 8-byte
counter, repeated in the order of devices. Integers are big-endian.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from actors.records import Conflict, Node, Upload, Version
from protocol.entry import ChunkRef, NodeType
from protocol.ids import ID_BYTES
from protocol.vector import Vector

_ADDRESS_BYTES, _INT_BYTES = 32, 8
_REF_BYTES = _ADDRESS_BYTES + _INT_BYTES
_DOT_BYTES = ID_BYTES + _INT_BYTES

Row = Mapping[str, Any]


def pack_refs(refs: Iterable[ChunkRef]) -> bytes:
    """Return refs as one value."""
    return b"".join(ref.address + ref.size_bytes.to_bytes(_INT_BYTES, "big") for ref in refs)


def unpack_refs(raw: bytes) -> tuple[ChunkRef, ...]:
    """Return what `pack_refs` packed."""
    ends = range(_REF_BYTES, len(raw) + 1, _REF_BYTES)
    return tuple(
        ChunkRef(
            raw[end - _REF_BYTES : end - _INT_BYTES], int.from_bytes(raw[end - _INT_BYTES : end])
        )
        for end in ends
    )


def pack_vector(vector: Vector) -> bytes:
    """Return a vector as one value."""
    return b"".join(device + count.to_bytes(_INT_BYTES, "big") for device, count in vector)


def unpack_vector(raw: bytes) -> Vector:
    """Return what `pack_vector` packed."""
    return tuple(
        (raw[at : at + ID_BYTES], int.from_bytes(raw[at + ID_BYTES : at + _DOT_BYTES]))
        for at in range(0, len(raw), _DOT_BYTES)
    )


def node_of(row: Row) -> Node:
    """Read a row of `files`."""
    return Node(
        node=row["file_id"],
        type=NodeType(row["type"]),
        parent=row["parent_id"],
        token=row["name_token"],
        sealed_name=row["file_name"],
        name_epoch=row["name_epoch"],
        place_rev=row["place_rev"],
        alive=row["alive"],
        created_ms=row["created_at"],
        modified_ms=row["modified_at"],
        head=row["head_version"],
        vector=unpack_vector(row["version_vector"]),
        content_id=row["checksum"],
        hlc=row["head_hlc"],
        device=row["head_device"],
        version_number=row["version_number"],
        size_bytes=row["file_size"],
        place_hash=row["place_hash"],
        manifest_hash=row["manifest_hash"],
        conflicted=row["conflict_status"] == "open",
    )


def version_of(row: Row) -> Version:
    """Read a row of `file_versions`."""
    return Version(
        version=row["version_id"],
        node=row["file_id"],
        number=row["version_number"],
        content_id=row["checksum"],
        vector=unpack_vector(row["version_vector"]),
        manifest=row["manifest"],
        manifest_key_epoch=row["manifest_key_epoch"],
        refs=unpack_refs(row["refs"]),
        paged=row["paged"],
        size_bytes=row["size_bytes"],
        device=row["device_id"],
        hlc=row["hlc"],
        created_ms=row["created_at"],
        prev=row["prev_version"],
    )


def upload_of(row: Row) -> Upload:
    """Read a row of `uploads`."""
    return Upload(
        upload=row["upload_id"],
        owner=row["user_id"],
        space=row["space_id"],
        device=row["device_id"],
        state=row["state"],
        refs=unpack_refs(row["refs"]),
        reserved_bytes=row["reserved_bytes"],
        expires_ms=row["expires_at"],
    )


def conflict_of(row: Row) -> Conflict:
    """Read a row of `conflicts`."""
    return Conflict(
        conflict=row["conflict_id"],
        space=row["space_id"],
        node=row["file_id"],
        state=row["state"],
        policy=row["policy"],
        head=row["head"],
        loser=row["loser"],
        head_device=row["head_device"],
        loser_device=row["loser_device"],
        seq=row["seq"],
        opened_ms=row["opened_at"],
        copy=row["copy_id"],
        closed_ms=row["closed_at"],
    )
