"""Real servers for the tests: MariaDB (the package's own starter) and MySQL 9.7.

MySQL 9.7 is not in Debian 12. It is looked for in $PORTSIDE_PEERS/bin and
~/.cache/portside-peers/bin; a checkout that has the fetch script beside it fetches it there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

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
from portside.demo.mariadb import MariaDB, find_program, start_trio

__all__ = [
    "APP_PASSWORD",
    "APP_USER",
    "MONITOR_PASSWORD",
    "MONITOR_USER",
    "Database",
    "DatabaseError",
    "MariaDB",
    "MySQL9",
    "fetch_mysql9",
    "find_program",
    "start_trio",
]

_SETTINGS: Mapping[str, str] = {
    "mysqlx": "OFF",
    "gtid-mode": "ON",
    "enforce-gtid-consistency": "ON",
    "log-bin": "binlog",
    "relay-log": "relay",
    "relay-log-recovery": "ON",
    "max-binlog-size": "16M",
    "sync-binlog": "0",
    "innodb-flush-log-at-trx-commit": "2",
    "innodb-buffer-pool-size": "32M",
    "innodb-redo-log-capacity": "32M",
    "innodb-log-buffer-size": "1M",
    "innodb-doublewrite": "OFF",
    "innodb-use-native-aio": "OFF",
    "innodb-io-capacity": "200",
    "performance-schema": "OFF",
    "table-open-cache": "256",
    "table-definition-cache": "400",
    "max-connections": "200",
    "thread-cache-size": "8",
    "tmp-table-size": "4M",
    "replica-parallel-workers": "2",
    "skip-name-resolve": "ON",
    "secure-file-priv": "",
}


def peers_bin() -> Path:
    """Folder of programs from other Debian suites."""
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(os.environ.get("PORTSIDE_PEERS", f"{cache}/portside-peers")) / "bin"


def fetch_mysql9() -> str | None:
    """None when MySQL 9.7 is there (fetched if need be), else the reason why it is not."""
    if (peers_bin() / "mysqld9").exists():
        return None
    script = Path(__file__).parents[3] / "shared" / "peers" / "get-mysql9.sh"
    if not script.exists():
        return f"MySQL 9.7 is neither in {peers_bin()} nor is {script} there to fetch it"
    environment = {**os.environ, "PEERS": str(peers_bin().parent)}
    done = subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, check=False, env=environment
    )
    return None if done.returncode == 0 else f"{script} failed: {done.stderr.strip()[-300:]}"


class MySQL9(Database):
    """One MySQL 9.7 server (caching_sha2_password, TLS with its own certificates)."""

    product = "MySQL 9.7"

    def _program(self) -> str:
        program = peers_bin() / "mysqld9"
        if not program.exists():
            raise DatabaseError(f"{program} is missing")
        return str(program)

    def _default_options(self) -> Mapping[str, str]:
        return _SETTINGS

    def _make_data(self, data: Path) -> None:
        template = self.data_dir.parent / "mysql9-template"
        if not template.is_dir():  # three seconds; a copy takes 0.2
            command = [*self._command(), "--initialize-insecure", f"--datadir={template}.new"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise DatabaseError(f"--initialize-insecure failed: {self.last_log_lines()}")
            Path(f"{template}.new/auto.cnf").unlink(missing_ok=True)  # each copy its own UUID
            Path(f"{template}.new").rename(template)
        shutil.copytree(template, data)

    def _make_users(self) -> None:
        hosts = self.client_hosts
        self.root(
            f"""CREATE USER IF NOT EXISTS {APP_USER}@'{hosts}'
              IDENTIFIED WITH caching_sha2_password BY '{APP_PASSWORD}';
            GRANT ALL ON *.* TO {APP_USER}@'{hosts}';
            REVOKE CONNECTION_ADMIN, SUPER ON *.* FROM {APP_USER}@'{hosts}';
            CREATE USER IF NOT EXISTS {MONITOR_USER}@'{hosts}' IDENTIFIED BY '{MONITOR_PASSWORD}';
            GRANT REPLICATION CLIENT, PROCESS ON *.* TO {MONITOR_USER}@'{hosts}';
            CREATE USER IF NOT EXISTS {REPL_USER}@'{hosts}' IDENTIFIED BY '{REPL_PASSWORD}';
            GRANT REPLICATION SLAVE ON *.* TO {REPL_USER}@'{hosts}';
            CREATE DATABASE IF NOT EXISTS app"""
        )

    def _connect_to_primary(self, primary: Database) -> None:
        self.root(
            f"""STOP REPLICA; RESET REPLICA ALL; RESET BINARY LOGS AND GTIDS;
            CHANGE REPLICATION SOURCE TO SOURCE_HOST='{primary.address}',
              SOURCE_PORT={primary.port}, SOURCE_USER='{REPL_USER}',
              SOURCE_PASSWORD='{REPL_PASSWORD}', SOURCE_AUTO_POSITION=1, SOURCE_SSL=1,
              SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=86400;
            START REPLICA"""
        )

    def wait_for(self, primary: Database, timeout_s: float = 20.0) -> None:
        """Waits until this replica has everything that the primary has written so far."""
        done = primary.root("SELECT @@gtid_executed")[0][0]
        late = self.root(f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{done}', {timeout_s})")[0][0]
        if late:
            raise DatabaseError(f"replica on port {self.port} is late: {self.last_log_lines()}")
