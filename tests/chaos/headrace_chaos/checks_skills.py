"""Promises to agents that learn: a published skill is in the catalog as one version, and in the feed once."""

from collections import defaultdict
from collections.abc import Iterator

from headrace_chaos.evidence import Evidence, Told, Value, Violation


def violations(evidence: Evidence) -> Iterator[Violation]:
    """All checks."""
    versions: defaultdict[tuple[str, str], dict[int, Value]] = defaultdict(dict)
    for record in evidence.of("skills.catalog"):
        if (entry := record.value) is None:
            continue
        known = versions[entry["tenant"], entry["name"]]
        before = known.setdefault(entry["version"], entry)
        if (before["digest"], before["status"]) != (entry["digest"], entry["status"]):
            yield Violation("two skills of one version", f"{entry['tenant']}/{entry['name']} {entry['version']}")
    for (tenant, name), known in versions.items():
        if sorted(known) != list(range(1, len(known) + 1)):
            yield Violation("versions with a gap", f"{tenant}/{name}: {sorted(known)}")
    for claim in evidence.skills:
        if claim.told is not Told.ACCEPTED:
            continue
        entries = versions.get((claim.tenant, claim.name), {}).values()
        if not any(entry["digest"] == claim.digest for entry in entries):
            yield Violation("skill lost", f"{claim.tenant}/{claim.name} was accepted and is not in the catalog")
        elif claim.version and not any(
            entry["digest"] == claim.digest and entry["version"] == claim.version for entry in entries
        ):
            yield Violation("skill of another version", f"{claim.tenant}/{claim.name}: told {claim.version}")
    yield from _feed(evidence, versions)


def _feed(evidence: Evidence, versions: dict[tuple[str, str], dict[int, Value]]) -> Iterator[Violation]:
    told: defaultdict[tuple[str, str, int, str], set[str]] = defaultdict(set)
    for record in evidence.of("skills.feed"):
        if (change := record.value) is not None:
            told[change["tenant"], change["name"], change["version"], change["interest"]].add(record.event_id)
    expected = {
        (tenant, name, version, interest)
        for (tenant, name), known in versions.items()
        for version, entry in known.items()
        for interest in {*entry["interests"], *entry["previous_interests"]}
    }
    for place in sorted(expected - told.keys()):
        yield Violation("a skill missing in the feed", "/".join(map(str, place)))
    for place in sorted(told.keys() - expected):
        yield Violation("a skill in the feed that is not in the catalog", "/".join(map(str, place)))
    for place, ids in told.items():
        if len(ids) > 1:
            yield Violation("a skill in the feed under two ids", "/".join(map(str, place)))
