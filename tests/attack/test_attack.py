"""A short attack on a platform of its own (`make attack` is the long one), and that it tries every endpoint."""

from __future__ import annotations

import asyncio
import gzip
import random
import re
import zlib
from collections.abc import Sequence

import pytest
from headrace_attack.cross_tenant import REACHES
from headrace_attack.keyless import repeated
from headrace_attack.mutated_requests import ENDPOINTS, mutation
from headrace_attack.report import Outcome, closing_line, table
from headrace_attack.run import SHORT, attack
from headrace_cost_accountant.adapters.operations import OPERATIONS as OF_COSTS
from headrace_intake.adapters.operations import OPERATIONS as OF_INTAKE
from headrace_runtime.openapi import ApiOperation
from headrace_skill_broadcaster.adapters.operations import OPERATIONS as OF_SKILLS
from headrace_testing.up import launch_up, open_folder, stop_up, wait_until_up


@pytest.mark.timeout(900)
def test_nothing_gets_through_a_short_attack() -> None:
    with open_folder("attack") as folder:
        process = launch_up(folder, "--secure", "--port-base", "0", "--simulate", "--simulator-speed", "4")
        try:
            stack = wait_until_up(folder, process)
            outcomes = asyncio.run(attack(stack, SHORT, random.Random(1), lambda text: None))
        finally:
            stop_up(process)
    assert all(outcome.ok for outcome in outcomes), table(outcomes)
    assert sum(outcome.attempts for outcome in outcomes) > 4_000
    assert {f"another tenant: {name}" for name in REACHES} <= {outcome.attack for outcome in outcomes}


@pytest.mark.parametrize(
    ("api", "operations"), [("intake", OF_INTAKE), ("skills", OF_SKILLS), ("costs", OF_COSTS)],
    ids=["intake", "skills", "costs"],
)  # fmt: skip
def test_every_endpoint_is_attacked(api: str, operations: Sequence[ApiOperation]) -> None:
    attacked = [(endpoint.method, endpoint.path) for endpoint in ENDPOINTS if endpoint.api == api]
    # Uploads are no JSON, and attacked with their own tests.
    for operation in [each for each in operations if each.form is None]:
        pattern = re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(operation.documented_path)).replace(
            "models/[^/]+", "models/.+"
        )
        assert any(method == operation.method and re.fullmatch(pattern, path) for method, path in attacked), (
            f"{operation.method} {operation.path} is not attacked"
        )


def test_mutations_follow_from_the_seed() -> None:
    made = [[mutation(random.Random(seed), endpoint, "hr_k") for endpoint in ENDPOINTS] for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


def test_bodies_inflate_to_what_they_say() -> None:
    packed, deflated = repeated(b"0" * 1_000_000, 3)
    assert gzip.decompress(packed) == zlib.decompress(deflated) == b"0" * 3_000_000
    assert len(packed) < 4_000


@pytest.mark.parametrize(
    ("through", "hangs", "answer", "verdict"),
    [([], [], 404, "PASS"), (["x"], [], 404, "FAIL"), ([], ["x"], 404, "FAIL"), ([], [], 500, "FAIL")],
    ids=["nothing", "through", "hangs", "an answer of 500"],
)
def test_the_verdict_says_what_came_of_it(through: list[str], hangs: list[str], answer: int, verdict: str) -> None:
    outcome = Outcome("an attack", through=through, hangs=hangs)
    outcome.count(answer)
    assert closing_line([outcome, Outcome("another")], 7, 1.0).endswith(verdict)
    assert ("THROUGH" in table([outcome])) == bool(through)
