"""Real MariaDB servers in folders of their own: for ``portside demo`` and for the tests.

Nothing here touches /etc/mysql or a system service. The settings favour a small, quick start over
durability.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from portside.demo.database import (
    APP_PASSWORD,
    APP_USER,
    MONITOR_PASSWORD,
    MONITOR_USER,
    REPL_PASSWORD,
    REPL_USER,
    Database,
    DatabaseError,
)

_INSTALL = "apt-get install mariadb-server-core mariadb-client-core"

# Small buffers: three servers must fit beside a test run. flush-log-at-trx-commit=2 and not 0: with
# 0 a SIGKILL loses commits that the replicas already have, and replication breaks (error 1950).
_SETTINGS: Mapping[str, str] = {
    "gtid-domain-id": "0",
    "gtid-strict-mode": "ON",
    "log-bin": "binlog",
    "log-slave-updates": "ON",
    "relay-log": "relay",
    "relay-log-recovery": "ON",
    "binlog-format": "ROW",
    "max-binlog-size": "16M",
    "sync-binlog": "0",
    "innodb-flush-log-at-trx-commit": "2",
    "innodb-buffer-pool-size": "32M",
    "innodb-log-file-size": "16M",
    "innodb-doublewrite": "OFF",
    "innodb-use-native-aio": "OFF",
    "performance-schema": "OFF",
    "table-open-cache": "256",
    "table-definition-cache": "400",
    "max-connections": "500",
    "thread-cache-size": "32",
    "key-buffer-size": "1M",
    "aria-pagecache-buffer-size": "4M",
    "tmp-table-size": "4M",
    "slave-parallel-threads": "2",
    "skip-name-resolve": "ON",
    "session-track-system-variables": "*",
}


def find_program(name: str) -> str | None:
    """Path of a program, or None; the sbin folders are searched too (users lack them in PATH)."""
    folders = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
    return shutil.which(name, path=folders)


class MariaDB(Database):
    """One MariaDB server, see ``Database``."""

    product = "MariaDB"

    def _program(self) -> str:
        program = find_program("mariadbd")
        if program is None:
            raise DatabaseError(f"mariadbd is not installed: {_INSTALL}")
        return program

    def _default_options(self) -> Mapping[str, str]:
        return _SETTINGS

    def _make_data(self, data: Path) -> None:
        shutil.copytree(_template(self.data_dir.parent), data)

    def _make_users(self) -> None:
        hosts = self.client_hosts
        self.root(
            f"""CREATE USER IF NOT EXISTS {APP_USER}@'{hosts}' IDENTIFIED BY '{APP_PASSWORD}';
            GRANT ALL ON *.* TO {APP_USER}@'{hosts}';
            REVOKE READ_ONLY ADMIN ON *.* FROM {APP_USER}@'{hosts}';
            CREATE USER IF NOT EXISTS {MONITOR_USER}@'{hosts}' IDENTIFIED BY '{MONITOR_PASSWORD}';
            GRANT REPLICA MONITOR, BINLOG MONITOR ON *.* TO {MONITOR_USER}@'{hosts}';
            CREATE USER IF NOT EXISTS {REPL_USER}@'{hosts}' IDENTIFIED BY '{REPL_PASSWORD}';
            GRANT REPLICATION SLAVE ON *.* TO {REPL_USER}@'{hosts}';
            CREATE DATABASE IF NOT EXISTS app"""
        )

    def _connect_to_primary(self, primary: Database) -> None:
        self.root(
            f"""STOP SLAVE; RESET SLAVE ALL; RESET MASTER; SET GLOBAL gtid_slave_pos='';
            CHANGE MASTER TO MASTER_HOST='{primary.address}', MASTER_PORT={primary.port},
              MASTER_USER='{REPL_USER}', MASTER_PASSWORD='{REPL_PASSWORD}',
              MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1;
            START SLAVE"""
        )

    def wait_for(self, primary: Database, timeout_s: float = 20.0) -> None:
        """Waits until this replica has everything that the primary has written so far."""
        position = primary.root("SELECT @@gtid_binlog_pos")[0][0]
        done = self.root(f"SELECT MASTER_GTID_WAIT('{position}', {timeout_s})")[0][0]
        if done != 0:
            raise DatabaseError(
                f"replica on port {self.port} did not reach {position} in {timeout_s:g} s:\n"
                f"{self.last_log_lines()}"
            )


def _template(folder: Path) -> Path:
    """An initialised data folder to copy: mariadb-install-db costs a second, a copy a tenth."""
    template = folder / "mariadb-template"
    if template.is_dir():
        return template
    script = find_program("mariadb-install-db")
    if script is None:
        raise DatabaseError(f"mariadb-install-db is missing: {_INSTALL}")
    making = folder / f"mariadb-template.{os.getpid()}"
    shutil.rmtree(making, ignore_errors=True)
    command = [
        script,
        "--no-defaults",
        f"--datadir={making}",
        # Not /tmp: servers that start meanwhile clear temporary tables out of it.
        f"--tmpdir={folder}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--force",  # also on a host whose own name does not resolve
        "--innodb-log-file-size=16M",
        *(["--user=root"] if os.geteuid() == 0 else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DatabaseError(f"{script} failed: {(done.stderr or done.stdout).strip()[-400:]}")
    making.rename(template)
    return template


class Settings(TypedDict, total=False):
    """Keyword arguments of ``Database`` that suit several servers at once."""

    address: str
    client_hosts: str
    options: Mapping[str, str | None]
    tls_dir: Path
    prefix: Sequence[str]
    outlive: bool


def start_trio(folder: Path, **settings: Unpack[Settings]) -> tuple[MariaDB, MariaDB, MariaDB]:
    """A running primary and two GTID replicas that have caught up, each in its own subfolder.

    Args:
        folder: made when missing; keep its path short.
        settings: passed to each ``MariaDB``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    primary, *replicas = trio = [MariaDB(folder / f"db{n}", **settings) for n in (1, 2, 3)]
    try:
        for server in trio:
            server.start()
        for replica in replicas:
            replica.replica_of(primary)
        for replica in replicas:
            replica.wait_for(primary)
    except BaseException:
        for server in trio:
            server.kill()
        raise
    return primary, replicas[0], replicas[1]
