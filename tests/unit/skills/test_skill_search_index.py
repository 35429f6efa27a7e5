"""The full-text index on its own."""

from collections.abc import AsyncIterator

import pytest
from headrace_skill_broadcaster.adapters.search_index import IndexEntry, Removal, SearchIndex
from headrace_skill_broadcaster.decide.search import SearchQuery, words_of


@pytest.fixture
async def index() -> AsyncIterator[SearchIndex]:
    index = SearchIndex()
    yield index
    await index.close()


def entry(name: str, title: str = "", summary: str = "", *interests: str, tenant: str = "acme") -> IndexEntry:
    return IndexEntry(tenant, name, title, summary, interests)


async def names(
    index: SearchIndex, text: str = "", *interests: str, tenant: str = "acme", limit: int = 20
) -> list[str]:
    found = await index.search(SearchQuery(tenant, words_of(text), interests, limit))
    return list(found.names)


async def test_a_word_in_the_name_counts_more_than_one_in_the_summary(index: SearchIndex) -> None:
    await index.apply(
        [
            entry("a", "Something", "about retries of calls"),
            entry("retry-calls", "Calls"),
            entry("z", "Other"),
        ]
    )
    assert await names(index, "retry") == ["retry-calls", "a"]


async def test_word_forms_case_and_accents_do_not_matter(index: SearchIndex) -> None:
    await index.apply([entry("a", "Café MIGRATIONS")])
    assert await names(index, "cafe migrating") == ["a"]


async def test_the_last_word_may_be_unfinished(index: SearchIndex) -> None:
    await index.apply([entry("a", "Postgres migrations")])
    assert await names(index, "postgres mig") == ["a"]
    assert await names(index, "postg mig") == ["a"]


async def test_all_words_go_before_some(index: SearchIndex) -> None:
    await index.apply([entry("a", "alpha beta"), entry("b", "alpha gamma")])
    assert await names(index, "alpha beta") == ["a"]
    assert set(await names(index, "beta gamma")) == {"a", "b"}


async def test_tenants_do_not_see_each_other(index: SearchIndex) -> None:
    await index.apply([entry("a", "alpha", tenant="acme"), entry("b", "alpha", tenant="umbra")])
    assert await names(index, "alpha") == ["a"]
    assert await names(index, tenant="umbra") == ["b"]
    assert await names(index, "alpha", tenant="acme OR umbra") == []


async def test_interests_narrow_search_and_list(index: SearchIndex) -> None:
    await index.apply([entry("a", "alpha", "", "x"), entry("b", "alpha", "", "x", "y"), entry("c", "alpha", "", "z")])
    assert set(await names(index, "alpha", "x")) == {"a", "b"}
    assert await names(index, "", "y", "z") == ["b", "c"]
    assert await names(index, "") == ["a", "b", "c"]


async def test_a_new_version_replaces_the_old_and_a_removal_takes_it_out(index: SearchIndex) -> None:
    await index.apply([entry("a", "alpha", "", "x")])
    await index.apply([entry("a", "beta", "", "y")])
    assert await names(index, "alpha") == []
    assert await names(index, "beta") == ["a"]
    assert await names(index, "", "x") == []
    await index.apply([Removal("acme", "a"), Removal("acme", "never-there")])
    assert await names(index, "beta") == []
    assert await names(index) == []


@pytest.mark.parametrize("text", ['"', "a AND", "NEAR(a b)", "col:x", "a* OR b", "-a", "^a", "ein „Wort“"])
async def test_what_people_type_is_never_syntax(index: SearchIndex, text: str) -> None:
    await index.apply([entry("a", "alpha")])
    await names(index, text)


async def test_pages_do_not_overlap(index: SearchIndex) -> None:
    await index.apply([entry(f"s-{number:02}", "alpha") for number in range(7)])
    by_name = await index.search(SearchQuery("acme", limit=3, after="s-02"))
    assert by_name.names == ("s-03", "s-04", "s-05", "s-06")
    first = await index.search(SearchQuery("acme", ("alpha",), limit=3))
    second = await index.search(SearchQuery("acme", ("alpha",), limit=3, skip=3, widened=first.widened))
    assert len({*first.names[:3], *second.names[:3]}) == 6
