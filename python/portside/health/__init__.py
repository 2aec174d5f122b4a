"""Health: checks of servers, the verdict on each, and who may take a service's sessions.

``judge`` and ``eligibility`` decide and do no I/O; ``probe``, ``login``, ``connection`` and
``usercheck`` do the I/O and decide nothing; ``monitor`` is the loop that joins them.
"""
