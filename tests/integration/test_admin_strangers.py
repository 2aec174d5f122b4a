"""The runtime commands at a socket that is not Portside's: no byte of it steers the terminal."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from portside.cli import run_command as portside
from portside.errors import ExitCode

ESCAPES = "\x1b[2J\x1b]0;pwned\x07"
HEAD = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
OURS = HEAD + "Portside-Api: 1\r\nPortside-Version: 1\r\n"
COMMANDS = [
    ["show", "-a"],
    ["show", "events", "-a"],
    ["plan", "-a"],
    ["top", "--once", "-a"],
    ["drain", "db1", "-a"],
]


@contextlib.contextmanager
def answering(path: Path, answer: str) -> Iterator[str]:
    """A unix socket that gives everybody the same bytes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(65536)
                        client.sendall(answer.encode("latin-1"))
                        client.shutdown(socket.SHUT_WR)
                        # A body may follow its head: closed before it, the client meets EPIPE.
                        while client.recv(65536):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(path)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (f"{ESCAPES} all is GOOD\n", "is not a Portside instance."),
        (f"{HEAD}Server: {ESCAPES}\r\n\r\n", "is not a Portside instance."),
        (f"{HEAD}Portside-Api: 7{ESCAPES}\r\nPortside-Version: 9{ESCAPES}\r\n\r\n", "(level 7"),
        (f"{OURS}\r\n{ESCAPES}", "broke off: "),
        (f"{OURS}Transfer-Encoding: chunked\r\n\r\n{ESCAPES}\r\n", "broke off: "),
        (
            OURS.replace("200 OK", "409 No") + "\r\n" + json.dumps({"error": f"no {ESCAPES}"}),
            "portside: no ?[2J?]0;pwned?",
        ),
    ],
)
def test_a_stranger_is_named_and_steers_nothing(
    command: list[str],
    answer: str,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answering(tmp_path / "a.sock", answer) as path:
        assert portside([*command, path]) == ExitCode.NO
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and out == ""
    assert err.rstrip("\n").isprintable()


def test_an_answer_in_our_form_steers_nothing_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = {"time": 0.0, "kind": "x", "message": f"{ESCAPES}\x9b2J well"}
    with answering(tmp_path / "a.sock", f"{OURS}\r\n{json.dumps([event])}") as path:
        assert portside(["show", "events", "-a", path]) == ExitCode.GOOD
    out = capsys.readouterr().out
    assert "?[2J?]0;pwned??2J well" in out and out.replace("\n", "").isprintable()
