"""When to restart a part that exited. Pure: times come in, values go out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Exponential backoff; all in seconds.

    The delay of a part that was healthy for ``forget_after`` is reset to ``first``: it has just shown that it can run,
    and users may be waiting for it. A part that was never healthy may fail ``tries_before_healthy`` times; after that
    starting the stack has failed.
    """

    first: float = 0.1
    factor: float = 2.0
    longest: float = 10.0
    forget_after: float = 10.0
    tries_before_healthy: int = 2


@dataclass(frozen=True, slots=True)
class RestartState:
    """A part's failures so far: consecutive ones, in total, and whether it was ever healthy."""

    in_a_row: int = 0
    total: int = 0
    was_healthy: bool = False


@dataclass(frozen=True, slots=True)
class RestartAfter:
    """Restart it after this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class StopRestarting:
    """It never became healthy; restarting it would not help."""

    tries: int


def on_exit(
    state: RestartState, policy: RestartPolicy, *, healthy_for: float | None
) -> tuple[RestartState, RestartAfter | StopRestarting]:
    """Decide what follows an unexpected exit of a part, healthy for `healthy_for` seconds (None: not in this run)."""
    was_healthy = state.was_healthy or healthy_for is not None
    earlier = 0 if healthy_for is not None and healthy_for >= policy.forget_after else state.in_a_row
    after = RestartState(in_a_row=earlier + 1, total=state.total + 1, was_healthy=was_healthy)
    if not was_healthy and after.in_a_row >= policy.tries_before_healthy:
        return after, StopRestarting(after.in_a_row)
    return after, RestartAfter(min(policy.first * policy.factor ** min(earlier, 32), policy.longest))


def start_patience(seconds: float, state: RestartState) -> float:
    """Seconds that a part may take to become healthy, given the limit for its first start.

    The limit doubles with each restart of a part that could run before: it may have much to recover on a busy machine,
    and ending it would only make it start over.
    """
    return seconds * 2.0 ** min(state.in_a_row, 6) if state.was_healthy else seconds
