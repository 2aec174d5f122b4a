"""Other clients on a pool: each leaves on its connection what it can; some go without good-bye."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pymysql


class Neighbours:
    """Threads that come, run a few statements and go, while the block lasts.

    Args:
        connect: a new PyMySQL connection through the pool, in a schema of their own.
        leave: what one of them runs; chosen anew each time. Errors are part of it.
    """

    def __init__(
        self, connect: Callable[[], Any], leave: Sequence[Sequence[str]], threads: int = 3
    ) -> None:
        self._connect, self._leave, self._over = connect, leave, threading.Event()
        self.statements = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(threads)
        ]

    def _run(self, seed: int) -> None:
        dice = random.Random(seed)
        while not self._over.wait(0.002):
            connection = self._connect()
            with connection.cursor() as cursor:
                for statement in dice.choice(self._leave):
                    with contextlib.suppress(pymysql.MySQLError):
                        cursor.execute(statement)
                    self.statements += 1
            if dice.random() < 0.7:
                connection.close()
            else:
                connection._force_close()

    def __enter__(self) -> Neighbours:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
