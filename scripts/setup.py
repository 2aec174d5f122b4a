#!/usr/bin/env python3
"""Makes a checkout ready: ``make setup`` (everything for the tests) or ``setup.py demo``.

Runs on the system's python3 without any package. What is missing is installed where that is
possible (apt as root; pip into .venv; the fetch script of MySQL 9.7 where it stands beside the
checkout), and what cannot be installed is said in one sentence with the cure. Steps that do not
need each other run side by side. When nothing is missing it looks, says so, and ends.

It installs no service: mariadb-server-core has none, and while apt runs policy-rc.d keeps others
from being started.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOGS = ROOT / ".cache" / "setup"
PEERS = Path(os.environ.get("PORTSIDE_PEERS", Path.home() / ".cache" / "portside-peers"))
FETCH_CLIENTS = ROOT / "tests" / "clients" / "fetch.py"
FETCH_MYSQL9 = ROOT.parent / "shared" / "peers" / "get-mysql9.sh"
PATH = f"{os.environ.get('PATH', '')}:{Path.home()}/.cargo/bin:/usr/sbin:/sbin"


def which(program: str) -> str | None:
    """Path of a program; sbin and ~/.cargo/bin count too."""
    return shutil.which(program, path=PATH)


@dataclass(frozen=True)
class Part:
    """Something from the system: how to see that it is there, and the packages that bring it."""

    name: str
    packages: tuple[str, ...]
    why: str
    is_there: Callable[[], bool]
    needed: bool = True  # without it setup fails; otherwise something is skipped


def has(program: str) -> Callable[[], bool]:
    """A test whether a program is there."""
    return lambda: which(program) is not None


def rust_version() -> tuple[int, int] | None:
    """Major and minor of cargo; None without cargo or rustc."""
    cargo = which("cargo")
    if cargo is None or which("rustc") is None:
        return None
    done = subprocess.run([cargo, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else None


def wanted_rust() -> tuple[int, int]:
    """The rust-version of the workspace."""
    found = re.search(r'^rust-version = "(\d+)\.(\d+)"', (ROOT / "Cargo.toml").read_text(), re.M)
    return (int(found[1]), int(found[2])) if found else (1, 85)


def has_rust() -> bool:
    """True when cargo is new enough."""
    return (rust_version() or (0, 0)) >= wanted_rust()


def has_venv() -> bool:
    """True when .venv exists or can be made."""
    if (VENV / "bin" / "python").exists():
        return True
    ask = [sys.executable, "-c", "import ensurepip, venv"]
    return subprocess.run(ask, capture_output=True, check=False).returncode == 0


def has_mysqli() -> bool:
    """True when PHP has mysqli."""
    return any(Path("/usr/lib/php").glob("*/mysqli.so"))


RUST = ("cargo-web", "rustc-web", "rustfmt-web")
TOOLS = [
    Part("Rust 1.85", RUST, "builds the data plane", has_rust),
    Part("cc", ("gcc", "libc6-dev"), "links the data plane", has("cc")),
    Part("venv", ("python3-venv",), "holds the Python packages", has_venv),
]
DEMO = [
    Part("mariadbd", ("mariadb-server-core",), "the real servers", has("mariadbd")),
    Part("mariadb", ("mariadb-client-core",), "the command-line client", has("mariadb"), False),
    Part("ip", ("iproute2",), "network namespaces", has("ip"), False),
]
TEST = [
    *DEMO,
    Part("php", ("php-cli",), "tests with PHP", has("php"), False),
    Part("mysqli", ("php-mysql",), "tests with PHP", has_mysqli, False),
    Part("haproxy", ("haproxy",), "comparisons", has("haproxy"), False),
    # 22 MB to fetch, 7 s; its service is not started.
    Part("promtool", ("prometheus",), "alerts with a real Prometheus", has("promtool"), False),
    Part("sysbench", ("sysbench",), "load through a pool", has("sysbench"), False),
    Part("mariadb-dump", ("mariadb-client",), "dumps through a pool", has("mariadb-dump"), False),
    Part("libmariadb", ("libmariadb-dev",), "tests with mysqlclient", has("mariadb_config"), False),
    Part("strace", ("strace",), "syscalls per session in make bench", has("strace"), False),
]


@dataclass
class Step:
    """One line of the progress view: runs ``work`` once every step of ``after`` is done."""

    name: str
    work: Callable[[Step], None]
    after: tuple[Step, ...] = ()
    state: str = "waiting"
    detail: str = ""
    error: str = ""
    seconds: float = 0.0
    finished: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Thread body; never raises."""
        for step in self.after:
            step.finished.wait()
        failed = [step.name for step in self.after if step.error]
        started = time.monotonic()
        if failed:
            self.state, self.error = "skipped", f"needs {failed[0]}"
        else:
            self.state = "running"
            try:
                self.work(self)
                self.state = "done"
            except (OSError, RuntimeError) as error:
                self.state, self.error = "failed", str(error)
        self.seconds = time.monotonic() - started
        self.finished.set()

    def call(self, *command: str | Path, **environment: str) -> None:
        """Runs a command; its output goes to a log file and its last line into the view.

        Raises:
            RuntimeError: it failed; the text has its last lines and the log's path.
        """
        LOGS.mkdir(parents=True, exist_ok=True)
        log = LOGS / (re.sub(r"\W+", "-", self.name) + ".log")
        env = {**os.environ, "PATH": PATH, **environment}
        with log.open("a") as file:
            file.write(f"$ {' '.join(str(part) for part in command)}\n")
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                cwd=ROOT,
                env=env,
            )
            last: list[str] = []
            for line in process.stdout or ():
                file.write(line)
                if line.strip():
                    self.detail = line.strip()
                    last = [*last[-5:], line.rstrip()]
        if process.wait() != 0:
            raise RuntimeError("\n    ".join([f"{command[0]} failed, see {log}:", *last]))


