"""A run as text: details for people, and a one-line summary."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from headrace_devstack.services import NAMES

from headrace_chaos.checks import Judgement
from headrace_chaos.plan import Blow
from headrace_chaos.recovery import Recovery, by_blow, p50_and_max

TARGET_SECONDS = 5.0
_SHOWN = 40
_DEATHS = (Blow.KILL.value, Blow.STOP.value)


def of_services(recoveries: Sequence[Recovery]) -> list[Recovery]:
    """Those after the death of a service while all its dependencies were up."""
    return [
        one
        for one in recoveries
        if one.death.blow in _DEATHS and one.death.who.removesuffix("-2") in NAMES and not one.death.apart
    ]


def details(judgement: Judgement, recoveries: Sequence[Recovery], skipped: Sequence[str]) -> Iterator[str]:
    """Recovery of each service and part, and the violations."""
    yield "recovery: seconds from the death to the first new work done, and to such work in the last of its partitions"
    alone = of_services(recoveries)
    for service in NAMES:
        yield from _row(service, [one for one in alone if one.death.who.removesuffix("-2") == service])
    for blow, found in by_blow([one for one in recoveries if one not in alone]).items():
        yield from _row(f"{blow} (apart)" if blow in _DEATHS else blow, found)
    yield f"journal: {judgement.epochs} takeovers, {judgement.ignored_entries} entries that do not count"
    if judgement.faults:
        met = sorted(judgement.faults.items(), key=lambda item: (-item[1], item[0]))
        yield "calls that met a fault of a provider: " + ", ".join(f"{name} {number}" for name, number in met)
    for text in skipped:
        yield f"not applied: {text}"
    rules = Counter(violation.rule for violation in judgement.violations)
    for rule, number in rules.items():
        yield f"VIOLATED {number} times: {rule}"
    for violation in judgement.violations[:_SHOWN]:
        yield f"  {violation}"


def closing_line(
    *,
    seed: int,
    seconds: float,
    dealt: Mapping[Blow, int],
    judgement: Judgement,
    recoveries: Sequence[Recovery],
    disk: bool,
    kept: Path | None,
) -> str:
    """Kills, tasks, duplicates by kind, recovery times, verdict."""
    kills = ", ".join(f"{blow.value} {number}" for blow, number in sorted(dealt.items(), key=lambda item: item[0].name))
    ended = ", ".join(f"{status} {number}" for status, number in sorted(judgement.ended.items()))
    duplicates = ", ".join(f"{kind} {number}" for kind, number in judgement.duplicates.items())
    alone = of_services(recoveries)
    first = p50_and_max([one.first_ms for one in alone if one.first_ms is not None])
    last = p50_and_max([one.everywhere_ms for one in alone if one.everywhere_ms is not None])
    never = sum(one.first_ms is None for one in alone)
    verdict = f"{'FAIL' if judgement.violations else 'PASS'}: {len(judgement.violations)} violations"
    where = f", data and logs in {kept}" if kept else ""
    no_disk = "" if disk else "; disk full: not possible here (needs the right to mount)"
    faults = f"; {sum(judgement.faults.values())} calls met {len(judgement.faults)} faults of providers"
    unseen = f", {never} without new work in time" if never else ""
    return (
        f"chaos seed {seed}, {seconds / 60:.1f} min: {sum(dealt.values())} kills ({kills}){no_disk}; "
        f"{judgement.tasks} tasks ({ended}){faults if judgement.faults else ''}; duplicates: {duplicates}; "
        f"recovery of {len(alone)} services p50 {first[0]:.1f} s, max {first[1]:.1f} s "
        f"(all partitions p50 {last[0]:.1f} s, max {last[1]:.1f} s{unseen}); {_by_kind(recoveries)}{verdict}{where}"
    )


def _by_kind(recoveries: Sequence[Recovery]) -> str:
    """Of each kind of fault: how often it was, and how long until work went on, and until it did in all partitions."""
    kinds = [
        f"{blow} {_seconds(one.first_ms for one in found)} ({_seconds(one.everywhere_ms for one in found)})"
        for blow, found in sorted(by_blow(recoveries).items())
    ]
    return f"by kind, p50/max in s (all partitions): {', '.join(kinds)}; " if kinds else ""


def _seconds(milliseconds: Iterable[int | None]) -> str:
    known = [one for one in milliseconds if one is not None]
    return "{:.1f}/{:.1f}".format(*p50_and_max(known)) if known else "never"


def _row(name: str, found: Sequence[Recovery]) -> Iterator[str]:
    if found:
        first = p50_and_max([one.first_ms for one in found if one.first_ms is not None])
        last = p50_and_max([one.everywhere_ms for one in found if one.everywhere_ms is not None])
        never = sum(one.first_ms is None for one in found)
        yield (
            f"  {name:22} {len(found):3} times   first p50 {first[0]:5.1f} max {first[1]:5.1f}   "
            f"all p50 {last[0]:5.1f} max {last[1]:5.1f}" + (f"   {never} never" if never else "")
        )
