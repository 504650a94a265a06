from actors.actor import members
from actors.roster import ROSTER


def test_every_actor_has_a_kind_and_a_conversation_of_its_own():
    kinds = [actor.kind for actor in ROSTER]
    assert kinds == ["user-sync", "upload-session", "conflict-arbiter"]
    accepted = [message for actor in ROSTER for message in members(actor.accepts)]
    assert len(accepted) == len(set(accepted))


def test_every_status_says_what_may_arrive():
    for actor in ROSTER:
        statuses = set(actor.transitions)
        for row in actor.transitions.values():
            assert all(after <= statuses for after in row.values())
