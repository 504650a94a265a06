"""What every Store must do. An adapter's test hands its factory to each function of `CONTRACT`.

    @pytest.mark.parametrize("promise", CONTRACT, ids=lambda f: f.__name__)
    async def test_store(promise):
        await promise(await make_house())

A promise may run on a store with other people's rows in it: it makes its own accounts and spaces.
"""

from tests.contracts import store_rooms, store_spaces, store_turns
from tests.contracts.home import Home, home
from tests.contracts.house import Clock, Heard, House, Seed
from tests.contracts.store_history import a_long_history_reads_as_it_does_in_memory
from tests.contracts.store_rooms import upload
from tests.contracts.store_turns import stored_answer

CONTRACT = [
    store_turns.an_answer_is_kept_for_its_address,
    store_turns.a_second_answer_to_the_same_message_is_overtaken,
    store_turns.of_two_turns_that_answer_at_once_one_is_overtaken,
    store_turns.a_turn_that_raises_leaves_nothing,
    store_turns.a_turn_reads_its_own_writes,
    store_turns.what_is_told_is_said_after_the_commit_in_order,
    store_turns.what_was_not_delivered_is_left_to_the_relay,
    store_turns.what_is_told_for_later_waits_until_it_is_due,
    store_turns.read_answers_are_forgotten_and_remembered_as_read,
    store_spaces.a_space_is_seen_with_the_role_of_who_asks,
    store_spaces.a_space_shows_that_its_owner_is_suspended,
    store_spaces.a_space_is_locked_until_its_turn_ends,
    store_spaces.a_batch_on_an_old_head_is_overtaken,
    store_spaces.nodes_are_seen_whole_with_their_ancestors,
    store_spaces.tokens_are_held_by_live_nodes_only,
    store_spaces.names_are_swapped_in_one_batch,
    store_spaces.children_are_the_live_ones,
    store_spaces.versions_are_kept_whole,
    store_spaces.dots_lead_to_the_rows_of_their_device_in_this_space,
    store_spaces.buckets_sum_the_leaves_of_live_nodes,
    store_rooms.a_space_holds_what_it_leased_while_the_lease_runs,
    store_rooms.what_a_version_refers_to_is_held_for_good,
    store_rooms.a_page_brings_what_it_lists,
    store_rooms.what_a_page_was_first_said_to_list_stays,
    store_rooms.a_batch_without_rows_makes_chunks_known,
    store_rooms.an_upload_is_kept_with_its_reservation,
    store_rooms.a_reservation_beyond_the_quota_writes_nothing,
    store_rooms.of_two_reservations_at_once_only_what_fits_is_made,
    store_rooms.conflicts_are_kept_and_flag_their_node,
    store_spaces.a_thousand_changes_are_one_batch,
    a_long_history_reads_as_it_does_in_memory,
]
__all__ = ["CONTRACT", "Clock", "Heard", "Home", "House", "Seed", "home", "stored_answer", "upload"]
