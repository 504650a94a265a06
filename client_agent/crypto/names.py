"""Where a node is, sealed: parent and name; and the token that keeps names unique (CRYPTO.md 3).

    place   seal(K_name, LP("place", space, node, key_epoch), [parent, name, zeros]), r random
    token   HMAC(K_token, LP(parent, folded name))
    copy    HMAC(K_token, LP("copy", node, loser version))[:16]

Zeros fill the msgpack up to a multiple of 64 bytes, so that a seal tells little of the length
of its name.
"""

import hmac
import os
from typing import Final

import msgspec

from client_agent.crypto.seal import SealBroken, open_sealed, seal_random
from client_agent.crypto.space_keys import SpaceKeys
from protocol.codec import Reader, encode, lp
from protocol.entry import Place
from protocol.ids import ID_BYTES, Dice, NodeId
from protocol.messages import Part
from protocol.names import check_name, fold

_PAD_BYTES: Final = 64


class _Named(Part, frozen=True):
    parent: NodeId
    name: str
    zeros: bytes = b""


_named: Reader[_Named] = Reader(_Named)


def token(keys: SpaceKeys, parent: bytes, name: str) -> bytes:
    """Return the name's token: equal for names that fold together in one directory."""
    return hmac.digest(keys.token_key, lp(parent, fold(name)), "sha256")


def copy_node(keys: SpaceKeys, node: bytes, loser: bytes) -> bytes:
    """Return the node id of the conflict copy of `loser`: two makers make one."""
    return hmac.digest(keys.token_key, lp("copy", node, loser), "sha256")[:ID_BYTES]


def seal_place(
    keys: SpaceKeys, node: bytes, parent: bytes, name: str, dice: Dice = os.urandom
) -> Place:
    """Return the place facet of a change. The name must be one that `check_name` allows."""
    assert check_name(name) is None
    aad = lp("place", keys.space, node, keys.epoch)
    filled = -len(encode(_Named(parent, name))) % _PAD_BYTES
    plain = encode(_Named(parent, name, bytes(filled)))
    sealed = seal_random(keys.name_key(keys.epoch), aad, plain, dice)
    return Place(parent, token(keys, parent, name), sealed, keys.epoch)


def open_place(keys: SpaceKeys, node: bytes, place: Place) -> str:
    """Return the name of `node`, checked against the parent and the token in clear.

    Raises:
        SealBroken: another node's place, another parent, a wrong token, or a name that no
            honest device gives; the node is set aside, others go on.
        EpochMissing: it is sealed under an epoch we do not hold.
    """
    aad = lp("place", keys.space, node, place.key_epoch)
    plain = open_sealed(keys.name_key(place.key_epoch), aad, place.sealed)
    try:
        named = _named.decode(plain)
    except msgspec.DecodeError as error:
        raise SealBroken(f"not a place: {error}") from None
    if named.parent != place.parent or any(named.zeros):
        raise SealBroken("the place names another parent")
    reason = check_name(named.name)
    if reason is not None:
        raise SealBroken(f"a name that is not allowed: {reason}")
    if not hmac.compare_digest(token(keys, named.parent, named.name), place.token):
        raise SealBroken("the token is not that of the name")
    return named.name
