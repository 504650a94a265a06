"""What a person chose: an earlier version as head, and copies that are no longer wanted.

Revert, and the resolution of a conflict, are one atomic group: `set_head` and deletions (SYNC.md
4, 6). The disk follows the journal, as after anybody's change. A choice that was made without
seeing a newer edit is refused and told; nothing is lost. Choices are not kept over a restart.
"""

from collections.abc import Container

from client_agent.core.events import ChangeSpec, Choose
from client_agent.core.state import State
from client_agent.core.trees import Remote
from protocol.entry import ChangeKind
from protocol.limits import COMMIT_CHANGES_MAX


def choose(state: State, event: Choose) -> None:
    """Note a choice; it is sent as soon as nothing else is under way for its nodes."""
    state.choices[event.node] = event


def choice_specs(state: State, room: int, others: Container[bytes]) -> list[ChangeSpec]:
    """Return the changes of the choices to commit now, at most `room`, each choice a group."""
    specs: list[ChangeSpec] = []
    for choice in list(state.choices.values()):
        nodes = (choice.node, *choice.without)
        unfit = any(node in others or state.busy(node) for node in nodes)
        if unfit or len(specs) + len(nodes) > room:
            continue  # the next commit
        del state.choices[choice.node]
        group = COMMIT_CHANGES_MAX - len(specs)  # no other group counts so far
        rows = [state.forest.remote.rows.get(node) for node in nodes]
        if not all(row is not None and row.alive for row in rows):
            state.tell("choice_refused", state.path(choice.node), "it is gone")
            continue
        for row in rows:
            assert row is not None
            head = choice.version if row.node == choice.node else None
            specs.append(_spec(state, row, head, group))
    return specs


def _spec(state: State, row: Remote, head: bytes | None, group: int) -> ChangeSpec:
    return ChangeSpec(
        kind=ChangeKind.DELETE if head is None else ChangeKind.SET_HEAD,
        node=row.node,
        type=row.type,
        dot=0,
        hlc=state.stamp(),
        place_rev=row.place_rev,
        base=row.vector,
        version=head,
        group=group,
    )
