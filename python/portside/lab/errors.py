"""The one error of the lab: a sentence for whoever typed the command."""

from __future__ import annotations

from portside.errors import PortsideError


class LabError(PortsideError):
    """The lab cannot run, or not here; the text says what to do about it."""
