"""A certificate or key that stands in a file of its own, read once, when the configuration is.

So that a configuration is good or bad as a whole: what a reload applies is what was checked, and a
change of a server's health never reads a file that is being replaced. Neither `repr()`, a dump nor
an error shows the text.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from portside.config.units import bad_value

_FORM: Final = "the path of a PEM file"
# A bundle of all public authorities has 250 KiB.
_MAX_BYTES: Final = 1024 * 1024


class Pem:
    """A PEM file's text and where it came from; equal when both are."""

    __slots__ = ("is_open_to_all", "path", "text")

    def __init__(self, path: str, text: str, *, is_open_to_all: bool = False) -> None:
        self.path = path
        """As written in the configuration."""
        self.text = text
        self.is_open_to_all = is_open_to_all
        """Every user of this machine may read the file."""

    def __repr__(self) -> str:
        return f"Pem({self.path!r})"

    def __str__(self) -> str:
        return self.path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pem) and (self.path, self.text) == (other.path, other.text)

    def __hash__(self) -> int:
        return hash((self.path, self.text))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _read, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"description": _FORM, "type": "string"}


def _read(value: object, info: ValidationInfo) -> Pem:
    if isinstance(value, Pem):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise bad_value(_FORM)
    path = (info.context or {}).get("folder", Path()) / value
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
            mode = path.stat().st_mode
    except OSError as error:
        raise bad_value("a readable PEM file", f"{path}: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise bad_value(_FORM, f"{path} is larger than 1 MiB")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise bad_value(_FORM, f"{path} is no PEM text (DER? openssl x509 -inform der)") from None
    return Pem(value, text, is_open_to_all=bool(mode & stat.S_IROTH))
