"""Goal: whoever asks gets an answer or a fault, and nobody waits for what is known to be away."""

from collections.abc import Callable

import pytest

from actors.dialer import Breaker, Dialer
from actors.host import Host
from actors.memory import MemoryTransport
from actors.ports import Address, DeadLettered, Envelope, Unreachable
from protocol.codec import decode, encode
from protocol.faults import Code, Fault
from protocol.messages import Message
from tests.actors.lamps import Lamp, LampStore, Look, Seen, SwitchOff, SwitchOn

KITCHEN = Address("lamp", "kitchen")


class Line:
    """A transport that does what it is told to."""

    def __init__(self, outcome: bytes | Exception) -> None:
        self.outcome = outcome
        self.asked: list[Envelope] = []

    async def ask(self, to: Address, envelope: bytes, timeout_s: float) -> bytes:
        self.asked.append(decode(envelope, Envelope))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000

    def __call__(self) -> int:
        return self.ms


def dialer(line: Line, fallback=None, now_ms: Callable[[], int] = lambda: 1_000) -> Dialer:
    return Dialer([Lamp], line, fallback, now_ms, dice=lambda: 0.0)


async def ask(one: Dialer, message: Message = Look()) -> Message | None:  # noqa: B008 - frozen
    return await one.ask(KITCHEN, message, b"id", b"print", trace="00-t")


async def test_an_answer_is_decoded_and_the_envelope_says_it_all():
    line = Line(encode(Seen(status="lit", times=3)))
    assert await ask(dialer(line)) == Seen(status="lit", times=3)
    assert line.asked == [Envelope(b"id", b"print", encode(Look()), 1_000, "00-t")]


async def test_a_fault_is_an_answer():
    fault = Fault(code=Code.OUT_OF_ORDER, about="x")
    assert await ask(dialer(Line(encode(fault)))) == fault


async def test_no_answer_is_none():
    assert await ask(dialer(Line(b""))) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(), Code.BUSY),
        (Unreachable(), Code.UNAVAILABLE),
        (DeadLettered(), Code.INTERNAL),
    ],
)
async def test_what_goes_wrong_on_the_way_is_a_fault_that_may_be_retried(error, code):
    fault = await ask(dialer(Line(error)))
    assert isinstance(fault, Fault)
    assert fault.known is code


async def test_while_the_broker_is_away_the_actor_is_hosted_here():
    store, local, line = LampStore(), MemoryTransport(), Line(Unreachable("planted"))
    await Host(store, [Lamp], lambda: 0).serve(local)
    clock = Clock()
    one = dialer(line, local, clock)
    assert await ask(one, SwitchOn()) == Seen(status="lit", times=1)
    assert await ask(one, SwitchOn()) == Seen(status="lit", times=1)  # a repeat
    for n in range(8):
        message = SwitchOn() if n % 2 else SwitchOff()
        assert await one.ask(KITCHEN, message, b"%d" % n, b"p") is not None
    assert len(line.asked) == 3  # then the breaker was open
    line.outcome = encode(Seen(status="dark", times=9))
    clock.ms += 60_000
    assert await ask(one) == Seen(status="dark", times=9)
    assert await ask(one) == Seen(status="dark", times=9)
    assert len(line.asked) == 5
    await local.close()


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_try():
    breaker = Breaker(failures_max=2)
    breaker.failed(0, 0.0)
    breaker.succeeded()
    breaker.failed(0, 0.0)
    assert breaker.allows(0)
    breaker.failed(0, 0.0)
    assert not breaker.allows(499)
    assert breaker.allows(500)
    assert not breaker.allows(500)  # the others wait for what comes of it
    breaker.failed(510, 0.9)
    assert not breaker.allows(510 + 500 + 899)
    assert breaker.allows(510 + 500 + 900)
    breaker.succeeded()
    assert breaker.allows(0)
