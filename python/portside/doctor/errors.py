"""Why the doctor cannot say anything."""

from __future__ import annotations

from portside.errors import PortsideError


class DoctorError(PortsideError):
    """Wrong input, or a host that lets nothing be seen; one sentence with what to do."""
