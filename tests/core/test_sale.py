"""What a sale is at a time, and where an operator's switches lead."""

import pytest
from core.shop import OPENING_MS, a_product, a_sale
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flashsale.core.sale import REACHED, SaleState, Switch, state_at, switched

DRAFT, SCHEDULED, ACTIVE = SaleState.DRAFT, SaleState.SCHEDULED, SaleState.ACTIVE
PAUSED, ENDED = SaleState.PAUSED, SaleState.ENDED
END_MS = OPENING_MS + 3_600_000

# The window is [opening, end): paused and ended are the operator's flags.
OVER_TIME = [
    # at                paused ended  is
    (OPENING_MS - 1, False, False, SCHEDULED),
    (OPENING_MS, False, False, ACTIVE),
    (END_MS - 1, False, False, ACTIVE),
    (END_MS, False, False, ENDED),
    (END_MS + 10**12, False, False, ENDED),
    (OPENING_MS - 1, True, False, SCHEDULED),
    (OPENING_MS, True, False, PAUSED),
    (END_MS - 1, True, False, PAUSED),
    (END_MS, True, False, ENDED),
    (OPENING_MS - 1, False, True, ENDED),
    (OPENING_MS, False, True, ENDED),
    (OPENING_MS, True, True, ENDED),
]


@pytest.mark.parametrize(("at_ms", "paused", "ended", "state"), OVER_TIME)
def test_a_sale_follows_from_its_window_and_its_flags(at_ms, paused, ended, state):
    assert state_at(a_sale(ends_at_ms=END_MS, paused=paused, ended=ended), at_ms) is state


@pytest.mark.parametrize("at_ms", [0, OPENING_MS, END_MS])
def test_a_sale_without_a_start_is_a_draft(at_ms):
    assert state_at(a_sale(starts_at_ms=None, ends_at_ms=END_MS), at_ms) is DRAFT


def test_a_sale_without_an_end_goes_on():
    assert state_at(a_sale(), OPENING_MS + 10**12) is ACTIVE


IN_STATE = {
    DRAFT: a_sale(starts_at_ms=None),
    SCHEDULED: a_sale(starts_at_ms=OPENING_MS + 1),
    ACTIVE: a_sale(),
    PAUSED: a_sale(paused=True),
    ENDED: a_sale(ended=True),
}
LEADS_TO = {
    #           start   pause   resume  end            (None: refused)
    DRAFT: (ACTIVE, None, None, None),
    SCHEDULED: (ACTIVE, None, None, None),
    ACTIVE: (ACTIVE, PAUSED, ACTIVE, ENDED),
    PAUSED: (None, PAUSED, ACTIVE, ENDED),
    ENDED: (None, None, None, ENDED),
}


@pytest.mark.parametrize("state", SaleState)
@pytest.mark.parametrize(("column", "switch"), list(enumerate(Switch)))
def test_a_switch_leads_where_the_table_says_or_is_refused(state, column, switch):
    sale = IN_STATE[state]
    after = switched(sale, switch, OPENING_MS)
    assert (state_at(after, OPENING_MS) if after else None) is LEADS_TO[state][column]


@pytest.mark.parametrize("state", SaleState)
@pytest.mark.parametrize("switch", Switch)
def test_each_change_has_a_new_version_and_what_changes_nothing_keeps_its_own(state, switch):
    sale = IN_STATE[state]
    after = switched(sale, switch, OPENING_MS)
    if after is not None:
        assert after.version == sale.version + (state is not REACHED[switch])
        assert (after is sale) == (state is REACHED[switch])


moments = st.integers(0, 100)
drafts = st.just(a_sale(starts_at_ms=None))
begun = st.builds(
    lambda start, end, paused, ended: a_sale(starts_at_ms=start, ends_at_ms=end, paused=paused, ended=ended),
    moments, st.integers(101, 200) | st.none(), st.booleans(), st.booleans(),
)  # fmt: skip
sales = drafts | begun


@given(sales, moments, st.sampled_from(Switch))
def test_a_switch_that_is_taken_leads_where_it_says(sale, now_ms, switch):
    after = switched(sale, switch, now_ms)
    assert after is None or state_at(after, now_ms) is REACHED[switch]


@given(sales, moments, moments)
def test_time_alone_only_opens_and_ends_a_sale(sale, earlier_ms, later_ms):
    order = [DRAFT, SCHEDULED, ACTIVE, PAUSED, ENDED]
    before, after = (state_at(sale, at_ms) for at_ms in sorted((earlier_ms, later_ms)))
    assert order.index(before) <= order.index(after)


def test_a_changed_sale_finds_its_new_products():
    sale = a_sale(a_product("lamp"))
    assert sale.product("chair") is None
    assert replace(sale, products=(a_product("chair"),)).product("chair") is not None
