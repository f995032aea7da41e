"""The shapes of the facts and of what they hold, compiled once: the types, lengths and ranges that each field can have.

docs/format.md, "Payloads", defines the resulting bytes.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from msgspec import Struct

from ledger.bounds import MAX_INT, Least, Length, Most, NotEmpty
from ledger.errors import MalformedEventError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Shape(Struct, frozen=True, kw_only=True):
    """One compiled class.

    `show` turns an object, with all that it holds, into maps with sorted keys. `read` creates the object from such a
    map. Both raise MalformedEventError for a field of a wrong type, length or range. `read` also raises it for unknown
    or missing keys, or keys in another order.
    """

    version: int
    show: Callable[[Any], dict[str, Any]]
    read: Callable[[Any], Any]


def shapes_of(classes: Iterable[type[Struct]]) -> dict[type[Struct], Shape]:
    """Return the shapes of these classes and of all that they hold."""
    shapes: dict[type[Struct], Shape] = {}

    def compile_one(cls: type[Struct]) -> None:
        if cls in shapes:
            return
        for hint in hints_of(cls).values():
            for part in _structs_in(hint):
                compile_one(part)
        shapes[cls] = _compile(cls, shapes)

    for cls in classes:
        compile_one(cls)
    return shapes


class FieldBounds(NamedTuple):
    """The marks of a field: bounds of a number, the fixed length of a byte string, whether a tuple may be empty."""

    least: int = 0
    most: int = MAX_INT
    length: int | None = None
    not_empty: bool = False


def bounds_of(hint: Any) -> tuple[Any, FieldBounds]:
    """Return a field's plain type and its bounds."""
    if get_origin(hint) is not Annotated:
        return hint, FieldBounds()
    plain, *marks = get_args(hint)
    bounds = FieldBounds()
    for mark in marks:
        match mark:
            case Least(value):
                bounds = bounds._replace(least=value)
            case Most(value):
                bounds = bounds._replace(most=value)
            case Length(size):
                bounds = bounds._replace(length=size)
            case NotEmpty():
                bounds = bounds._replace(not_empty=True)
            case _:
                raise TypeError(f"{mark!r} is not a mark that a field can have")
    return plain, bounds


def hints_of(cls: type[Struct]) -> dict[str, Any]:
    """Return the types of a class's fields with their marks, by name, in sorted order."""
    hints = get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in sorted(cls.__struct_fields__)}


def _compile(cls: type[Struct], shapes: dict[type[Struct], Shape]) -> Shape:
    """Generate both functions as source and compile them.

    Every event goes through them once or twice. Straight-line code takes 1 us where a loop over the fields takes 4 us.
    """
    hints = hints_of(cls)
    names = list(hints)
    scope: dict[str, Any] = {"cls": cls, "names": tuple(names), "refuse": _refuse}
    shown, demands = [f"{name} = value.{name}" for name in names], []
    unpacked = [
        "if type(held) is not dict or tuple(held) != names:",
        "    refuse(cls, None)",
        f"{', '.join(names)}{',' if len(names) == 1 else ''} = held.values()",
    ]
    for name in names:
        condition = _condition(name, hints[name], scope)
        demands += [f"if not ({condition}):", f"    refuse(cls, {name!r})"]
    maps = [line for name in names for line in _parts(name, hints[name], shapes, scope, "show")]
    built = [line for name in names for line in _parts(name, hints[name], shapes, scope, "read")]
    source = _function("show(value)", [*shown, *demands, *maps, f"return {{{_pairs(names, '{0!r}: {0}')}}}"])
    source += _function("read(held)", [*unpacked, *built, *demands, f"return cls({_pairs(names, '{0}={0}')})"])
    exec(source, scope)  # noqa: S102 -- the source contains only this program's own field names
    return Shape(version=getattr(cls, "VERSION", 0), show=scope["show"], read=scope["read"])


def _function(head: str, body: list[str]) -> str:
    return "".join([f"def {head}:\n", *(f"    {line}\n" for line in body)])


def _pairs(names: list[str], form: str) -> str:
    return ", ".join(form.format(name) for name in names)


def _refuse(cls: type[Struct], name: str | None) -> None:
    if name is None:
        raise MalformedEventError(f"a {cls.__name__} has different fields, or has them in a different order")
    raise MalformedEventError(f"{cls.__name__}.{name} has a type, length or range that is not allowed")


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _structs_in(hint: Any) -> Iterable[type[Struct]]:
    if isinstance(hint, type) and issubclass(hint, Struct):
        yield hint
    for part in get_args(hint):
        yield from _structs_in(part)


def _condition(value: str, hint: Any, scope: dict[str, Any]) -> str:
    """Return an expression that is true if the variable `value` fits `hint` with its length and range."""
    return " or ".join(_one_condition(value, option, scope) for option in _options(hint))


def _one_condition(value: str, marked: Any, scope: dict[str, Any]) -> str:
    hint, bounds = bounds_of(marked)
    if hint is type(None):
        return f"{value} is None"
    if hint is int:
        return f"type({value}) is int and {bounds.least} <= {value} <= {bounds.most}"
    origin = get_origin(hint)
    if origin is Literal:
        return f"type({value}) is str and {value} in {get_args(hint)!r}"
    if origin is tuple:
        parts = get_args(hint)
        inner = f"{value}_"
        each = _condition(inner, parts[0], scope)
        length = "" if parts[-1] is Ellipsis else f" and len({value}) == {len(parts)}"
        length += f" and {value}" if bounds.not_empty else ""
        return f"type({value}) is tuple{length} and all({each} for {inner} in {value})"
    scope[hint.__name__] = hint
    length = "" if bounds.length is None else f" and len({value}) == {bounds.length}"
    return f"type({value}) is {hint.__name__}{length}"


def _parts(
    name: str, hint: Any, shapes: dict[type[Struct], Shape], scope: dict[str, Any], how: Literal["read", "show"]
) -> list[str]:
    """Return the lines that convert a field's maps to objects ("read") or back ("show"), if it holds any."""
    for option in _options(hint):
        part = get_args(option)[0] if get_origin(option) is tuple else option
        if part not in shapes:
            continue
        scope[f"{how}_{name}"] = getattr(shapes[part], how)
        if part is option:
            return [f"if {name} is not None:", f"    {name} = {how}_{name}({name})"]
        return [f"if type({name}) is tuple:", f"    {name} = tuple(map({how}_{name}, {name}))"]
    return []
