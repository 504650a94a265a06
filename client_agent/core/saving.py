"""Gather what changed in a turn into one `Save`."""

from client_agent.core.events import Commit, Save
from client_agent.core.state import State
from client_agent.core.status import queued


def take(state: State) -> Save | None:
    """Return what has to be saved, and begin to note changes anew; None if nothing changed."""
    forest, unsaved = state.forest, state.unsaved
    if not (
        unsaved
        or forest.unsaved_local
        or forest.unsaved_remote
        or forest.unsaved_synced
        or state.unsaved_conflicts
        or state.unsaved_queue
        or state.happened
    ):
        return None
    save = Save(
        local={
            n: forest.local.rows.get(n) for n in forest.unsaved_local if n not in state.missing
        },
        remote={n: forest.remote.rows.get(n) for n in forest.unsaved_remote},
        synced={n: forest.synced.get(n) for n in forest.unsaved_synced},
        conflicts={n: state.conflicts.get(n) for n in state.unsaved_conflicts},
        queue={n: queued(state, n) for n in state.unsaved_queue},
        cursor=state.cursor if "cursor" in unsaved else None,
        dots=state.dots if "dots" in unsaved else None,
        ops=state.ops if "ops" in unsaved else None,
        hlc=state.hlc if "hlc" in unsaved else None,
        history=tuple(state.happened),
        sent=_sent(state) if "sent" in unsaved else None,
        generation=state.generation if "generation" in unsaved else None,
    )
    unsaved.clear()
    forest.unsaved_local.clear()
    forest.unsaved_remote.clear()
    forest.unsaved_synced.clear()
    state.unsaved_conflicts.clear()
    state.unsaved_queue.clear()
    state.happened.clear()
    return save


def _sent(state: State) -> tuple[Commit, ...]:
    return () if state.sending is None else (state.sending.commit,)
