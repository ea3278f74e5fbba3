"""Strict parsers for JSON from outside: a value of ours, or `WireError` with the place and what is allowed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping
    from enum import StrEnum

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class WireError(ValueError):
    """What came is not what it should be; the message names the first thing that is wrong."""


class Parser(Protocol[T_co]):
    """Turns a JSON value into one of ours; `where` is the place in the answer, for the error."""

    def __call__(self, value: Any, where: str) -> T_co: ...  # noqa: D102 - said above


def parse_json(body: bytes) -> Any:
    """Return the JSON value; keys that come twice, NaN, infinity and other encodings than UTF-8 are errors."""
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except WireError:
        raise
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError and numbers of 5000 digits
        raise WireError(f"the answer is no JSON: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise WireError(f"the answer holds {constant}, which is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WireError("the answer says something twice")
    return found


def _wrong(where: str, allowed: str, value: object) -> WireError:
    shown = ascii(value) if isinstance(value, str | float | bool | None) else type(value).__name__
    return WireError(f"{where.lstrip('.')} must be {allowed}, not {shown[:80]}")


def check_keys(value: Any, where: str, keys: set[str]) -> None:
    """Raise unless this is an object with exactly these keys."""
    if type(value) is not dict:
        raise _wrong(where, "an object", value)
    if value.keys() != keys:
        odd = ascii(sorted(value.keys() ^ keys))
        raise WireError(f"{where.lstrip('.')} has other keys than it should: {odd[:200]}")


def integer(low: int, high: int) -> Parser[int]:
    """Return the parser of whole numbers in this range, both ends included."""

    def parse(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(where, f"a whole number from {low} to {high}", value)
        return value

    return parse


def number(low: float, high: float) -> Parser[float]:
    """Return the parser of numbers in this range, which keeps NaN and infinity out."""

    def parse(value: Any, where: str) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise _wrong(where, f"a number from {low} to {high}", value)
        return float(value)

    return parse


def text(most: int) -> Parser[str]:
    """Return the parser of text that may be shown: no control characters, no halves of letters."""

    def parse(value: Any, where: str) -> str:
        if type(value) is not str or len(value) > most or not value.isprintable():
            raise _wrong(where, f"printable text of at most {most} letters", value)
        return value

    return parse


def matching(pattern: re.Pattern[str]) -> Parser[str]:
    """Return the parser of text that is wholly of this form."""

    def parse(value: Any, where: str) -> str:
        if type(value) is not str or not pattern.fullmatch(value):
            raise _wrong(where, f"text of the form {pattern.pattern}", value)
        return value

    return parse


def one_of(kind: type[StrEnum]) -> Parser[Any]:
    """Return the parser of the values of an enumeration."""
    allowed = {member.value: member for member in kind}

    def parse(value: Any, where: str) -> Any:
        if type(value) is not str or value not in allowed:
            raise _wrong(where, f"one of {', '.join(allowed)}", value)
        return allowed[value]

    return parse


def boolean(value: Any, where: str) -> bool:
    """Parse true or false; 0 and 1 are neither."""
    if type(value) is not bool:
        raise _wrong(where, "true or false", value)
    return value


def optional(parser: Parser[T]) -> Parser[T | None]:
    """Return the parser that takes null, too."""

    def parse(value: Any, where: str) -> T | None:
        return None if value is None else parser(value, where)

    return parse


def tuple_of(parser: Parser[T], most: int) -> Parser[tuple[T, ...]]:
    """Return the parser of lists of at most so many."""

    def parse(value: Any, where: str) -> tuple[T, ...]:
        if type(value) is not list or len(value) > most:
            raise _wrong(where, f"a list of at most {most}", value)
        return tuple(parser(part, f"{where}[{number}]") for number, part in enumerate(value))

    return parse


def record(
    make: type[T], parsers: Mapping[str, Parser[Any]], contradiction: Callable[[T], str] = lambda _made: ""
) -> Parser[T]:
    """Return the parser of a dataclass; `contradiction` says how fields disagree, or nothing."""
    keys = set(parsers)

    def parse(value: Any, where: str) -> T:
        check_keys(value, where, keys)
        made = make(**{name: parser(value[name], f"{where}.{name}") for name, parser in parsers.items()})
        wrong = contradiction(made)
        if wrong:
            raise WireError(f"{where.lstrip('.')} contradicts itself: {wrong}")
        return made

    return parse
