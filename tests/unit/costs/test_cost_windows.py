"""The parts of live windows that need no Kafka: adding up, credentials, and starting anew after a failure."""

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from itertools import pairwise

import pytest
from faust.auth import SASLCredentials, SSLCredentials
from headrace_cost_accountant.adapters.faust_credentials import NotForFaust, credentials_of
from headrace_cost_accountant.decide.windows import add_once
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.service import LiveWindowsRunner
from headrace_runtime.health import Health
from headrace_runtime.metrics import Metrics
from hypothesis import given
from hypothesis import strategies as st


def test_records_that_are_read_again_are_not_added_again() -> None:
    first = [(10, (1, 5, 6, 0, 0, 100, 3, 4))]
    held = add_once([], 2, first)
    assert held == [2, 10, 1, 5, 6, 0, 0, 100, 3, 4]
    assert add_once(held, 2, first) is held
    assert add_once(held, 2, [(8, (1,) * 8), (9, (1,) * 8)]) is held
    assert add_once(held, 2, [(9, (5,) * 8), (10, (5,) * 8), (12, (1,) * 8), (15, (2,) * 8)]) == [
        2, 15, 4, 8, 9, 3, 3, 103, 6, 7,
    ]  # fmt: skip
    # The tenant's partition is another since partitions were added.
    assert add_once(held, 5, [(0, (1,) * 8)]) == [5, 0, 2, 6, 7, 1, 1, 101, 4, 5]


@given(
    st.lists(st.tuples(*[st.integers(0, 50)] * 8), min_size=1, max_size=30),
    st.lists(st.integers(0, 29), max_size=8),
)
def test_pieces_that_overlap_add_up_to_every_record_once(spends: list[tuple[int, ...]], cuts: list[int]) -> None:
    records = list(enumerate(spends))
    held: list[int] = []
    reached = 0
    for begin, end in pairwise([0, *cuts, len(records)]):
        # A piece begins where the last one has ended, or before.
        piece = records[min(begin, reached) : max(end, reached)]
        reached = max(end, reached)
        held = add_once(held, 3, piece) if piece else held
    reached = len(records)
    held = add_once(held, 3, records)
    assert held == [3, reached - 1, *map(sum, zip(*spends, strict=True))]


@pytest.mark.parametrize(
    ("held", "sums"),
    [
        ([1, 1, 3, 10, 20, 5, 0, 70], [4, 20, 21, 5, 0, 80, 6, 4]),
        ([1, 1, 0, 0, 0, 0, 0, 0], [1, 10, 1, 0, 0, 10, 6, 4]),
    ],
)
def test_a_window_from_before_cache_writes_were_counted_goes_on(held: list[int], sums: list[int]) -> None:
    additions = [(2, (1, 10, 1, 0, 0, 10, 6, 4))]
    assert add_once(held, 1, additions) == [1, 2, *sums]
    assert add_once(add_once(held, 1, additions), 1, additions) == [1, 2, *sums]


def test_values_survive_json() -> None:
    value = add_once([0, 1, 2**62, 0, 0, 0, 0, 2**62], 0, [(2, (1, 0, 0, 0, 0, 1, 0, 0))])
    assert json.loads(json.dumps(value))[2] == 2**62 + 1


def test_in_clear_and_without_login() -> None:
    assert credentials_of({"bootstrap.servers": "a:1", "linger.ms": "5"}) is None
    assert credentials_of({"security.protocol": "PLAINTEXT"}) is None


def test_login_with_and_without_tls() -> None:
    login = {"sasl.mechanisms": "scram-sha-512", "sasl.username": "u", "sasl.password": "p"}
    plain = credentials_of({**login, "security.protocol": "SASL_PLAINTEXT"})
    assert isinstance(plain, SASLCredentials)
    assert (plain.mechanism.value, plain.username, plain.ssl_context) == ("SCRAM-SHA-512", "u", None)
    sealed = credentials_of({**login, "security.protocol": "sasl_ssl"})
    assert isinstance(sealed, SASLCredentials)
    assert sealed.ssl_context is not None
    assert sealed.ssl_context.verify_mode is ssl.CERT_REQUIRED


def test_tls_checks_what_librdkafka_would_check() -> None:
    strict = credentials_of({"security.protocol": "ssl"})
    assert isinstance(strict, SSLCredentials)
    assert (strict.context.check_hostname, strict.context.verify_mode) == (True, ssl.CERT_REQUIRED)
    any_name = credentials_of({"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "none"})
    assert isinstance(any_name, SSLCredentials)
    assert (any_name.context.check_hostname, any_name.context.verify_mode) == (False, ssl.CERT_REQUIRED)
    anybody = credentials_of({"security.protocol": "ssl", "enable.ssl.certificate.verification": "false"})
    assert isinstance(anybody, SSLCredentials)
    assert anybody.context.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({"security.protocol": "sasl_ssl"}, "GSSAPI"),
        ({"security.protocol": "sasl_plaintext", "sasl.mechanism": "OAUTHBEARER"}, "OAUTHBEARER"),
        ({"security.protocol": "sasl_plaintext", "sasl.mechanism": "PLAIN", "sasl.username": "u"}, "sasl.password"),
        ({"security.protocol": "ssl", "ssl.keystore.location": "/k"}, "ssl.keystore.location"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/no/such/file"}, "ssl"),
        ({"security.protocol": "quic"}, "quic"),
    ],
)
def test_what_faust_cannot_do_is_named(properties: dict[str, str], named: str) -> None:
    with pytest.raises(NotForFaust, match=named):
        credentials_of(properties)


class Flaky:
    """Fails some times, then runs."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.lives = 0
        self.running = asyncio.Event()

    async def run(self, on_started: Callable[[], None]) -> None:
        self.lives += 1
        if self.lives <= self.failures:
            raise RuntimeError("broker at kafka://user:hunter2@host is gone")
        on_started()
        self.running.set()
        await asyncio.Event().wait()


async def test_a_failure_is_shown_and_started_anew_without_stopping_anything(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flaky = Flaky(failures=3)

    health, metrics = Health(), Metrics("test")
    windows = LiveWindowsRunner(lambda: flaky, health, LedgerMetrics(metrics), first_delay_seconds=0.01)
    running = asyncio.create_task(windows.run())
    while flaky.lives < 2:  # noqa: ASYNC110 - the state passes by
        await asyncio.sleep(0.001)
    assert health.ready().ok
    assert "hunter2" not in str(health.notes)
    await asyncio.wait_for(flaky.running.wait(), 30)
    assert (flaky.lives, health.notes) == (4, {"live windows": "running"})
    assert metrics.registry.get_sample_value("headrace_costs_windows_failures_total") == 3
    assert metrics.registry.get_sample_value("headrace_costs_windows_running") == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert metrics.registry.get_sample_value("headrace_costs_windows_running") == 0


def test_importing_faust_leaves_logging_alone() -> None:
    handlers = list(logging.getLogger().handlers)
    import headrace_cost_accountant.adapters.windows_app  # noqa: F401

    assert logging.getLogger().handlers == handlers
