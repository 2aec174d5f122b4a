"""Files with secrets that every user of the machine can read: one warning each, at its key."""

from __future__ import annotations

from pathlib import Path

import pytest
from portside.config import load, loads, warnings

TEXT = """\
[admin]
listen = "127.0.0.1:6060"
token = { file = "token" }
[check]
user = "m"
password = { file = "passwords" }
[[server]]
name = "db1"
address = "10.0.0.11:3306"
check = { interval = "1s" }
[[service]]
name = "app"
listen = "10.0.0.5:3306"
mode = "pool"
servers = ["db1"]
[[user]]
name = "one"
password = { file = "passwords" }
[[user]]
name = "two"
password = "geheim"
server_password = { env = "PORTSIDE_TEST_PASSWORD" }
[[user]]
name = "three"
password = "geheim"
"""


@pytest.mark.parametrize(
    ("is_open", "doubts"),
    [
        (set(), []),
        (
            {"token"},
            ["3: admin.token: every user of this machine can read this file; chmod o-rwx token"],
        ),
        (
            {"passwords"},
            [
                "6: check.password: every user of this machine can read this file; "
                "chmod o-rwx passwords"
            ],
        ),
        (
            {"p.toml"},
            [
                '21: user "two" password: every user of this machine can read this file and the'
                " passwords in it; chmod o-rwx {folder}/p.toml"
            ],
        ),
    ],
)
def test_doubts(
    is_open: set[str], doubts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTSIDE_TEST_PASSWORD", "geheim")
    for name in ("token", "passwords", "p.toml"):
        path = tmp_path / name
        path.write_text(TEXT if name == "p.toml" else "geheim\n")
        path.chmod(0o664 if name in is_open else 0o660)
    found = warnings(load(tmp_path / "p.toml"))
    words = [f"{p.line}: {p.key}: {p.message}; {p.hint}" for p in found]
    assert words == [doubt.format(folder=tmp_path) for doubt in doubts]


def test_an_open_file_without_a_secret_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTSIDE_TEST_PASSWORD", "geheim")
    text = TEXT.replace('"geheim"', '{ env = "PORTSIDE_TEST_PASSWORD" }')
    for name in ("token", "passwords"):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text("geheim")
    (tmp_path / "p.toml").write_text(text)
    (tmp_path / "p.toml").chmod(0o644)
    assert warnings(load(tmp_path / "p.toml")) == []


def test_a_text_is_no_file() -> None:
    text = TEXT.replace('{ file = "token" }', '"geheim"').replace(
        '{ file = "passwords" }', '"geheim"'
    )
    text = text.replace('{ env = "PORTSIDE_TEST_PASSWORD" }', '"geheim"')
    assert warnings(loads(text)) == []
