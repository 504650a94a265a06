"""A space on a store under test, and commits to it as UserSync makes them."""

from dataclasses import dataclass

from actors.core.admission import admit, read, wanted
from actors.ports import Address
from actors.records import Wanted
from protocol import journal
from tests.contracts.house import House
from tests.contracts.pen import Pen, fresh_id

QUOTA_BYTES = 1_000
HOUR_MS = 3_600_000


@dataclass
class Home:
    """An account with a space, and one of its devices."""

    house: House
    pen: Pen
    address: Address

    async def commit(self, *changes, stored=(), answered=0):
        """Run one commit as UserSync does; returns its decision."""
        command = self.pen.commit(*changes, stored=tuple(stored), answered=answered)
        commit = read(command)
        async with self.house.store.turn(self.address) as turn:
            space = await turn.space(command.space, command.account)
            view = await turn.look(command.space, command.device, wanted(commit))
            decision = admit(space, view, commit, turn.now_ms)
            if decision.batch:
                await turn.write(decision.batch)
        self.pen.head_seq, self.pen.head = decision.answer.head_seq, decision.answer.head
        return decision

    async def look(self, device: bytes | None = None, **keys):
        async with self.house.store.turn(self.address) as turn:
            what = Wanted(**{name: frozenset(found) for name, found in keys.items()})
            return await turn.look(self.pen.space, device or self.pen.device, what)

    async def space(self, account: bytes | None = None):
        async with self.house.store.turn(self.address) as turn:
            return await turn.space(self.pen.space, account or self.pen.account)


async def home(house: House, quota_bytes: int = QUOTA_BYTES, **more) -> Home:
    account, space, history = fresh_id("account"), fresh_id("space"), fresh_id("history")
    head = journal.genesis(space, history, bytes(32))
    await house.seed.add_account(account, quota_bytes=quota_bytes)
    await house.seed.add_space(space, account, history, head, **more)
    pen = Pen(space, account, history, head)
    return Home(house, pen, Address("user-sync", account.hex()))
