"""Page tokens."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond.domain import ids
from millpond.store import paging

ALPHABET = set(string.ascii_letters + string.digits + "-_")
ENTITY_IDS = st.text(string.ascii_letters + string.digits + "-_:", min_size=1, max_size=80)


@given(ENTITY_IDS)
def test_a_token_of_an_id_leads_back_to_it(entity_id):
    token = paging.token_of_id(entity_id)
    assert set(token) <= ALPHABET
    assert paging.id_after(token) == ids.id_key(entity_id)


@given(st.integers(1, 2**20), st.integers(0, 2**32 - 1))
def test_a_token_of_a_task_leads_back_to_it(job_no, number):
    token = paging.token_of_task(ids.task_key(job_no, number))
    assert set(token) <= ALPHABET
    assert paging.task_after(job_no, token) == ids.task_key(job_no, number)


def test_the_first_page_follows_nothing():
    assert paging.id_after(None) == ""
    assert paging.task_after(3, None) < ids.task_key(3, 0)


@given(st.text(max_size=20))
def test_any_other_text_is_refused(text):
    for read in (paging.id_after, lambda token: paging.task_after(1, token)):
        try:
            found = read(text)
        except ValueError:
            continue
        again = paging.token_of_id(found) if isinstance(found, str) else paging.token_of_task(found)
        assert again == text or (isinstance(found, int) and text.startswith("t"))


@pytest.mark.parametrize("token", ["iAGE", "iQQ", "iYQ==", "i_w", "tG", "t", "t-1", "t0x1"])
def test_tokens_nobody_made(token):
    with pytest.raises(ValueError, match="is not where a page"):
        paging.id_after(token)
    with pytest.raises(ValueError, match="is not where a page"):
        paging.task_after(1, token)
