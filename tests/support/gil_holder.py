"""A program with a ``Balancer`` whose interpreter can be held: nothing of Python runs meanwhile.

Reads ``hold SECONDS``, ``report`` and ``end`` from standard input; answers each with a JSON line.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import asdict
from pathlib import Path

import portside


def main() -> None:
    with portside.Balancer(Path(sys.argv[1])) as balancer:
        balancer.wait_ready()
        print(json.dumps(balancer.address("a")), flush=True)
        for line in sys.stdin:
            word, _, seconds = line.strip().partition(" ")
            if word == "end":
                return
            if word == "hold":
                # PyDLL, unlike CDLL, keeps the interpreter's lock during the call.
                ctypes.PyDLL(None).sleep(int(seconds))
            events = [asdict(event) for event in balancer.events()]
            servers = [asdict(server) for server in balancer.servers()]
            print(json.dumps({"events": events, "servers": servers}), flush=True)


main()
