"""A password or token that cannot be printed by accident.

The text comes from the file itself, from a file or from an environment variable, and is read once,
when the configuration is loaded. Neither `repr()`, `str()`, a dump, a log line nor an error shows
it; `reveal()` is the only way, so that a search finds every use.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from portside.config.units import bad_value

_FORM: Final = 'a text, { file = "/path" } or { env = "NAME" }'
# A secret file of this size is the wrong file (a key ring, a database); refuse before reading it.
_MAX_BYTES: Final = 64 * 1024

From = Literal["inline", "file", "env"]


class Secret:
    """A secret and where it came from; equal when both are."""

    __slots__ = ("_value", "is_open_to_all", "origin", "where")

    def __init__(
        self, value: str, origin: From = "inline", where: str = "", *, is_open_to_all: bool = False
    ) -> None:
        self._value = value
        self.origin: From = origin
        self.where = where
        """The file's path or the variable's name as written; "" for inline."""
        self.is_open_to_all = is_open_to_all
        """Every user of this machine may read the file that it stands in."""

    def reveal(self) -> str:
        """The secret itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self})"

    def __str__(self) -> str:
        return "***" if self.origin == "inline" else f"{{ {self.origin} = {self.where!r} }}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self.origin, self.where) == (
            other._value,
            other.origin,
            other.where,
        )

    def __hash__(self) -> int:
        return hash((self._value, self.origin, self.where))

    def as_written(self, info: SerializationInfo) -> str | dict[str, str]:
        """What a dump shows: the reference, or "***" for a text that stood in the file.

        With `reveal` in the context, that text: for a file that only we read.
        """
        if self.origin != "inline":
            return {self.origin: self.where}
        return self._value if (info.context or {}).get("reveal") else "***"

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                cls.as_written, info_arg=True
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        reference = [
            {
                "type": "object",
                "properties": {key: {"type": "string"}},
                "required": [key],
                "additionalProperties": False,
            }
            for key in ("file", "env")
        ]
        return {"description": _FORM, "anyOf": [{"type": "string"}, *reference]}


def _read(value: object, info: ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    context = info.context or {}
    if isinstance(value, str) and value:
        return Secret(value, is_open_to_all=context.get("is_open_to_all", False))
    if isinstance(value, dict) and len(value) == 1:
        ((origin, where),) = value.items()
        if isinstance(where, str) and where:
            if origin == "env":
                return Secret(_from_env(where), "env", where)
            if origin == "file":
                text, mode = _from_file(context.get("folder", Path()) / where)
                return Secret(text, "file", where, is_open_to_all=bool(mode & stat.S_IROTH))
    raise bad_value(_FORM)


def _from_env(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        state = "is not set" if value is None else "is empty"
        raise bad_value("a variable that holds the secret", f"environment variable {name} {state}")
    return value


def _from_file(path: Path) -> tuple[str, int]:
    try:
        found = path.stat()
        if found.st_size > _MAX_BYTES:
            raise bad_value("a file that holds the secret alone", f"{path} is larger than 64 KiB")
        # Editors end a file with a newline that is not part of the secret.
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise bad_value("a readable file", f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise bad_value("a UTF-8 text file", f"{path} is not UTF-8") from None
    if not text:
        raise bad_value("a file that holds the secret", f"{path} is empty")
    return text, found.st_mode
