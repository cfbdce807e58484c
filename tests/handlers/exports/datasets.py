"""Datasets as an operator's module registers them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Date,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Select,
    Table,
    Text,
    Uuid,
    select,
)

from handlers.exports.datasets import Filters, dataset
from handlers.integrations.database import Exact, Utc

ORDERS = Table(
    "orders",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("customer", Text),
    Column("status", Text),
    Column("placed_at", Utc),
    Column("total", Exact),
    Column("tax", Numeric(12, 2)),
    Column("weight", Float),
    Column("gift", Boolean),
    Column("day", Date),
    Column("reference", Uuid),
    Column("photo", LargeBinary),
    Column("more", JSON),
)


class OrderFilters(Filters):
    status: Literal["open", "paid"] | None = None
    placed_before: datetime | None = None


@dataset("orders", filters=OrderFilters, key="id")
def orders(filters: OrderFilters) -> Select[Any]:
    query = select(ORDERS)
    if filters.status is not None:
        query = query.where(ORDERS.c.status == filters.status)
    if filters.placed_before is not None:
        query = query.where(ORDERS.c.placed_at < filters.placed_before)
    return query


@dataset("customers")
def customers(filters: Filters) -> Select[Any]:
    return select(ORDERS.c.customer.label("name")).distinct()
