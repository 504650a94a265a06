"""One long random history, on the store in memory and on another: both must say the same."""

from random import Random

from actors.core.admission import admit, read, wanted
from actors.records import Wanted
from protocol import limits
from tests.actors.world import KINDS, World
from tests.contracts.house import House

STEPS = 120
SEED = 20261122
QUOTA_BYTES = 90


async def a_long_history_reads_as_it_does_in_memory(house: House):
    world, dice = World("automatic", QUOTA_BYTES), Random(SEED)
    bench = world.bench
    bench.clock.ms = house.clock.ms
    await house.seed.add_account(bench.owner, quota_bytes=QUOTA_BYTES)
    await house.seed.add_space(bench.space, bench.owner, bench.history, bench.genesis)
    decided = []
    original = bench.decide
    bench.decide = lambda command, credit_bytes=0: (
        decided.append((command, original(command, credit_bytes))) or decided[-1][1]
    )
    for _ in range(STEPS):
        world.step(*step(dice))
        command, decision = decided.pop()
        house.clock.ms = bench.clock.ms
        assert await decide(house, bench.address, command) == decision
    world.check()
    assert len(bench.rows()) > STEPS // 4, "or it was no history"
    mine, theirs = await everything(bench, bench.store), await everything(bench, house.store)
    for fact in mine:
        assert theirs[fact] == mine[fact], fact
    assert await house.seed.merkle(bench.space) == await bench.store.merkle(bench.space)


def step(dice: Random):
    changes = [
        (dice.choice(KINDS), *(dice.randrange(8) for _ in range(4)), dice.random() < 0.5)
        for _ in range(dice.randint(1, 5))
    ]
    return (
        dice.randrange(3),
        dice.random() < 0.7,
        changes,
        dice.choice([0, 0, 0, 1, 2]),
        dice.choice([0, 1, 60_000, limits.LEASE_S * 1000]),
        dice.choice([0, 0, 0, -10_000, 10**12]),
        dice.choice(["inline", "inline", "page", "nothing"]),
    )


async def decide(house: House, address, command):
    commit = read(command)
    async with house.store.turn(address) as turn:
        space = await turn.space(command.space, command.account)
        view = await turn.look(command.space, command.device, wanted(commit))
        decision = admit(space, view, commit, turn.now_ms)
        if decision.batch:
            await turn.write(decision.batch)
        await turn.forget_answers(command.device, commit.header.answered)
    return decision


async def everything(bench, store) -> dict[str, object]:
    """All that a turn can see of the space, field by field."""
    nodes, versions = bench.store.nodes(bench.space), bench.store.versions(bench.space)
    what = Wanted(
        nodes=frozenset(nodes),
        tokens=frozenset((node.parent, node.token) for node in nodes.values()),
        emptied=frozenset(nodes),
        versions=frozenset(versions),
        chunks=frozenset(ref.address for one in versions.values() for ref in one.refs),
        dots=frozenset(range(1, 4 * STEPS)),
    )
    seen: dict[str, object] = {}
    async with store.turn(bench.address) as turn:
        seen["space"] = await turn.space(bench.space, bench.owner)
        for device in sorted({row.device for row in bench.store.rows(bench.space) if row.device}):
            view = await turn.look(bench.space, device, what)
            seen[f"dots of {device.hex()}"] = dict(view.dots)
    seen["nodes"], seen["versions"] = dict(view.nodes), dict(view.versions)
    seen["holders"] = dict(view.holders)
    seen["children"] = {node: set(found) for node, found in view.children.items() if found}
    seen["held"], seen["missing"] = dict(view.held), set(view.missing)
    return seen
