"""`stack.json` follows the parts; where it cannot be written, the stack goes on and writes it later."""

import asyncio
import errno
from typing import cast

import pytest
from headrace_devstack import cli
from headrace_devstack.stack import Stack
from headrace_testing.waiting import eventually


class FullDisk:
    """Stands for a stack whose folder has no room at first."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.published = 0

    def publish(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self.published += 1


async def test_what_could_not_be_published_is_published_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "STATUS_SECONDS", 0.01)
    stack, changed = FullDisk(failures=3), asyncio.Event()
    publishing = asyncio.create_task(cli._keep_published(cast(Stack, stack), changed))
    changed.set()

    async def published() -> bool:
        return stack.published == 1

    await eventually(published, 30)
    await asyncio.sleep(0.05)
    assert stack.published == 1
    changed.set()
    await asyncio.sleep(0.05)
    assert stack.published == 2
    publishing.cancel()
