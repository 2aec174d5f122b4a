"""The kernel's filter: what a trace needs passes, everything else stays in the kernel.

A classic BPF program over packets that begin with their IP header (SOCK_DGRAM): of the TCP ports
asked for, segments with SYN, FIN or RST, bare acknowledgements, and payloads that end in QUIT. What
a query or a result carries never reaches us. Pure; ``live`` attaches it.

Not seen: IPv6 with extension headers, and later IPv4 fragments. Loopback shows each packet twice,
going out and coming in; the first is dropped here.

Source: linux/filter.h, Documentation/networking/filter.rst; offsets of RFC 791, 8200, 9293.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

MOST_PORTS = 16
# IPv4 and TCP headers at their longest (120) and a QUIT; rounded up.
_SNAP_BYTES = 192
_WHOLE = 0x40000

# Opcodes: class | size | mode, linux/bpf_common.h.
_LD_W_ABS, _LD_H_ABS, _LD_B_ABS = 0x20, 0x28, 0x30
_LD_W_IND, _LD_H_IND, _LD_B_IND = 0x40, 0x48, 0x50
_LDX_IHL, _LDX_IMM, _LDX_MEM, _LD_MEM, _ST = 0xB1, 0x01, 0x61, 0x60, 0x02
_RSH, _AND, _ADD_X, _ADD, _SUB_X, _SUB = 0x74, 0x54, 0x0C, 0x04, 0x1C, 0x14
_TAX, _RET = 0x07, 0x06
_JEQ, _JGE, _JSET = 0x15, 0x35, 0x45
_JUMPS = frozenset({_JEQ, _JGE, _JSET})

_AUXILIARY = 0xFFFFF000  # SKF_AD_OFF
_PROTOCOL, _PACKET_TYPE, _HARDWARE = _AUXILIARY, _AUXILIARY + 4, _AUXILIARY + 28
_LOOPBACK_HARDWARE, _OUTGOING = 772, 4

# An instruction, or a label; jumps name where they go when true and when false, "" is the next.
_Line = tuple[Any, ...]  # (opcode, k) or (opcode, k, if_true, if_false)


def program(ports: Sequence[int]) -> bytes:
    """The program as an array of struct sock_filter.

    Args:
        ports: at most ``MOST_PORTS``, since a jump reaches 255 instructions.
    """
    lines: list[str | _Line] = [
        (_LD_W_ABS, _HARDWARE),
        (_JEQ, _LOOPBACK_HARDWARE, "", "which"),
        (_LD_W_ABS, _PACKET_TYPE),
        (_JEQ, _OUTGOING, "drop", ""),
        "which",
        (_LD_W_ABS, _PROTOCOL),
        (_JEQ, 0x0800, "ip4", ""),
        (_JEQ, 0x86DD, "ip6", "drop"),
        "ip4",
        (_LD_B_ABS, 9),
        (_JEQ, 6, "", "drop"),
        (_LD_H_ABS, 6),
        (_JSET, 0x1FFF, "drop", ""),
        (_LD_H_ABS, 2),  # the packet's length
        (_ST, 1),
        (_LDX_IHL, 0),
        (_JSET, 0, "", "tcp"),  # always
        "ip6",
        (_LD_B_ABS, 6),
        (_JEQ, 6, "", "drop"),
        (_LD_H_ABS, 4),
        (_ADD, 40),
        (_ST, 1),
        (_LDX_IMM, 40),
        "tcp",  # X: where TCP begins; M[1]: where the packet ends
        (_LD_H_IND, 2),
        *((_JEQ, port, "ours", "") for port in ports),
        (_LD_H_IND, 0),
        *((_JEQ, port, "ours", "") for port in ports[:-1]),
        (_JEQ, ports[-1], "", "drop"),
        "ours",
        (_LD_B_IND, 13),
        (_JSET, 0x07, "head", ""),  # FIN, SYN, RST
        (_LD_B_IND, 12),
        (_RSH, 2),
        (_AND, 0x3C),
        (_ADD_X, 0),
        (_ST, 0),
        (_LDX_MEM, 0),
        (_LD_MEM, 1),
        (_SUB_X, 0),
        (_JEQ, 0, "head", ""),  # no payload
        (_JGE, 5, "", "drop"),
        (_LD_MEM, 1),
        (_SUB, 5),
        (_TAX, 0),
        (_LD_W_IND, 0),
        (_JEQ, 0x01000000, "", "drop"),
        (_LD_B_IND, 4),
        (_JEQ, 0x01, "", "drop"),
        (_RET, _WHOLE),
        "head",
        (_RET, _SNAP_BYTES),
        "drop",
        (_RET, 0),
    ]
    return _assemble(lines)


def _assemble(lines: Sequence[str | _Line]) -> bytes:
    places: dict[str, int] = {}
    instructions: list[_Line] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(instructions)
        else:
            instructions.append(line)
    code = bytearray()
    for at, (opcode, k, *targets) in enumerate(instructions):
        jumps = [places[name] - at - 1 if name else 0 for name in targets] or [0, 0]
        code += struct.pack("=HBBI", opcode, *jumps, k)
    return bytes(code)
