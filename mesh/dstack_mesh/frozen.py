"""`@frozen`: an immutable dataclass that costs a twentieth of the standard one to define.

`@dataclass(frozen=True, slots=True)` compiles eight methods and makes the class twice: 0.29 ms each
on a slow core, and a command loads 160 of them before it can say anything. Here the standard
`dataclass` makes the fields, all methods but `__init__` are shared, and `__init__` is compiled when
the first instance is made: most classes that a command loads never have one. It stays a dataclass:
`replace`, `fields`, `match` and type checkers see no difference. What is made by the hundred
thousand takes `@frozen(slots=True)`, and the standard decorator where it is compared as often.
"""

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import Any, Never, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def frozen(cls: type[T]) -> type[T]: ...


@overload
def frozen(*, slots: bool) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(
    cls: type[T] | None = None, *, slots: bool = False
) -> type[T] | Callable[[type[T]], type[T]]:
    """Makes a class an immutable dataclass: equal by value, hashable, shown by its fields.

    Args:
        slots: Instances take less memory, and the class twice as long to define.
    """
    if cls is None:
        return lambda named: _frozen(named, slots)
    return _frozen(cls, slots)


def _frozen(cls: type[T], slots: bool) -> type[T]:
    for name, method in _SHARED.items():
        if name not in cls.__dict__:
            setattr(cls, name, method)
    if not cls.__doc__:  # dataclass would look at the signature to write one
        cls.__doc__ = cls.__name__
    made = dataclass(init=False, eq=False, repr=False, slots=slots)(cls)
    if "__init__" not in made.__dict__:
        setattr(made, "__init__", _compiled_on_first_use(made))  # noqa: B010 - of any signature
    return made


def _compiled_on_first_use(cls: type[Any]) -> Callable[..., None]:
    def __init__(self: object, *args: object, **named: object) -> None:
        compiled = _compiled(cls)
        cls.__init__ = compiled
        compiled(self, *args, **named)

    return __init__


def _compiled(cls: type[Any]) -> Callable[..., None]:
    """`__init__` as `dataclass` makes it, but for what it asks of types."""
    positional, named, lines = ["self"], list[str](), list[str]()
    values: dict[str, object] = {"_put": object.__setattr__, "_missing": MISSING}
    for one in fields(cls):
        value = one.name
        if one.default_factory is not MISSING:
            values[f"_make_{one.name}"] = one.default_factory
            value = f"_make_{one.name}() if {one.name} is _missing else {one.name}"
            default = " = _missing"
        elif one.default is not MISSING:
            values[f"_default_{one.name}"] = one.default
            default = f" = _default_{one.name}"
        else:
            default = ""
        (named if one.kw_only else positional).append(f"{one.name}{default}")
        lines.append(f"    _put(self, {one.name!r}, {value})")
    parameters = ", ".join([*positional, *(["*", *named] if named else [])])
    source = "\n".join([f"def __init__({parameters}):", *(lines or ["    pass"])])
    exec(source, values)
    compiled: Any = values["__init__"]
    compiled.__qualname__ = f"{cls.__qualname__}.__init__"
    return compiled


def _equal(self: Any, other: object) -> bool:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash((self.__class__, *_values(self)))


def _show(self: Any) -> str:
    shown = zip(self.__match_args__, _values(self), strict=True)
    values = ", ".join(f"{name}={value!r}" for name, value in shown)
    return f"{self.__class__.__qualname__}({values})"


def _refuse(self: object, name: str, value: object) -> Never:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _keep(self: object, name: str) -> Never:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _values(instance: Any) -> list[object]:
    return [getattr(instance, name) for name in instance.__match_args__]


_SHARED = {
    "__eq__": _equal,
    "__hash__": _hash,
    "__repr__": _show,
    "__setattr__": _refuse,
    "__delattr__": _keep,
}
