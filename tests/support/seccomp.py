"""A process that the kernel gives no sock_diag: as on a kernel built without it."""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct

import pytest

_SOCKET_CALL = {"x86_64": 41, "aarch64": 198}  # asm/unistd.h
_SOCK_DIAG = 4  # linux/netlink.h
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # linux/seccomp.h


def without_sock_diag() -> None:
    """For ``preexec_fn``: socket(AF_NETLINK, ..., NETLINK_SOCK_DIAG) gives EPROTONOSUPPORT."""
    number = _SOCKET_CALL.get(platform.machine())
    if number is None:
        pytest.skip(f"the number of socket() on {platform.machine()} is not known here")
    rules = [
        (_LOAD, 0, 0, 0),  # the call's number
        (_EQUAL, 0, 5, number),
        (_LOAD, 0, 0, 16),  # its first argument
        (_EQUAL, 0, 3, socket.AF_NETLINK),
        (_LOAD, 0, 0, 32),  # its third one
        (_EQUAL, 0, 1, _SOCK_DIAG),
        (_RETURN, 0, 0, _ERRNO | errno.EPROTONOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *rule) for rule in rules))
    program = struct.pack("@HP", len(rules), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _FILTER, program)):
        if libc.prctl(*call, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
