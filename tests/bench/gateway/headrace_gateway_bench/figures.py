"""From what was measured in each window to what is reported. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace_bench.ratios import Spread, percentile, ratios, spread

MODES = ("plain", "streamed")


@dataclass(frozen=True, slots=True, order=True)
class Setup:
    """What the windows of a row have in common."""

    mode: str
    callers: int
    system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredWindow:
    """One system under one load, for a while.

    Attributes:
        seconds: How long it was open.
        milliseconds: Of each answered request.
        first_milliseconds: Until the first byte of each answer.
        errors: Failed requests, by reason.
        cpu_seconds: Processor time while it was open, by part of the system.
        upstream_cpu_seconds, load_cpu_seconds: Those of the upstream and of the process with the callers.
        others_cpu_seconds: Those of the systems that were running, and not measured.
        elsewhere_cpu_seconds: Those of everything else on the machine.
        round: Number of its round, from 1 on.
    """

    setup: Setup
    round: int
    seconds: float
    milliseconds: Sequence[float]
    first_milliseconds: Sequence[float]
    errors: Mapping[str, int]
    cpu_seconds: Mapping[str, float]
    upstream_cpu_seconds: float
    load_cpu_seconds: float
    others_cpu_seconds: float
    elsewhere_cpu_seconds: float

    @property
    def answered(self) -> int:
        """Requests with a whole answer."""
        return len(self.milliseconds)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def cpu_ms(self) -> float | None:
        """Processor time of the system for an answer; None without any."""
        return per_answer(sum(self.cpu_seconds.values()), self.answered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All rounds of one system under one load. Medians, with the rounds' extremes where it is a Spread.

    Attributes:
        rate: Answers a second.
        p50, p99, first_p50: Milliseconds until the whole answer, and until its first byte.
        errors: Failed requests of all rounds, by reason.
        cpu_ms: Processor time of the whole system for an answer, in milliseconds.
        cpu_ms_by_part: The same of each part: the median over the rounds.
        upstream_cpu_ms, load_cpu_ms: Those of the upstream and of the callers.
        cores: Processors that the system kept busy.
        rate_ratio, cpu_ratio: How many times the peer's figures these are, round by round; None without a peer.
    """

    setup: Setup
    rounds: int
    answered: int
    rate: Spread
    p50: float
    p99: float
    first_p50: float
    errors: Mapping[str, int]
    cpu_ms: Spread
    cpu_ms_by_part: Mapping[str, float]
    upstream_cpu_ms: float
    load_cpu_ms: float
    cores: float
    rate_ratio: Spread | None
    cpu_ratio: Spread | None

    @property
    def too_short(self) -> bool:
        """Whether windows were too short for a steady state: a caller was not even answered twice.

        Then much of what was done for answers that counted, or of the answers that were worked on, lies outside.
        """
        return self.answered < 2 * self.rounds * self.setup.callers


def per_answer(seconds: float, answered: int) -> float | None:
    """Milliseconds for an answer; None without any."""
    return 1000 * seconds / answered if answered else None


def rows(windows: Sequence[MeasuredWindow], peer: str) -> list[Row]:
    """One for each setup of which every round has answers, in the order of their first windows.

    Args:
        peer: The system that the others are compared with, within each round.
    """
    by_setup: dict[Setup, dict[int, MeasuredWindow]] = {}
    for window in windows:
        by_setup.setdefault(window.setup, {})[window.round] = window
    return [
        _row(setup, found, by_setup.get(Setup(setup.mode, setup.callers, peer), {}))
        for setup, found in by_setup.items()
        if all(window.answered for window in found.values())
    ]


def unanswered(windows: Sequence[MeasuredWindow]) -> list[Setup]:
    """The setups that have no row, since in one of their rounds nothing was answered."""
    return list(dict.fromkeys(window.setup for window in windows if not window.answered))


def _row(setup: Setup, found: Mapping[int, MeasuredWindow], peers: Mapping[int, MeasuredWindow]) -> Row:
    windows = list(found.values())
    pairs = [(window, peers[number]) for number, window in found.items() if number in peers and peers[number].answered]
    errors: Counter[str] = Counter()
    for window in windows:
        errors.update(window.errors)
    parts = dict.fromkeys(part for window in windows for part in window.cpu_seconds)
    return Row(
        setup=setup,
        rounds=len(windows),
        answered=sum(window.answered for window in windows),
        rate=spread([window.rate for window in windows]),
        p50=_median(percentile(sorted(window.milliseconds), 0.5) for window in windows),
        p99=_median(percentile(sorted(window.milliseconds), 0.99) for window in windows),
        first_p50=_median(percentile(sorted(window.first_milliseconds), 0.5) for window in windows),
        errors=dict(errors),
        cpu_ms=spread([_cpu_ms(window) for window in windows]),
        cpu_ms_by_part={
            part: _median(1000 * window.cpu_seconds.get(part, 0.0) / window.answered for window in windows)
            for part in parts
        },
        upstream_cpu_ms=_median(1000 * window.upstream_cpu_seconds / window.answered for window in windows),
        load_cpu_ms=_median(1000 * window.load_cpu_seconds / window.answered for window in windows),
        cores=_median(sum(window.cpu_seconds.values()) / window.seconds for window in windows),
        rate_ratio=ratios([one.rate for one, _ in pairs], [other.rate for _, other in pairs]) if pairs else None,
        cpu_ratio=_cpu_ratio(pairs),
    )


def _cpu_ratio(pairs: Sequence[tuple[MeasuredWindow, MeasuredWindow]]) -> Spread | None:
    """None also where a peer has used no processor time that could be measured."""
    ours, theirs = [_cpu_ms(one) for one, _ in pairs], [_cpu_ms(other) for _, other in pairs]
    return ratios(ours, theirs) if pairs and all(theirs) else None


def _cpu_ms(window: MeasuredWindow) -> float:
    return window.cpu_ms or 0.0


def _median(figures: Iterable[float]) -> float:
    return spread(list(figures)).median


def busy_elsewhere(windows: Sequence[MeasuredWindow]) -> Spread:
    """Processors that other work kept busy while windows were open. Raises ValueError without any window."""
    return spread([window.elsewhere_cpu_seconds / window.seconds for window in windows])


def order(systems: Sequence[str], turn: int) -> list[str]:
    """The systems, beginning with another one each turn."""
    start = turn % len(systems)
    return [*systems[start:], *systems[:start]]


def settled(rates: Sequence[float], idle: float, *, times: int = 2) -> bool:
    """Whether a system has come to rest: the last readings are hardly above what it takes when idle.

    Args:
        rates: Processors busy between readings, oldest first.
        idle: Processors that the idle system keeps busy.
        times: How many readings in a row must be that low.
    """
    return len(rates) >= times and all(rate <= idle * 1.5 + 0.05 for rate in rates[-times:])
