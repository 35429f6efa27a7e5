"""`python -m headrace_cost_accountant.reprice`: price entries that were booked at 0 for lack of a price.

Run it after adding a model to the price book (HEADRACE_PRICE_BOOK), on HEADRACE_DATABASE_URL. Entries get the book's
present price, whenever they were booked; entries that have a price keep it. Every change is recorded in
ledger.repricings. It can be repeated at any time. Exit codes: 0 done, 1 Postgres is unavailable, 2 bad settings.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from headrace_contracts.ids import new_id
from headrace_models.prices import PriceBook, PriceBookInvalid, load_price_book
from headrace_runtime.connections import wall_clock_ms
from headrace_runtime.database import Database, outage_of
from headrace_runtime.settings import DatabaseSettings, SettingsInvalid, setting

from headrace_cost_accountant.adapters.repricing import Repricing
from headrace_cost_accountant.decide.answers import dollars
from headrace_cost_accountant.decide.booking import Basis
from headrace_cost_accountant.migrations import MIGRATIONS


class RepriceSettings(DatabaseSettings):
    """Settings of repricing, with the service's names."""

    service_name: ClassVar[str] = "cost-accountant"

    price_book: Path | None = setting(
        None, unit="path", reason="The price book with the new price.", shown_default="(shipped)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code, see above."""
    description, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m headrace_cost_accountant.reprice", description=description.partition(": ")[2], epilog=more
    )
    parser.add_argument("--dry-run", action="store_true", help="list what is booked at 0 and has a price now")
    parser.add_argument("--by", default=None, help="name to record as the author; default: the user's name")
    chosen = parser.parse_args(argv)
    try:
        settings = RepriceSettings.load()
        book = load_price_book(settings.price_book)
    except (SettingsInvalid, PriceBookInvalid, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        asyncio.run(_run(settings, book, chosen.by or _user(), dry_run=chosen.dry_run))
    except Exception as error:
        outage = outage_of(error.__cause__ or error)
        if outage is None:
            raise
        sys.stderr.write(f"Postgres {outage}; what was printed above is committed, run it again for the rest\n")
        return 1
    return 0


async def _run(settings: RepriceSettings, book: PriceBook, by: str, *, dry_run: bool) -> None:
    dsn = settings.database_url.get_secret_value()
    # Fails at once if Postgres is unavailable, where preparing the pool would wait for it.
    await MIGRATIONS.upgrade(dsn)
    database = Database(
        dsn,
        application="headrace-reprice",
        pool_size=1,
        timeout_seconds=settings.database_timeout_seconds,
        migrate=lambda: MIGRATIONS.upgrade(dsn),
    )
    await database.prepare()
    try:
        repricing = Repricing(database, book, run_id=new_id(), repriced_by=by, now=wall_clock_ms())
        for each in await repricing.unpriced():
            known = "has a price now" if each.basis is not Basis.UNPRICED else "still has no price"
            _say(
                f"{each.provider}/{each.model}: {each.executions} executions at 0, "
                f"{_day(each.first_at)} to {_day(each.last_at)}: {known}"
            )
        if dry_run:
            return
        executions = nanodollars = 0
        async for done in repricing.run():
            executions += done.executions
            nanodollars += done.nanodollars
            _say(f"priced {done.executions} of {done.provider}/{done.model}: ${dollars(done.nanodollars)}")
        _say(f"{executions} executions priced by price book {book.version}: ${dollars(nanodollars)} in all")
    finally:
        await database.close()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a user id without a name, as in containers


if __name__ == "__main__":
    sys.exit(main())
