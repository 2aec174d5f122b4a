"""A unix listener takes over a socket that nobody serves, and nothing else."""

from __future__ import annotations

import socket

from tests.support.lab import Load, Sink

CONFIG = """
[[server]]
name = "db1"
address = "{server}"
check = false
[[service]]
name = "a"
listen = "unix:{path}"
servers = ["db1"]
"""


def test_a_file_that_is_no_socket_is_left_alone(run_portside, folder):
    path = folder / "x.sock"
    path.write_text("precious")
    one = run_portside(CONFIG.format(server="127.0.0.1:3", path=path), start=False)
    one.launch()
    assert one.wait() == 1
    assert f"cannot listen on unix:{path}: a file that is no socket stands there" in one.messages()
    assert path.read_text() == "precious"


def test_what_a_killed_process_left_is_taken_over(run_portside, folder):
    path = folder / "x.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    sink = Sink()
    run_portside(CONFIG.format(server=sink.address, path=path))
    assert Load(f"unix:{path}", connections=10).wait()["sessions_ok"] == 10


def test_a_socket_that_is_served_is_left_alone(run_portside, folder):
    path = folder / "x.sock"
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(path))
        owner.listen()
        one = run_portside(CONFIG.format(server="127.0.0.1:3", path=path), start=False)
        one.launch()
        assert one.wait() == 1
        assert f"cannot listen on unix:{path}" in one.messages()
        assert path.is_socket()