class View:
    """Shows the steps: redrawn in place on a terminal, one plain line per change otherwise."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.is_live = sys.stdout.isatty()
        self._shown: dict[str, str] = {}
        self._drawn = 0

    def follow(self) -> None:
        """Returns when every step has finished."""
        while not all(step.finished.is_set() for step in self.steps):
            self.draw()
            time.sleep(0.1)
        self.draw()

    def draw(self) -> None:
        """One refresh."""
        if self.is_live:
            width = shutil.get_terminal_size().columns - 1
            up = f"\033[{self._drawn}A" if self._drawn else ""
            lines = [self._line(step)[:width] for step in self.steps]
            print(up + "\n".join(f"\033[2K{line}" for line in lines), flush=True)
            self._drawn = len(lines)
            return
        for step in self.steps:
            if step.state != self._shown.get(step.name, "waiting"):
                self._shown[step.name] = step.state
                print(self._line(step), flush=True)

    def _line(self, step: Step) -> str:
        took = f" {step.seconds:.1f} s" if step.finished.is_set() else ""
        detail = step.error.splitlines()[0] if step.error else step.detail
        tail = "" if step.state == "done" or not (self.is_live or step.error) else f"  {detail}"
        return f"  {step.name:<28} {step.state}{took}{tail}"


@contextlib.contextmanager
def no_service_starts() -> Iterator[None]:
    """While it lasts, installing a package starts no daemon (Debian policy, invoke-rc.d)."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def install(packages: list[str]) -> Callable[[Step], None]:
    """A step that installs Debian packages, as root."""

    def work(step: Step) -> None:
        apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
        command = [*apt, "install", "--no-install-recommends", *packages]
        with no_service_starts():
            try:
                step.call(*command, DEBIAN_FRONTEND="noninteractive")
            except RuntimeError:  # lists that are missing or older than the mirror
                step.call(*apt, "update")
                step.call(*command, DEBIAN_FRONTEND="noninteractive")

    return work


def stamp_is(name: str, value: str) -> bool:
    """True when the last success of a step was for the same inputs."""
    stamp = VENV / f".{name}-stamp"
    return stamp.exists() and stamp.read_text() == value


def write_stamp(name: str, value: str) -> None:
    """Notes the inputs of a step that succeeded."""
    (VENV / f".{name}-stamp").write_text(value)


def lock_digest() -> str:
    """Changes with the lock file."""
    return hashlib.sha256((ROOT / "requirements-dev.txt").read_bytes()).hexdigest()


