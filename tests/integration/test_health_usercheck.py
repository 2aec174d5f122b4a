"""User functions may hang, crash, fork or print: the verdict is right and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from portside.health.judge import CheckResult, Status
from portside.health.usercheck import CheckTarget, FunctionWorkers

from tests.support.waiting import wait_until

MODULE = "tests.integration.user_checks"
SERVER = CheckTarget("db1", ("10.0.0.11:3306",), "10.0.0.11", 3306, timeout_s=5.0)


def call(
    function: str, times: int = 1, timeout_s: float = 5.0, close: bool = True
) -> list[CheckResult]:
    async def run() -> list[CheckResult]:
        workers = FunctionWorkers()
        try:
            name = function if ":" in function else f"{MODULE}:{function}"
            return [await workers.check(name, SERVER, timeout_s) for _ in range(times)]
        finally:
            await workers.close()

    return asyncio.run(run())


def children_of(pid: int) -> list[int]:
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            children.append(int(stat.parent.name))
    return children


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def number_after(word: str, text: str) -> int:
    found = re.search(rf"{word} (\d+)", text)
    assert found, text
    return int(found[1])


@pytest.fixture(autouse=True)
def nothing_left_behind():
    children, descriptors = set(children_of(os.getpid())), len(os.listdir("/proc/self/fd"))
    yield
    wait_until(lambda: set(children_of(os.getpid())) <= children, 3, "processes left")
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.parametrize(
    ("function", "status", "text"),
    [
        ("passes", Status.L7OK, ""),
        ("passes_with_text", Status.L7OK, "pid"),
        ("says_no", Status.L7STS, "the function returned False"),
        ("says_why", Status.L7STS, "db1 at 10.0.0.11:3306 is in maintenance"),
        ("raises", Status.L7STS, "the function raised ValueError: no such cluster"),
        ("exits", Status.L7STS, "the function raised SystemExit: 3"),
        ("returns_garbage", Status.L7RSP, "expected True, False, a text, or (bool, text)"),
        ("returns_nothing", Status.L7RSP, "the function returned None"),
        ("crashes", Status.L7RSP, "SIGSEGV; it printed: about to touch address zero"),
        ("prints", Status.L7OK, "nothing to read"),
        ("missing", Status.SOCKERR, "cannot import it: AttributeError"),
        ("NOT_A_FUNCTION", Status.SOCKERR, "is a int, not a function"),
        ("no.such.module:check", Status.SOCKERR, "cannot import it: ModuleNotFoundError"),
    ],
)
def test_outcomes(function, status, text):
    (result,) = call(function)
    assert result.status is status, result.detail
    assert text in result.detail


@pytest.mark.parametrize("function", ["loops", "ignores_signals_and_sleeps"])
def test_hung_function_is_killed_at_its_deadline(function):
    call("passes")
    loop_times = []

    async def run() -> list[CheckResult]:
        workers = FunctionWorkers()
        clock = asyncio.get_running_loop().time
        started = clock()
        results = [await workers.check(f"{MODULE}:{function}", SERVER, 0.3) for _ in range(2)]
        loop_times.append(clock() - started)
        await workers.close()
        return results

    results = asyncio.run(run())
    assert [one.status for one in results] == [Status.L7TOUT] * 2
    assert results[0].detail == "the function did not return within 0.3 s"
    assert loop_times[0] < 10


def test_process_is_used_again():
    results = call("passes_with_text", times=3)
    assert len({one.detail for one in results}) == 1


def test_thread_left_behind_ends_the_process():
    results = call("thread_stays", times=2)
    assert {one.status for one in results} == {Status.L7OK}
    assert len({one.detail for one in results}) == 2


def test_fork_answers_once():
    results = call("forks", times=3)
    assert {one.status for one in results} == {Status.L7OK}
    # The parent's answer, never the child's ("child 0").
    assert all(number_after("child", one.detail) > 0 for one in results)


@pytest.mark.parametrize("function", ["forks_and_child_stays", "grandchild_stays"])
def test_children_are_killed_after_the_check(function):
    async def run() -> int:
        workers = FunctionWorkers()
        result = await workers.check(f"{MODULE}:{function}", SERVER, 5.0)
        assert result.status is Status.L7OK, result.detail
        child = int(result.detail)
        # Before close(): what a check started does not outlive the check.
        for _ in range(100):
            if not is_running(child):
                break
            await asyncio.sleep(0.02)
        alive = is_running(child)
        await workers.close()
        assert not alive
        return child

    asyncio.run(run())


def test_slow_function_holds_back_its_own_servers_only():
    async def run() -> list[Status]:
        workers = FunctionWorkers(per_function=1)
        slow = workers.check(f"{MODULE}:loops", SERVER, 0.5)
        queued = workers.check(f"{MODULE}:loops", SERVER, 0.2)
        other = workers.check(f"{MODULE}:passes", SERVER, 5.0)
        results = await asyncio.gather(slow, queued, other)
        await workers.close()
        return [one.status for one in results]

    # The one that found no free process says nothing about its server.
    assert asyncio.run(run()) == [Status.L7TOUT, Status.SOCKERR, Status.L7OK]
