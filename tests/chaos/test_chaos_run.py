"""One short run on the real platform: each kind of fault once, without any violation."""

import pytest
from headrace_chaos.plan import acts, short_deck
from headrace_chaos.platform import DOUBLED
from headrace_chaos.run import chaos

SEED = 4


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_nothing_is_lost_doubled_leaked_or_miscounted_whatever_dies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = await chaos(
        seed=SEED,
        deal=lambda disk: acts(SEED, short_deck(DOUBLED, disk=disk), again=False),
        seconds=None,
        rate=20.0,
        say=print,
    )
    with capsys.disabled():
        print(f"\n{result.line}")
    assert result.judgement.violations == ()
    assert result.judgement.tasks > 300
    assert result.judgement.duplicates["completed"] == 0
    assert not result.killer.skipped
