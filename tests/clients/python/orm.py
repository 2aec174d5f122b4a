"""The job by SQLAlchemy's ORM: ``orm.py DRIVER host port user password schema``.

With pool_pre_ping and reset on return, as applications use it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    """Tables of this program."""


class Author(Base):
    """Has books."""

    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50), unique=True)
    notes: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.id")


class Book(Base):
    """Has an author."""

    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.Unicode(100))
    price: Mapped[Any] = mapped_column(sa.Numeric(10, 2))
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def job(engine: sa.Engine) -> list[Any]:
    seen: list[Any] = [["isolation", engine.connect().get_isolation_level()]]
    Base.metadata.create_all(engine)
    inspector = sa.inspect(engine)
    seen += [[name, [str(c["type"]) for c in inspector.get_columns(name)],
              inspector.get_foreign_keys(name), inspector.get_indexes(name)]
             for name in ("author", "book")]  # fmt: skip
    with Session(engine) as session, session.begin():
        anna = Author(name="Anna 🐬", notes={"a": [1, None]})
        anna.books = [Book(title=f"B{n} Ω", price=f"{n}.50") for n in range(5)]
        session.add_all([anna, Author(name="Bert")])
        session.flush()
        seen.append(["ids", anna.id, [book.id for book in anna.books]])
    with Session(engine) as session:
        session.add(Author(name="Bert"))
        try:
            session.commit()
        except sa.exc.IntegrityError as error:
            session.rollback()
            seen.append(["twice", str(error.orig)])
    for turn in range(20):
        with Session(engine) as session:
            found = session.scalars(sa.select(Author).order_by(Author.id)).all()
            sums = session.execute(
                sa.select(sa.func.count(), sa.func.sum(Book.price)).where(
                    Book.author_id == found[0].id
                )
            ).one()
            seen.append([turn, [a.name for a in found], found[0].notes, *map(str, sums)])
            found[0].books[0].price += 1
            session.commit() if turn % 3 else session.rollback()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        done = connection.execute(sa.update(Book).values(title="same").where(Book.price > 2))
        seen.append(["updated", done.rowcount])
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
        seen.append(["level", connection.get_isolation_level()])
        seen.append(
            [
                "rows",
                [list(map(str, row)) for row in connection.execute(sa.text("SELECT * FROM book"))],
            ]
        )
    with engine.connect().execution_options(stream_results=True) as connection:
        rows = connection.execute(sa.text("SELECT a.id FROM book a, book b, book c, book d"))
        seen.append(["streamed", sum(row[0] for row in rows)])
    engine.dispose()
    return seen


def main() -> None:
    driver, host, port, user, password, schema = sys.argv[1:]
    query = {"ssl_mode": "DISABLED"} if driver == "mysqldb" else {}
    url = sa.URL.create(f"mysql+{driver}", user, password, host, int(port), schema, query)
    print(json.dumps(job(sa.create_engine(url, pool_pre_ping=True, pool_size=2))))


main()
