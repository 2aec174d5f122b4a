"""The one error of the trace: a sentence for whoever typed the command."""

from __future__ import annotations

from portside.errors import PortsideError


class TraceError(PortsideError):
    """Nothing can be captured here, or the file is no capture; the text says which and why."""
