"""Topics and groups of sites follow from a site's name."""

from __future__ import annotations

import pytest
from headrace_contracts.codec import spec_of
from headrace_contracts.events import Lane, Place
from headrace_contracts.groups import LOCAL_WORKER, local_worker_of
from headrace_contracts.sites import SiteInvalid, site_name, site_names
from headrace_contracts.topics import (
    TOPICS,
    WORK_LOCAL_BATCH,
    WORK_LOCAL_INTERACTIVE,
    dead_letters_of,
    site_topics,
    topic_named,
    topics_with,
    with_partitions,
    work_topic,
)


@pytest.mark.parametrize("name", ["berlin", "gpu-1", "0", "-", "a" * 40, "dlq"])
def test_a_site_is_named_by_letters_digits_and_hyphens(name: str) -> None:
    assert site_name(name) == name
    topics = site_topics([name])
    assert [spec.name for spec in topics] == [f"work.local.{name}.interactive", f"work.local.{name}.batch"]
    for spec in topics:
        assert topic_named(spec.name) == spec
        assert spec_of(f"x.{spec.name}", "x.") == spec
        assert spec.name not in TOPICS, "no site is mistaken for a topic without one"


@pytest.mark.parametrize("name", ["", "Berlin", "a.b", "a" * 41, "a_b", "ä", "a b", "interactive", "batch", "a\n"])
def test_other_names_are_refused_with_what_a_name_is(name: str) -> None:
    with pytest.raises(SiteInvalid, match="site"):
        site_name(name)


def test_a_site_named_twice_is_one() -> None:
    assert site_names(["b", "a", "b"]) == ("b", "a")


def test_without_a_site_everything_is_as_it_was() -> None:
    assert work_topic(Place.LOCAL, Lane.BATCH, "") is WORK_LOCAL_BATCH
    assert local_worker_of("") is LOCAL_WORKER
    assert topics_with([]) == TOPICS


def test_the_topics_of_a_site_are_like_those_without_one() -> None:
    spec = work_topic(Place.LOCAL, Lane.INTERACTIVE, "berlin")
    base = WORK_LOCAL_INTERACTIVE
    assert (spec.record, spec.key, spec.cleanup, spec.retention_ms, spec.partitions, spec.writers, spec.readers) == (
        base.record, base.key, base.cleanup, base.retention_ms, base.partitions, base.writers, base.readers,
    )  # fmt: skip
    assert spec.subject == "work.local.berlin.interactive-value"
    assert dead_letters_of(spec) == dead_letters_of(base), "one place to look for dead letters of local attempts"
    assert local_worker_of("berlin").name == "local-worker.berlin"
    assert local_worker_of("berlin").topics == site_topics(["berlin"])


def test_the_cloud_has_no_sites() -> None:
    with pytest.raises(SiteInvalid, match="only local nodes"):
        work_topic(Place.CLOUD, Lane.BATCH, "berlin")


@pytest.mark.parametrize(
    "name",
    ["work.cloud.berlin.batch", "work.local.Berlin.batch", "work.local.berlin.slow", "work.local.a.b.batch", "x"],
)
def test_no_other_name_is_a_topic(name: str) -> None:
    with pytest.raises(KeyError):
        topic_named(name)


def test_the_topics_of_sites_have_as_many_partitions_as_those_without_unless_they_are_named() -> None:
    counts = {"work.local.batch": 3, "work.local.berlin.batch": 9}
    specs = with_partitions(topics_with(["berlin", "paris"]), counts)
    found = [specs[f"work.local.{name}batch"].partitions for name in ("", "berlin.", "paris.")]
    assert found == [3, 9, 3]
    assert specs["work.local.paris.interactive"].partitions == WORK_LOCAL_INTERACTIVE.partitions
