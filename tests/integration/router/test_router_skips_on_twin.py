"""Going past records that cannot be decided about."""

from __future__ import annotations

from headrace_router.partition import Input
from headrace_testing.router_twin import Twin


async def test_a_closed_partition_skips_nothing() -> None:
    # What it refused while it was closing would be skipped with it, and the tasks in there lost.
    async with Twin(partitions=1) as twin:
        process = twin.router()
        await twin.until(lambda: 0 in process.service.partitions)
        assert process.service._membership is not None
        router = process.service._membership.routers[0]
        router.skip(Input("tasks.submitted", 0, "one", 0))
        assert router.positions["tasks.submitted"] == 1
        router.close()
        router.skip(Input("tasks.submitted", 7, "two", 0))
        assert router.positions["tasks.submitted"] == 1
