"""Goal: order, one at a time, exactly one settlement, under any failures and any interleaving."""

import asyncio
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from actors.mailbox import Letter, Mailboxes, Settled
from actors.ports import Address, Overtaken, Undeliverable, Unreachable
from protocol import limits
from protocol.backoff import MAILBOX

KINDS_OF_TROUBLE = {
    "bug": RuntimeError("planted"),
    "overtaken": Overtaken("planted"),
    "away": Unreachable("planted"),
    "garbage": Undeliverable("planted"),
}


class Post:
    """A handler with planned trouble, and a note of all that happens."""

    def __init__(self, plans: dict[bytes, list[str]]) -> None:
        self.plans = {body: list(plan) for body, plan in plans.items()}
        self.inside: set[Address] = set()
        self.tries: list[tuple[Address, bytes]] = []
        self.settled: dict[Address, list[tuple[bytes, Settled]]] = defaultdict(list)
        self.waits_s: list[float] = []
        self.boxes = Mailboxes(self.deliver, lambda: 0.5, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        await asyncio.sleep(0)

    async def deliver(self, to: Address, envelope: bytes) -> bytes:
        assert to not in self.inside, "re-entered"
        self.inside.add(to)
        self.tries.append((to, envelope))
        await asyncio.sleep(0)
        self.inside.discard(to)
        plan = self.plans.get(envelope)
        if plan:
            raise KINDS_OF_TROUBLE[plan.pop(0)]
        return b"answer " + envelope

    def put(self, to: Address, envelope: bytes) -> None:
        async def settle(settled: Settled) -> None:
            assert to not in self.inside
            self.inside.add(to)
            for _ in range(3):
                await asyncio.sleep(0)
            self.settled[to].append((envelope, settled))
            self.inside.discard(to)

        self.boxes.put(Letter(to, envelope, settle))


def expected(plan: list[str]) -> tuple[int, bool]:
    """How many tries a plan leads to, and whether it ends as an answer."""
    failures = 0
    for tries, trouble in enumerate(plan, start=1):
        failures += trouble in ("bug", "overtaken")
        if trouble == "garbage" or failures == limits.DELIVERIES_MAX:
            return tries, False
    return len(plan) + 1, True


# Caught both bugs planted: a failed letter appended again at the end of its queue (order), and the
# mailbox removed before its last letter was settled, so that the next put began a second task.
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.lists(st.sampled_from(list(KINDS_OF_TROUBLE)), max_size=8),
            st.integers(0, 4),  # turns of the event loop before the next message arrives
        ),
        max_size=25,
    )
)
def test_any_trouble_keeps_order_and_settles_each_once(arrivals):
    plans = {b"%d" % n: plan for n, (_, plan, _) in enumerate(arrivals)}

    async def run() -> Post:
        post = Post(plans)
        for n, (key, _, pauses) in enumerate(arrivals):
            post.put(Address("k", key), b"%d" % n)
            for _ in range(pauses):
                await asyncio.sleep(0)
        await post.boxes.idle()
        return post

    post = asyncio.run(run())
    assert len(post.boxes) == 0  # passivated
    for key in "abc":
        to = Address("k", key)
        own = [b"%d" % n for n, (address, _, _) in enumerate(arrivals) if address == key]
        assert [body for body, _ in post.settled[to]] == own
        tries = [body for address, body in post.tries if address == to]
        assert tries == [body for body in own for _ in range(expected(plans[body])[0])]
        for body, settled in post.settled[to]:
            if expected(plans[body])[1]:
                assert settled == Settled(b"answer " + body)
            else:
                assert settled.error is not None


# Caught the bug planted: `abandon` returned only what no turn had begun.
@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(0, 12))
def test_what_is_abandoned_is_returned_in_order_and_nothing_else(keys, pauses):
    async def run() -> tuple[Post, list[Letter]]:
        post = Post({})
        for n, key in enumerate(keys):
            post.put(Address("k", key), b"%d" % n)
        for _ in range(pauses):
            await asyncio.sleep(0)
        return post, await post.boxes.abandon()

    post, left = asyncio.run(run())
    assert len(post.boxes) == 0
    for key in "abc":
        own = [b"%d" % n for n, k in enumerate(keys) if k == key]
        settled = [body for body, _ in post.settled[Address("k", key)]]
        returned = [letter.envelope for letter in left if letter.to.key == key]
        assert settled + returned == own


def test_retries_wait_ever_longer_with_jitter():
    async def run() -> Post:
        post = Post({b"x": ["bug"] * limits.DELIVERIES_MAX})
        post.put(Address("k", "a"), b"x")
        await post.boxes.idle()
        return post

    post = asyncio.run(run())
    assert post.waits_s == [
        MAILBOX.delay_ms(n, 0.5) / 1000 for n in range(limits.DELIVERIES_MAX - 1)
    ]


def test_what_no_turn_has_begun_can_be_forgotten():
    async def run() -> tuple[Post, list[Letter]]:
        post = Post({})
        for n in range(3):
            post.put(Address("k", "a"), b"%d" % n)
            post.put(Address("k", "b"), b"%d" % n)
        await asyncio.sleep(0)
        dropped = post.boxes.forget()
        await post.boxes.idle()
        return post, dropped

    post, dropped = asyncio.run(run())
    for key in "ab":
        assert [body for body, _ in post.settled[Address("k", key)]] == [b"0"]
        assert [one.envelope for one in dropped if one.to.key == key] == [b"1", b"2"]


def test_a_settlement_that_raises_does_not_stop_the_address():
    async def run() -> list[bytes]:
        done: list[bytes] = []

        async def deliver(_: Address, envelope: bytes) -> bytes:
            done.append(envelope)
            return b""

        async def settle(_: Settled) -> None:
            raise RuntimeError("planted")

        boxes = Mailboxes(deliver, lambda: 0.0)
        for body in (b"1", b"2"):
            boxes.put(Letter(Address("k", "a"), body, settle))
        await boxes.idle()
        return done

    assert asyncio.run(run()) == [b"1", b"2"]