def sources_digest() -> str:
    """Changes when anything that the extension is built from does: names, sizes, times."""
    files = [ROOT / "Cargo.toml", ROOT / "Cargo.lock", ROOT / "pyproject.toml"]
    files += sorted(path for path in (ROOT / "crates").rglob("*") if path.is_file())
    facts = [f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def make_venv(step: Step) -> None:
    """Makes .venv and installs exactly the locked packages."""
    python = VENV / "bin" / "python"
    if not python.exists():
        step.call(sys.executable, "-m", "venv", VENV)
    lock = ROOT / "requirements-dev.txt"
    step.call(python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps",
              "--require-hashes", "--prefer-binary", "-r", lock)  # fmt: skip
    write_stamp("requirements", lock_digest())


def compile_crates(step: Step) -> None:
    """The long part, before Python is ready; maturin then finds the work done."""
    packages = ("-p", "portside-lab", "-p", "portside-engine")
    step.call("cargo", "build", "--release", "--locked", *packages, "--bins", "--lib")


def build_extension(step: Step) -> None:
    """Builds portside._core and installs the package, editable."""
    before = sources_digest()
    step.call(VENV / "bin" / "maturin", "develop", "--release", "--locked",
              VIRTUAL_ENV=str(VENV))  # fmt: skip
    write_stamp("extension", before)


def fetch_mysql9(step: Step) -> None:
    """Unpacks MySQL 9.7 into the cache folder; nothing is installed."""
    step.call("bash", FETCH_MYSQL9, PEERS=str(PEERS))


def fetch_clients(step: Step) -> None:
    """Brings the libraries of the client programs (Python, Go, Node, Java) into .cache/clients."""
    step.call(sys.executable, FETCH_CLIENTS)
    write_stamp("clients", clients_digest())


def clients_digest() -> str:
    """Changes with anything beside the client programs."""
    files = sorted(path for path in FETCH_CLIENTS.parent.glob("*/*") if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def missing_parts(purpose: str) -> list[Part]:
    """What the system lacks for a purpose."""
    return [part for part in TOOLS + (TEST if purpose == "test" else DEMO) if not part.is_there()]


def plan(purpose: str) -> list[Step]:
    """The steps that have something to do, in an order that lets compilers start early."""
    steps: list[Step] = []
    before: tuple[Step, ...] = ()
    if os.geteuid() == 0 and which("apt-get"):
        for name, parts in (
            ("apt: compiler and venv", [part for part in TOOLS if not part.is_there()]),
            ("apt: databases and peers", [p for p in missing_parts(purpose) if p not in TOOLS]),
        ):
            packages = [package for part in parts for package in part.packages]
            if packages:
                # One after the other: dpkg has one lock. The compiler does not wait for the second.
                after = tuple(step for step in steps if step.name.startswith("apt"))
                steps.append(Step(name, install(packages), after))
        before = tuple(step for step in steps if step.name == "apt: compiler and venv")
    python: tuple[Step, ...] = before
    if not stamp_is("requirements", lock_digest()):
        python = (Step("pip: locked requirements", make_venv, before),)
        steps += python
    if not stamp_is("extension", sources_digest()) or not has_extension():
        crates = Step("cargo: the data plane", compile_crates, before)
        build = Step("maturin: the extension", build_extension, (*python, crates))
        steps += [crates, build]
    if purpose == "test" and not stamp_is("clients", clients_digest()):
        # Its stamp lies in .venv, and mysqlclient is built with libmariadb-dev.
        after = tuple(step for step in steps if step.name.startswith(("apt", "pip")))
        steps.append(Step("libraries of client programs", fetch_clients, after))
    if purpose == "test" and FETCH_MYSQL9.exists() and not (PEERS / "bin" / "mysqld9").exists():
        steps.append(Step("MySQL 9.7 beside the system", fetch_mysql9, ()))
    return steps


def has_extension() -> bool:
    """True when some build of the extension lies in the package."""
    return any((ROOT / "python" / "portside").glob("_core*.so"))


def unmet(purpose: str) -> tuple[list[str], bool]:
    """Sentences about what is still missing, and whether any of it is essential."""
    sentences, fatal = [], False
    for part in missing_parts(purpose):
        fatal = fatal or part.needed
        cure = f"apt-get install {' '.join(part.packages)}"
        if part.name.startswith("Rust"):
            have = rust_version()
            found = f"found {have[0]}.{have[1]}" if have else "found none"
            cure = f"{cure} (Debian 12, {found}), or https://rustup.rs"
        word = "needed" if part.needed else "some things are skipped"
        sentences.append(f"{part.name} is missing ({part.why}; {word}): {cure}")
    return sentences, fatal


def main() -> int:
    """Exit 0 when the purpose can be served, 1 with the reason otherwise."""
    purpose = sys.argv[1] if len(sys.argv) > 1 else "test"
    if purpose not in ("demo", "test"):
        print("usage: setup.py [demo|test]", file=sys.stderr)
        return 2
    if sys.version_info < (3, 11):  # noqa: UP036 (the reader's python3, not ours)
        version = ".".join(str(part) for part in sys.version_info[:2])
        print(f"setup: Python 3.11 is needed, this is {version}: run it with a newer python3")
        return 1
    started = time.monotonic()
    missing = [] if os.geteuid() == 0 and which("apt-get") else unmet(purpose)[0]
    for sentence in missing:
        print(f"setup: {sentence}")
    if missing and unmet(purpose)[1]:
        return 1
    steps = plan(purpose)
    if not steps:
        print(f"setup: everything is there ({time.monotonic() - started:.1f} s)")
        return 0
    threads = [threading.Thread(target=step.run, daemon=True) for step in steps]
    for thread in threads:
        thread.start()
    View(steps).follow()
    return conclude(purpose, steps, time.monotonic() - started)


def conclude(purpose: str, steps: list[Step], seconds: float) -> int:
    """Prints what failed and what is still missing; the exit code."""
    fatal = False
    for step in steps:
        if step.error:
            print(f"setup: {step.name}: {step.error}")
            # What is not there after all is judged below, by its part.
            fatal = fatal or not step.name.startswith(("apt", "MySQL", "lib"))
    sentences, lacks = unmet(purpose)
    for sentence in sentences:
        print(f"setup: {sentence}")
    word = "failed" if fatal or lacks else "ready"
    print(f"setup: {word} after {seconds:.0f} s")
    return 1 if fatal or lacks else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
