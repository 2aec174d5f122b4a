"""The life of one real database server: a child process with its own folder, port and socket.

What MariaDB and MySQL have in common; the differences are in the subclasses (mariadb.py here, and
MySQL 9.7 in the tests). It knows nothing of Portside.
"""

from __future__ import annotations

import abc
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pymysql
import pymysql.cursors
from pymysql.constants import CLIENT

from portside.demo.held_port import HeldPort

APP_USER, APP_PASSWORD = "app", "app-pw"
MONITOR_USER, MONITOR_PASSWORD = "monitor", "monitor-pw"
REPL_USER, REPL_PASSWORD = "repl", "repl-pw"

# Only the stubs know the type parameter, so it stays a string at run time.
Connection: TypeAlias = "pymysql.connections.Connection[pymysql.cursors.Cursor]"


class DatabaseError(RuntimeError):
    """The server is missing, did not start, or did not catch up; the text says which and why."""


class Database(abc.ABC):
    """One database server: start, stop, kill, pause, restart, ask it as root.

    Users, made at the first start for ``client_hosts``: app (everything, but bound by read_only),
    monitor (replication status only), repl. Start it from the thread that lives longest: unless
    ``outlive`` is set the server gets SIGKILL when the starting thread ends.
    """

    product = "database"

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        address: str = "127.0.0.1",
        client_hosts: str = "127.0.0.%",
        options: Mapping[str, str | None] | None = None,
        tls_dir: Path | None = None,
        prefix: Sequence[str] = (),
        outlive: bool = False,
    ) -> None:
        """Names the server; nothing is started.

        Args:
            data_dir: its own folder, made when missing. Keep it short: the socket's path must stay
                under 108 bytes.
            port: where it listens; None takes a free one of this network namespace.
            address: where it listens; also what replicas and clients connect to.
            client_hosts: host pattern of the users.
            options: settings on top of ours; None as a value leaves a setting out.
            tls_dir: holds ca.pem, server-cert.pem, server-key.pem; None = the product's default.
            prefix: command in front of the server's, such as ``ip netns exec NAME``.
            outlive: the server stays when we end.
        """
        # With a prefix the port is in another namespace, where nobody else is.
        self._held = HeldPort("127.0.0.1" if prefix else address) if port is None else None
        self.port: int = self._held.port if self._held is not None else port or 0
        self.data_dir = data_dir
        self.address = address
        self.socket_path = data_dir / "s.sock"
        self.error_log = data_dir / "err.log"
        self.client_hosts = client_hosts
        self.options: dict[str, str | None] = dict(options or {})
        self.tls_dir = tls_dir
        self._prefix = list(prefix)
        self._outlive = outlive
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def _program(self) -> str:
        """Path of the server program; DatabaseError with the cure when it is missing."""

    @abc.abstractmethod
    def _default_options(self) -> Mapping[str, str]:
        """Settings that ``options`` may override."""

    @abc.abstractmethod
    def _make_data(self, data: Path) -> None:
        """Makes the data folder."""

    @abc.abstractmethod
    def _make_users(self) -> None:
        """Makes the users; runs once, as root, over the socket."""

    @abc.abstractmethod
    def _connect_to_primary(self, primary: Database) -> None:
        """Makes this server a replica of ``primary`` and starts replication."""

    @abc.abstractmethod
    def wait_for(self, primary: Database, timeout_s: float = 20.0) -> None:
        """Waits until this replica has everything that the primary has written so far."""

    @property
    def pid(self) -> int:
        """Process id; DatabaseError when it does not run."""
        if self._process is None or self._process.poll() is not None:
            raise DatabaseError(f"{self.product} on port {self.port} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True while the process exists."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 30.0) -> None:
        """Starts it, waits until it answers, and makes the users at the first start.

        Raises:
            DatabaseError: not installed, ended at once, or silent for ``timeout_s``.
        """
        if self.is_running:
            return
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._write_settings()
        data = self.data_dir / "data"
        is_new = not (data / "mysql").is_dir()
        if is_new:
            self._make_data(data)
        for left_by_a_kill in ("s.sock", "s.sock.lock", "mysqld.pid"):
            (self.data_dir / left_by_a_kill).unlink(missing_ok=True)
        with (self.data_dir / "out.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._prefix, *self._death_note(), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is for us, not for the database
            )
        self._wait_until_ready(timeout_s)
        if self._held is not None:
            self._held.release()
        if is_new:
            self._make_users()

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM, then waits (SIGKILL after ``timeout_s``); harmless when it does not run."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """SIGKILL, then waits until the process is gone; the port refuses connections."""
        self._end(signal.SIGKILL, 10.0)

    def restart(self) -> None:
        """Stop and start on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: the kernel still accepts connections, nobody greets."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after ``pause``."""
        os.kill(self.pid, signal.SIGCONT)

    def root(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs statements as root over the socket; rows of the last result set, [] for none."""
        with self._root_connection() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            rows = cursor.fetchall()
            while cursor.nextset():
                rows = cursor.fetchall() if cursor.description else rows
            return list(rows)

    def status(self, name: str) -> int:
        """One counter of SHOW GLOBAL STATUS, such as ``Aborted_clients``."""
        rows = self.root(f"SHOW GLOBAL STATUS LIKE '{name}'")
        if not rows:
            raise KeyError(name)
        return int(rows[0][1])

    def connect(self, user: str = APP_USER, password: str = APP_PASSWORD) -> Connection:
        """A TCP connection straight to this server (autocommit)."""
        return pymysql.connect(
            host=self.address, port=self.port, user=user, password=password, autocommit=True
        )

    def replica_of(self, primary: Database) -> None:
        """Makes this server a GTID replica of a running primary, read-only also after a restart."""
        self._connect_to_primary(primary)
        self.options["read-only"] = "ON"
        self.root("SET GLOBAL read_only=ON")

    def promote(self) -> None:
        """Ends replication and takes writes; the old primary is not told."""
        self.root("STOP REPLICA; RESET REPLICA ALL; SET GLOBAL read_only=OFF")
        self.options["read-only"] = "OFF"

    def last_log_lines(self, count: int = 5) -> str:
        """The end of the error log, for messages."""
        if not self.error_log.exists():
            return f"(no {self.error_log})"
        return "\n".join(self.error_log.read_text(errors="replace").splitlines()[-count:])

    def __enter__(self) -> Database:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _command(self) -> list[str]:
        return [self._program(), f"--defaults-file={self.data_dir / 'my.cnf'}"]

    def _death_note(self) -> list[str]:
        """Has the kernel kill the server when we die, so that a crash leaves nothing behind."""
        setpriv = shutil.which("setpriv")
        return [] if self._outlive or setpriv is None else [setpriv, "--pdeathsig", "KILL"]

    def _write_settings(self) -> None:
        fixed = {
            "datadir": str(self.data_dir / "data"),
            "tmpdir": str(self.data_dir),  # in /tmp another server's start would clear it
            "socket": str(self.socket_path),
            "pid-file": str(self.data_dir / "mysqld.pid"),
            "log-error": str(self.error_log),
            "bind-address": self.address,
            "port": str(self.port),
            "server-id": str(self.port),
            "report-host": self.address,
            "report-port": str(self.port),
        }
        if os.geteuid() == 0:
            fixed["user"] = "root"
        if self.tls_dir is not None:
            fixed["ssl-ca"] = str(self.tls_dir / "ca.pem")
            fixed["ssl-cert"] = str(self.tls_dir / "server-cert.pem")
            fixed["ssl-key"] = str(self.tls_dir / "server-key.pem")
        settings = {**fixed, **self._default_options(), **self.options}
        lines = [f"{name}={value}" for name, value in settings.items() if value is not None]
        (self.data_dir / "my.cnf").write_text("[mysqld]\n" + "\n".join(lines) + "\n")

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise DatabaseError(
                    f"{self.product} on port {self.port} ended with {self._process.returncode}:\n"
                    f"{self.last_log_lines()}"
                )
            try:
                with socket.socket(socket.AF_UNIX) as probe:  # PyMySQL leaks a refused unix socket
                    probe.connect(str(self.socket_path))
                self._root_connection().close()
            except (pymysql.Error, OSError):
                time.sleep(0.02)
            else:
                return
        raise DatabaseError(
            f"{self.product} on port {self.port} does not answer after {timeout_s:g} s:\n"
            f"{self.last_log_lines()}"
        )

    def _root_connection(self) -> Connection:
        return pymysql.connect(
            unix_socket=str(self.socket_path),
            user="root",
            autocommit=True,
            client_flag=CLIENT.MULTI_STATEMENTS,
        )

    def _end(self, how: signal.Signals, timeout_s: float) -> None:
        if self._held is not None:
            self._held.release()
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a paused server cannot act on SIGTERM
            process.send_signal(how)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
