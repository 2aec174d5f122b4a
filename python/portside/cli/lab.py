"""``portside lab``: the article's experiment in network namespaces, strategy by strategy."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from portside import _core
from portside.cli.sigterm import ended_by_sigterm
from portside.demo.mariadb import find_program
from portside.errors import ExitCode
from portside.lab import hosts, page, picture, report
from portside.lab.errors import LabError
from portside.lab.facts import catalog
from portside.lab.facts import report as facts_report
from portside.lab.facts.fact import Fact
from portside.lab.facts.run import run as run_facts
from portside.lab.folder import clean_folders
from portside.lab.run import Progress, Result, measure
from portside.lab.scale import FULL, QUICK, Scale, available_bytes, check_memory
from portside.lab.strategies import STRATEGIES, Strategy, choose

_INSIDE = "PORTSIDE_LAB_INSIDE"
_PLAIN_EVERY_S = 5.0
# --quick must end within 60 s on a busy machine too; what is left pays for the start of Python.
_QUICK_BUDGET_S = 50.0
_LEAST_S = 0.7
_MOST_DELAY_US = 1_000_000
# A pipe has no width of its own; 80 columns would fold the table.
_PIPE_WIDTH = 170
_ENDED = "Ended by Ctrl-C; namespaces and processes are gone."


@dataclass(frozen=True)
class Options:
    """The command line."""

    strategies: Sequence[str] = ()
    quick: bool = False
    server: str = "sink"
    delay_us: int | None = None
    connections: int | None = None
    html: Path | None = None
    svg: Path | None = None
    json: Path | None = None


def main(options: Options) -> int:
    """Runs the strategies and prints the table.

    Raises:
        LabError: it cannot run here, or not like this; one sentence, and nothing is left behind.
    """
    has_haproxy = find_program("haproxy") is not None
    strategies = choose(options.strategies, has_haproxy)
    scale = (QUICK if options.quick else FULL).sized(options.connections, options.delay_us)
    check_memory(scale, available_bytes())
    for file in (options.html, options.svg, options.json):
        _check_writable(file)
    if options.server == "mariadb" and find_program("mariadbd") is None:
        raise LabError("mariadbd is not installed: apt-get install mariadb-server-core")
    _become_able()
    console = Console()
    if not has_haproxy:
        console.print("HAProxy is not installed, so it is not compared: apt-get install haproxy")
    try:
        with ended_by_sigterm(), hosts.only_lab():
            results = _run_all(console, strategies, scale, options.server)
    except KeyboardInterrupt:
        console.print(_ENDED)
        return 130  # 128 + SIGINT, as a shell says it
    _conclude(console, results, scale, options)
    return ExitCode.GOOD


def facts(quick: bool, json_file: Path | None) -> int:
    """Measures again on this kernel what Portside's rules rest on, and says what differs.

    Raises:
        LabError: namespaces cannot be had; one sentence, and nothing is left behind.
    """
    _check_writable(json_file)
    _become_able()
    console = Console()
    chosen = catalog.choose(quick)
    try:
        with ended_by_sigterm(), hosts.only_lab(), _facts_view(console, len(chosen)) as show:
            results = run_facts(chosen, show)
    except KeyboardInterrupt:
        console.print(_ENDED)
        return 130  # 128 + SIGINT, as a shell says it
    command = shlex.join(["portside", "lab", "--facts", *(["--quick"] if quick else [])])
    about = report.About(command, platform.release(), {"Portside": _core.version()}, "")
    total = len(catalog.FACTS)
    wide = console if console.is_terminal else Console(width=_PIPE_WIDTH)
    wide.print(facts_report.table(results, about.kernel))
    for sentence in facts_report.sentences(results):
        console.print(sentence, highlight=False, soft_wrap=not console.is_terminal)
    console.print(f"\n{about.footer}", highlight=False, soft_wrap=True, style="dim")
    if json_file:
        found = facts_report.as_json(results, about, total)
        json_file.write_text(json.dumps(found, indent=1) + "\n")
        console.print(f"written: {json_file}", highlight=False, soft_wrap=True)
    console.print(facts_report.count_line(results, total), highlight=False, soft_wrap=True)
    return ExitCode.GOOD


def clean() -> int:
    """Removes what a crashed lab left behind."""
    _become_able()
    with hosts.only_lab():
        gone = hosts.clean()
        folders = clean_folders()
    what = [*gone, *map(str, folders)]
    print(f"removed: {', '.join(what)}" if what else "nothing was left behind")
    return ExitCode.GOOD


def read_delay(text: str | None) -> int | None:
    """Microseconds of ``--delay``; None without the option. LabError for anything else."""
    if text is None:
        return None
    if text == "none":
        return 0
    found = re.fullmatch(r"(\d+)(us|ms)", text)
    delay_us = int(found[1]) * (1000 if found[2] == "ms" else 1) if found else 0
    if not 0 < delay_us <= _MOST_DELAY_US:
        raise LabError(f'--delay {text}: expected "none", or 1us to 1000ms, such as "250us"')
    return delay_us


def list_strategies() -> int:
    """Prints every strategy with its sentence."""
    for strategy in STRATEGIES:
        print(f"{strategy.key:17} {strategy.what}")
    return ExitCode.GOOD


def _run_all(
    console: Console, strategies: Sequence[Strategy], scale: Scale, server: str
) -> list[Result]:
    results: list[Result] = []
    began, overhead = time.monotonic(), 1.5
    with _view(console, len(strategies)) as show:
        for number, strategy in enumerate(strategies, 1):
            started = time.monotonic()
            sized = scale
            if scale.name == "quick":
                left = (_QUICK_BUDGET_S - (started - began)) / (len(strategies) - number + 1)
                seconds = min(scale.seconds, max(_LEAST_S, left - overhead))
                sized = replace(scale, seconds=seconds)
            result = measure(strategy, sized, server, lambda now, n=number: show(now, n))  # type: ignore[misc]
            results.append(result)
            # How long a strategy takes beside its load, on this machine today.
            spent = time.monotonic() - started - result.seconds
            overhead = max(overhead * 0.8, spent)
    return results


@contextlib.contextmanager
def _view(console: Console, of: int) -> Iterator[Callable[[Progress, int], None]]:
    """One line that changes on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:

            def draw(progress: Progress, number: int) -> None:
                live.update(Text(report.live_line(progress, number, of)), refresh=True)

            yield draw
        return
    last, shown = 0.0, 0

    def line(progress: Progress, number: int) -> None:
        nonlocal last, shown
        if number != shown or time.monotonic() - last >= _PLAIN_EVERY_S:
            last, shown = time.monotonic(), number
            print(report.live_line(progress, number, of), flush=True)

    yield line


