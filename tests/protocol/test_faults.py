"""The table of faults is complete, and says what people can use."""

import msgspec
import pytest

from protocol.codec import decode, encode
from protocol.faults import MEANINGS, Code, Fault, Refusal, refuse


def test_every_code_has_a_meaning():
    assert set(MEANINGS) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_a_meaning_is_complete(code):
    meaning = MEANINGS[code]
    assert 400 <= meaning.status < 600
    assert meaning.title[0].isupper()
    assert not meaning.title.endswith(".")
    assert meaning.hint.endswith((".", "syncline login", "syncline doctor"))
    assert code.value == code.value.lower()


def test_a_later_peer_may_say_what_we_do_not_know():
    assert Fault(code="stale").known is Code.STALE
    assert Fault(code="invented_in_2030").known is Code.INTERNAL
    fault = decode(encode(Fault(code="invented_in_2030", facts={"x": 1})), Fault)
    assert fault.facts == {"x": 1}


def test_a_refusal_carries_its_fault():
    refusal = refuse(Code.BUSY, "shard 3", 500)
    assert isinstance(refusal, Refusal)
    assert refusal.fault == Fault(code="busy", about="shard 3", retry_after_ms=500)
    assert str(refusal) == "busy: shard 3"


def test_codes_are_plain_text_on_the_wire():
    assert msgspec.msgpack.decode(encode(Fault(code=Code.STALE)))["code"] == "stale"
