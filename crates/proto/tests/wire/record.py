"""Records what a real client and a real server say to each other, as .hex files beside it.

    record.py OUT.hex HOST:PORT 'TITLE' -- CLIENT ARGS... {host} {port}

Listens on a free port, runs the client against it (``{host}`` and ``{port}`` are filled in), relays
one connection (from $SOURCE, if set) and writes it down: ``C`` lines from the client, ``S`` lines
from the server, in order of arrival, 32 bytes a line. A line that begins with ``#`` is a comment:
title, client, and the command.
"""

import os
import pathlib
import select
import shlex
import socket
import subprocess
import sys


def relay(client: socket.socket, server: socket.socket) -> list[tuple[str, bytes]]:
    """Returns the conversation as (direction, bytes) turns; ends when both sides have closed."""
    turns: list[tuple[str, bytes]] = []
    peers = {client: (server, "C"), server: (client, "S")}
    while peers:
        for ready in select.select(list(peers), [], [], 10)[0] or sys.exit("nothing for 10 s"):
            to, mark = peers[ready]
            try:
                data = ready.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                del peers[ready]
                if to in peers:
                    to.shutdown(socket.SHUT_WR)
                continue
            to.sendall(data)
            if turns and turns[-1][0] == mark:
                data = turns.pop()[1] + data
            turns.append((mark, data))
    return turns


def main() -> None:
    """Runs the client once and writes the file."""
    out, address, title, _, *command = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        filled = [word.format(host="127.0.0.1", port=listener.getsockname()[1]) for word in command]
        child = subprocess.Popen(
            filled, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        client = listener.accept()[0]
        source = (os.environ["SOURCE"], 0) if "SOURCE" in os.environ else None
        turns = relay(client, socket.create_connection((host, int(port)), source_address=source))
        client.close()
        said = child.communicate()[0].strip().splitlines()
    command[0] = pathlib.Path(command[0]).name
    lines = [f"# {title}", f"# {shlex.join(command)}", *(f"# > {line}" for line in said)]
    for mark, data in turns:
        lines += [f"{mark} {data[at : at + 32].hex(' ')}" for at in range(0, len(data), 32)]
    pathlib.Path(out).write_text("\n".join(lines) + "\n", encoding="ascii")


main()
