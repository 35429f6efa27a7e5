"""Places in the feed, and pages of a search."""

import pytest
from headrace_skill_broadcaster.decide.feed_positions import (
    FeedPositionMalformed,
    are_gone,
    decode_places,
    encode_places,
    places_to_resume,
)
from headrace_skill_broadcaster.decide.search import (
    DEEPEST,
    SearchQuery,
    SearchQueryInvalid,
    SearchResult,
    ask,
    next_cursor,
)
from headrace_skill_broadcaster.recent import AnnouncedVersion, Recent, RecentVersions


def test_places_survive_the_way_to_the_agent_and_back() -> None:
    positions = {0: 17, 3: 9_000_000_000, 5: 0}
    assert encode_places(positions, (0, 3)) == "0.17-3.9000000000"
    assert decode_places(encode_places(positions, (0, 3, 5))) == positions


@pytest.mark.parametrize("text", ["", "x", "1", "1.2.3", "1.2-", "-1.2", "1.2-1.3", "1.2 ", "1.²", "1." + "9" * 20])
def test_what_was_never_given_out_is_refused(text: str) -> None:
    with pytest.raises(FeedPositionMalformed):
        decode_places(text)


def test_a_new_interest_starts_with_what_comes_now() -> None:
    assert places_to_resume({1: 5, 9: 9}, {1: 8, 2: 20}) == {1: 5, 2: 20}
    assert places_to_resume(None, {1: 8}) == {1: 8}


def test_places_outside_of_the_log_are_gone() -> None:
    assert not are_gone({1: 5, 2: 9}, {1: (5, 7), 2: (0, 9)})
    assert are_gone({1: 4}, {1: (5, 7)})
    assert are_gone({1: 8}, {1: (5, 7)})


def told(offset: int, size: int = 10) -> AnnouncedVersion:
    return AnnouncedVersion(
        partition=0, offset=offset, key=b"k", version=("a", offset), published_at=0, payload=b"x" * size
    )


def test_memory_says_from_where_on_it_is_complete() -> None:
    recent = Recent(100, limit_bytes=25)
    assert (recent.since, recent.until, recent.after(100)) == (100, 100, [])
    recent.add(100, told(100))
    recent.add(101, None)
    recent.add(102, told(102))
    assert (recent.since, recent.until) == (100, 103)
    assert [event.offset for event in recent.after(101)] == [102]
    recent.add(103, told(103))
    assert (recent.since, recent.until) == (101, 104)
    assert [event.offset for event in recent.after(0)] == [102, 103]


def test_an_event_larger_than_the_memory_is_not_held() -> None:
    recent = Recent(0, limit_bytes=5)
    recent.add(0, told(0))
    assert (recent.since, recent.until, recent.after(0)) == (1, 1, [])


def test_versions_are_forgotten_oldest_first() -> None:
    versions = RecentVersions(2)
    assert [versions.is_repeat(("a", number)) for number in (1, 2, 1, 3, 1)] == [False, False, True, False, False]


def test_a_question_needs_a_sensible_limit_and_words() -> None:
    assert ask("acme", "retry, with JITTER!", ("testing",), 20, 200, None) == SearchQuery(
        "acme", ("retry", "with", "JITTER"), ("testing",), 20
    )
    for limit in (0, 201):
        with pytest.raises(SearchQueryInvalid) as caught:
            ask("acme", "", (), limit, 200, None)
        assert caught.value.parameter == "limit"
    with pytest.raises(SearchQueryInvalid) as caught:
        ask("acme", "?!", (), 20, 200, None)
    assert caught.value.parameter == "q"


def test_pages_by_name_and_by_rank_go_on_where_they_ended() -> None:
    by_name = ask("acme", "", (), 2, 200, None)
    cursor = next_cursor(by_name, SearchResult(("a", "b", "c")))
    assert ask("acme", "", (), 2, 200, cursor).after == "b"
    by_rank = ask("acme", "word", (), 2, 200, None)
    cursor = next_cursor(by_rank, SearchResult(("a", "b", "c"), widened=True))
    following = ask("acme", "word", (), 2, 200, cursor)
    assert (following.skip, following.widened) == (2, True)
    assert next_cursor(following, SearchResult(("a", "b"))) is None


@pytest.mark.parametrize("cursor", ["all:1", "any:5", "x", "after:"])
def test_a_cursor_of_another_question_is_refused(cursor: str) -> None:
    with pytest.raises(SearchQueryInvalid):
        ask("acme", "", (), 20, 200, cursor)


@pytest.mark.parametrize("cursor", ["after:a", "all:0", "all:-1", f"any:{DEEPEST}", "all:x"])
def test_a_bad_cursor_by_rank_is_refused(cursor: str) -> None:
    with pytest.raises(SearchQueryInvalid):
        ask("acme", "word", (), 20, 200, cursor)
