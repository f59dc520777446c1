"""The shop with SQLAlchemy: QueuePool with pre-ping, ORM sessions and transactions, on PyMySQL."""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from tests.clients.pools.work import Tally, carry_out


class Base(orm.DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "shop_product"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(100))
    price: orm.Mapped[int]
    stock: orm.Mapped[int]


class Customer(Base):
    __tablename__ = "shop_customer"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(100))
    points: orm.Mapped[int]


class Order(Base):
    __tablename__ = "shop_order"
    id: orm.Mapped[int] = orm.mapped_column(sa.BigInteger, primary_key=True)
    customer_id: orm.Mapped[int]
    product_id: orm.Mapped[int]
    amount: orm.Mapped[int]
    note: orm.Mapped[str] = orm.mapped_column(sa.String(400))


class Shop:
    """What it is asked for."""

    def __init__(self, plan: dict[str, Any], tally: Tally) -> None:
        url = sa.URL.create("mysql+pymysql", plan["user"], plan["password"], "127.0.0.1", plan["port"], "test")
        self.engine = sa.create_engine(
            url,
            pool_size=plan["connections"] - 5,
            max_overflow=5,
            pool_pre_ping=True,
            pool_recycle=60,
            pool_timeout=60,
            connect_args={"program_name": "shop-sqlalchemy"},
        )
        self.sessions = orm.sessionmaker(self.engine)
        sa.event.listen(self.engine, "before_cursor_execute", lambda *_: tally.count("statements"))

    def page(self) -> None:
        with self.sessions() as session:
            customer = session.get_one(Customer, random.randint(1, 1000))
            recent = sa.select(Order).where(Order.customer_id == customer.id).order_by(Order.id.desc()).limit(10)
            wanted = {order.product_id for order in session.scalars(recent)}
            session.scalars(sa.select(Product).where(Product.id.in_(wanted or {1}))).all()

    def short(self) -> None:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.select(Product.name).where(Product.id == 7)).one()

    def order(self) -> None:
        with self.sessions() as session:
            customer = session.get_one(Customer, random.randint(1, 1000), with_for_update=True)
            product, amount = random.randint(1, 200), random.randint(1, 3)
            order = Order(customer_id=customer.id, product_id=product, amount=amount, note="from a session")
            session.add(order)
            session.flush()
            assert order.id
            time.sleep(0.002)
            session.execute(sa.update(Product).where(Product.id == product).values(stock=Product.stock - amount))
            customer.points += amount
            if random.random() < 0.05:
                session.rollback()
            else:
                session.commit()

    def report(self) -> None:
        with self.engine.connect() as connection:
            pause = sa.func.sleep(random.uniform(1.0, 1.8))
            connection.execute(sa.select(sa.func.count(), sa.func.sum(Order.amount), pause).select_from(Order)).one()

    def export(self) -> None:
        with self.engine.connect().execution_options(stream_results=True, yield_per=500) as connection:
            rows = connection.execute(sa.select(Order.id, Order.note).limit(5000))
            assert sum(1 for _ in rows) == 5000


def main() -> None:
    plan, tally = json.loads(sys.argv[1]), Tally()
    shop = Shop(plan, tally)
    requests = [(70.0, shop.page), (29.0, shop.order), (0.5, shop.report), (0.5, shop.export)]
    carry_out(plan, tally, requests, shop.short, shop.engine.dispose)


if __name__ == "__main__":
    main()
