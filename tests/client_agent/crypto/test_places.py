"""Places: a name opens only for its node, its parent and its token; names are judged again."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_agent.crypto.names import _Named, copy_node, open_place, seal_place, token
from client_agent.crypto.seal import SealBroken, seal_random
from client_agent.crypto.space_keys import EpochMissing, SpaceKeys
from protocol.codec import encode, lp
from protocol.entry import Place
from protocol.names import check_name, fold
from tests.golden.crypto import fixed, world

W = world()
KEYS = W.keys
IDS = st.binary(min_size=16, max_size=16)
NAMES = st.text(min_size=1, max_size=60).filter(lambda name: check_name(name) is None)


@given(IDS, IDS, NAMES)
def test_a_place_opens_only_where_it_belongs(node, parent, name):
    # Planted: node left out of the aad; parent not compared; token not compared.
    place = seal_place(KEYS, node, parent, name)
    assert open_place(KEYS, node, place) == name
    assert place != seal_place(KEYS, node, parent, name), "r is random"
    other = fixed("another", 16)
    for lie in ({"parent": other}, {"token": fixed("x")}, {"key_epoch": 1}):
        with pytest.raises(SealBroken):
            open_place(KEYS, node, msgspec.structs.replace(place, **lie))
    with pytest.raises(SealBroken):
        open_place(KEYS, other, place)
    with pytest.raises(EpochMissing):
        open_place(SpaceKeys(KEYS.space, {1: KEYS.secrets[1]}), node, place)


@given(NAMES, NAMES, IDS, IDS)
def test_tokens_are_equal_where_names_clash(ours, theirs, parent, other):
    # Planted: token of the name as it is; token without the parent.
    same = token(KEYS, parent, ours) == token(KEYS, parent, theirs)
    assert same == (fold(ours) == fold(theirs))
    assert token(KEYS, parent, ours) == token(KEYS, parent, ours.upper()) or (
        fold(ours) != fold(ours.upper())
    )
    if parent != other:
        assert token(KEYS, parent, ours) != token(KEYS, other, ours)


def test_tokens_outlive_epochs():
    newer = SpaceKeys(KEYS.space, {**KEYS.secrets, 3: fixed("SK 3")})
    assert token(newer, W.parent, "a") == token(KEYS, W.parent, "a")


@pytest.mark.parametrize("length", [1, 10, 31, 32, 33, 60, 200, 255])
def test_a_seal_tells_little_of_the_length(length):
    sizes = {len(seal_place(KEYS, W.node, W.parent, "x" * n).sealed)
             for n in range(max(1, length - 3), length + 1)}
    assert all((size - 81) % 64 == 0 for size in sizes)
    assert len(sizes) <= 2
    assert max(sizes) <= 2048, "SealedName holds it"


def hostile(plain: bytes, name: str = "x") -> Place:
    sealed = seal_random(KEYS.name_key(2), lp("place", KEYS.space, W.node, 2), plain)
    return Place(W.parent, token(KEYS, W.parent, name), sealed, 2)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/passwd", "a\0", ".SYNCLINE", "x" * 256])
def test_a_name_that_no_honest_device_gives_is_refused(name):
    with pytest.raises(SealBroken, match="not allowed"):
        open_place(KEYS, W.node, hostile(encode(_Named(W.parent, name)), name))
    with pytest.raises(AssertionError):
        seal_place(KEYS, W.node, W.parent, name)


def test_what_is_no_place_is_refused():
    good = encode(_Named(W.parent, "x"))
    assert open_place(KEYS, W.node, hostile(good)) == "x"
    for plain in (b"", b"\xc1", good[:-1], good + b"\0", encode(W.entries[0]),
                  encode(_Named(W.parent, "x", b"\1")), encode(_Named(W.node, "x"))):
        with pytest.raises(SealBroken):
            open_place(KEYS, W.node, hostile(plain))
    with pytest.raises(SealBroken, match="token"):
        open_place(KEYS, W.node, hostile(good, "y"))


def test_two_makers_make_one_copy():
    assert copy_node(KEYS, W.node, W.version) == copy_node(
        SpaceKeys(KEYS.space, {**KEYS.secrets, 3: fixed("SK 3")}), W.node, W.version
    )
    assert copy_node(KEYS, W.node, W.version) != copy_node(KEYS, W.version, W.node)
    assert len(copy_node(KEYS, W.node, W.version)) == 16
