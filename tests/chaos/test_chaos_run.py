"""One short run on the real platform: each kind of fault once, without any violation."""

import pytest
from headrace_chaos.hostility import HOSTILE, OF_OLLAMA
from headrace_chaos.plan import acts, short_deck
from headrace_chaos.platform import DOUBLED
from headrace_chaos.run import chaos
from headrace_testing.loops import SHIPPED_LOOP

SEED = 4


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_nothing_is_lost_doubled_leaked_or_miscounted_whatever_dies(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        print(text)

    result = await chaos(
        seed=SEED,
        deal=lambda disk: acts(SEED, short_deck(DOUBLED, disk=disk), again=False),
        seconds=None,
        rate=20.0,
        say=say,
    )
    with capsys.disabled():
        print(f"\n{result.line}")
    assert f"event loops: {SHIPPED_LOOP}" in said
    assert result.judgement.violations == ()
    assert result.judgement.tasks > 300
    assert result.judgement.duplicates["completed"] == 0
    assert not result.killer.skipped
    met = {name.split()[1] for name in result.judgement.faults}
    assert met >= {*HOSTILE, *OF_OLLAMA, "answered_remotely"}