@contextlib.contextmanager
def _facts_view(console: Console, of: int) -> Iterator[Callable[[int, Fact], None]]:
    """One line that changes on a terminal, a line per group elsewhere."""
    if console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield lambda number, fact: live.update(
                Text(facts_report.live_line(fact, number, of)), refresh=True
            )
        return
    shown = ""

    def line(number: int, fact: Fact) -> None:
        nonlocal shown
        if fact.group != shown:
            shown = fact.group
            print(f"[{number}/{of}] {catalog.GROUPS[shown]}", flush=True)

    yield line


def _conclude(console: Console, results: Sequence[Result], scale: Scale, options: Options) -> None:
    about = _about(options)
    wide = console if console.is_terminal else Console(width=_PIPE_WIDTH)
    wide.print(report.table(results, scale))
    for sentence in [*report.sentences(results, scale), "", *report.notes(results, scale)]:
        console.print(sentence, highlight=False, soft_wrap=not console.is_terminal)
    console.print(f"\n{about.footer}", highlight=False, soft_wrap=True, style="dim")
    if options.html:
        options.html.write_text(page.html(results, scale, about))
    if options.svg:
        options.svg.write_text(picture.svg(results, scale, about))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(results, scale, about), indent=1) + "\n")
    for file in (options.html, options.svg, options.json):
        if file:
            console.print(f"written: {file}", highlight=False, soft_wrap=True)


def _about(options: Options) -> report.About:
    versions = {"Portside": _core.version()}
    if program := find_program("haproxy"):
        versions["HAProxy"] = _version_of([program, "-v"], 2)
    if options.server == "mariadb" and (program := find_program("mariadbd")):
        versions["MariaDB"] = _version_of([program, "--version"], 2)
    return report.About(_command(options), platform.release(), versions, options.server)


def _command(options: Options) -> str:
    """What makes the same run again; where its files went is nobody's business."""
    words = ["portside", "lab", *(["--quick"] if options.quick else [])]
    if options.server != "sink":
        words += ["--server", options.server]
    if options.delay_us is not None:
        words += ["--delay", f"{options.delay_us}us" if options.delay_us else "none"]
    if options.connections is not None:
        words += ["--connections", str(options.connections)]
    return shlex.join([*words, *options.strategies])


def _version_of(command: Sequence[str], word: int) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return words[word] if len(words) > word else "?"


def _check_writable(file: Path | None) -> None:
    """Before the run, not after it."""
    if file is None:
        return
    folder = file.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or file.is_dir():
        raise LabError(f"{file} cannot be written: {folder} is no folder that takes new files")


def _become_able() -> None:
    """Makes sure that namespaces may be made; without root, runs the same command in a user's own.

    In there /run is ours alone, so nothing outlives the process and no name collides.
    """
    if os.environ.get(_INSIDE) == "1":
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        del os.environ[_INSIDE]
        return
    unshare = find_program("unshare")
    if unshare is None:
        raise LabError("unshare is missing: apt-get install util-linux")
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    tried = subprocess.run(
        [unshare, *own, "--net", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        who = "root" if not own else "this user"
        reason = tried.stderr.strip().removeprefix("unshare: ")
        raise LabError(
            f"{who} may not make network namespaces here ({reason}): run it as root on a host, or"
            " in a container with CAP_SYS_ADMIN"
        )
    if own:
        command = [unshare, *own, sys.executable, "-m", "portside", *sys.argv[1:]]
        os.execve(unshare, command, {**os.environ, _INSIDE: "1"})  # noqa: S606 (no shell wanted)
