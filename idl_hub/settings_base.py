"""What settings are made of: strict sections, sizes, ports, and faults that name the key to change."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

_SIZE_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_size_bytes(value: object) -> int:
    """Return a size in bytes from a number of bytes or text such as ``26GiB``.

    Raises
    ------
    ValueError
        When it is neither, or below zero.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        for unit, factor in _SIZE_UNITS.items():
            if value.endswith(unit):
                number = value.removesuffix(unit).strip()
                if number.replace(".", "", 1).isdigit() and number.isascii() and len(number) < 20:
                    return int(Decimal(number) * factor)
    raise ValueError(f"a size such as 26GiB or 512MiB (units: {', '.join(_SIZE_UNITS)})")


def at_least(least: str) -> AfterValidator:
    """Return the check that a size is no smaller than this one."""

    def check(size_bytes: int) -> int:
        if size_bytes < parse_size_bytes(least):
            raise ValueError(f"a size of at least {least}")
        return size_bytes

    return AfterValidator(check)


Size = Annotated[int, BeforeValidator(parse_size_bytes)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """Values with a description each; knows no others and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("something else than true or false")
        return value


def fault(key: str, value: object, allowed: str) -> PydanticCustomError:
    """Return the error for a value that is only wrong together with others; `key` is the one to change."""
    return PydanticCustomError("together", "{allowed}", {"key": key, "value": value, "allowed": allowed})
