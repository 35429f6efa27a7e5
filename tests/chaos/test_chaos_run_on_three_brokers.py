"""Two minutes of blows to three real brokers under load, without any violation."""

import pytest
from headrace_chaos.plan import OF_BROKERS, acts, broker_deck
from headrace_chaos.platform import DOUBLED
from headrace_chaos.run import chaos

SEED = 189
SECONDS = 120.0


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_nothing_is_lost_or_doubled_whatever_becomes_of_the_brokers(capsys: pytest.CaptureFixture[str]) -> None:
    result = await chaos(
        seed=SEED,
        deal=lambda _: acts(SEED, broker_deck(DOUBLED, partitions=True), again=True),
        seconds=SECONDS,
        rate=8.0,
        say=print,
        brokers=3,
    )
    with capsys.disabled():
        print(f"\n{result.line}")
    assert result.judgement.violations == ()
    assert result.judgement.tasks > 200
    assert result.judgement.duplicates["completed"] == 0
    assert not result.killer.skipped
    assert set(result.killer.dealt) & set(OF_BROKERS)
