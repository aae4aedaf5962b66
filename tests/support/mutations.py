"""Messages that no peer of ours sends: valid ones whose fields or bytes were changed by chance."""

from collections.abc import Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

TEXTS = (
    "",
    "\0",
    "..",
    "../../../etc/passwd",
    "/",
    "-",
    "--help",
    "a" * 256,
    "a" * 70_000,
    "\u202e\u0000\x1b[2J",
    "%s%n{0}${{ secrets.X }}$(reboot)`id`",
    "';--",
    "nan",
    "\U0010ffff",
    "0" * 26,
    "a" * 32,
)
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
WIDE = (2**53, 2**62, 2**63 - 1, 2**64 - 1, 253_402_300_800, 315_576_000_001)
FLOATS = (0.0, -0.0, -1.0, 1e308, 5e-324, float("inf"), float("-inf"), float("nan"))


def mutated(chance: Random, seeds: Sequence[Message]) -> bytes:
    """One of the seeds with some field changed, then perhaps some bytes."""
    seed = chance.choice(seeds)
    if chance.random() < 0.6:
        changed = type(seed)()
        changed.CopyFrom(seed)
        for _ in range(chance.randint(1, 3)):
            _change_field(chance, changed)
        encoded = changed.SerializeToString()
        if chance.random() < 0.8:
            return encoded
    else:
        encoded = seed.SerializeToString()
    for _ in range(chance.randint(1, 3)):
        encoded = _change_bytes(chance, encoded, seeds)
    return encoded


def _change_field(chance: Random, message: Any) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = chance.choice(fields)
    set_now = [one for one, _ in message.ListFields()]
    if set_now and chance.random() < 0.7:
        field = chance.choice(set_now)
    if chance.random() < 0.1:
        message.ClearField(field.name)
    elif field.message_type is not None and field.message_type.GetOptions().map_entry:
        _change_map(chance, message, field)
    elif field.is_repeated:
        _change_list(chance, getattr(message, field.name), field)
    elif field.message_type is not None:
        _change_field(chance, getattr(message, field.name))
    else:
        setattr(message, field.name, _value(chance, field))


def _change_map(chance: Random, message: Any, field: Any) -> None:
    value = field.message_type.fields_by_name["value"]
    if value.message_type is None:
        getattr(message, field.name)[chance.choice(TEXTS)] = _value(chance, value)


def _change_list(chance: Random, values: Any, field: Any) -> None:
    if values and chance.random() < 0.4:
        if field.message_type is not None:
            _change_field(chance, chance.choice(values))
        else:
            values[chance.randrange(len(values))] = _value(chance, field)
        return
    if values and chance.random() < 0.3:
        values.extend(list(values) * chance.choice((1, 1, 1, 40)))
        return
    if field.message_type is not None:
        _change_field(chance, values.add())
    else:
        values.append(_value(chance, field))


def _value(chance: Random, field: Any) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.choice((0, 1, 31, 32, 33, 64, 300, 5000)))
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return chance.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.randint(0, 12)
        case FieldDescriptor.CPPTYPE_INT32:
            return chance.choice((-(2**31), -1, *NUMBERS[:10]))
        case FieldDescriptor.CPPTYPE_UINT32:
            return chance.choice(NUMBERS)
        case FieldDescriptor.CPPTYPE_INT64:
            return chance.choice((-(2**63), -1, *NUMBERS, *WIDE[:3], *WIDE[4:]))
        case _:
            return chance.choice((*NUMBERS, *WIDE))


def _change_bytes(chance: Random, encoded: bytes, seeds: Sequence[Message]) -> bytes:
    at = chance.randint(0, len(encoded))
    upto = min(len(encoded), at + chance.choice((1, 1, 2, 8, 64)))
    match chance.randrange(7):
        case 0 if at < len(encoded):
            flipped = encoded[at] ^ 1 << chance.randrange(8)
            return encoded[:at] + bytes([flipped]) + encoded[at + 1 :]
        case 1:
            return encoded[:at] + chance.randbytes(upto - at) + encoded[upto:]
        case 2:
            return encoded[:at]
        case 3:
            return encoded[:at] + encoded[upto:]
        case 4:
            return encoded[:upto] + encoded[at:]
        case 5:
            # A length or number that runs away, and groups, which nobody sends any more.
            runaway = chance.choice((b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x0b" * 200))
            return encoded[:at] + runaway + encoded[at:]
        case _:
            other = chance.choice(seeds).SerializeToString()
            return encoded[:at] + other[chance.randint(0, len(other)) :]


def readable(kind: type[Message], encoded: bytes) -> bool:
    """Whether these bytes are such a message at all."""
    try:
        kind.FromString(encoded)
    except DecodeError:
        return False
    return True
