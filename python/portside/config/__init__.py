"""The configuration: TOML in, frozen and fully resolved models out.

`load()` and `loads()` report every mistake at once as a `ConfigError`; `warnings()` lists what is
allowed but doubtful; `dump()` writes a configuration back; `origins()` says where each value came
from; `snapshot.build()` turns a `Config` and the runtime's state into what the data plane takes.
Nothing here opens a socket.
"""

from portside.config.load import load, loads, schema, warnings
from portside.config.model import Config

__all__ = ["Config", "load", "loads", "schema", "warnings"]
