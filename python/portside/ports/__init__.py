"""What is known of source ports: their trend, in words, and what the kernel still holds.

The ledger itself is the data plane's (docs/internals/ports.md); ``Engine.ports()`` gives its
counts.
"""
