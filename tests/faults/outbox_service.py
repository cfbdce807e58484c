"""A service that takes orders in a process of its own: an order and its job in one transaction, over and over.

``python -m tests.faults.outbox_service DATABASE_URL COUNT`` takes orders until there are that many; killed and started
again it goes on. Every tenth transaction is rolled back.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from sqlalchemy import Column, Integer, MetaData, Table, func, select

from daemon.outbox import Outbox
from daemon.payload import Payload
from handlers.integrations.database import Database

ORDERS = Table("orders", MetaData(), Column("number", Integer, primary_key=True))
#: Orders in one transaction.
TOGETHER = 40


class Order(Payload, family="orders"):
    number: int


class RolledBack(Exception):
    """What a service might raise."""


async def take(database: Database, first: int, *, fail: bool) -> None:
    """Take orders and enqueue a job for each, or for none."""
    async with database.begin() as connection:
        outbox = Outbox(connection)
        for number in range(first, first + TOGETHER):
            await connection.execute(ORDERS.insert().values(number=number))
            await outbox.enqueue(Order(number=number), job_id=f"rolled-back-{number}" if fail else str(number))
        if fail:
            raise RolledBack


async def main(url: str, count: int) -> None:
    database = Database(url)
    for turn in itertools.count():
        async with database.read() as connection:
            taken = (await connection.execute(select(func.count()).select_from(ORDERS))).scalar_one()
        if taken >= count:
            return
        try:
            await take(database, taken, fail=turn % 10 == 9)
        except RolledBack:
            continue


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
