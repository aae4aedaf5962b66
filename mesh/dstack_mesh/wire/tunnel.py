"""Frames of a tunnel as messages, and back."""

from dstack_mesh.faults import Invalid
from dstack_mesh.tunnel.flow import WINDOW_BYTES
from dstack_mesh.tunnel.frame import PIECE_BYTES, Broken, Credit, Data, End, Frame, Made
from dstack_mesh.v1 import tunnel_pb2 as pb

_WHY_CHARACTERS = 300


def frame_to_wire(number: int, frame: Frame) -> pb.Frame:
    match frame:
        case Made():
            return pb.Frame(connection=number, made=pb.Made())
        case Data(data):
            return pb.Frame(connection=number, data=data)
        case Credit(count):
            return pb.Frame(connection=number, credit_bytes=count)
        case End():
            return pb.Frame(connection=number, end=pb.End())
        case Broken(why):
            return pb.Frame(connection=number, broken=why[:_WHY_CHARACTERS])


def frame_from_wire(wire: pb.Frame) -> Frame | None:
    """What was said; None for something that this version does not know. Raises Invalid."""
    match wire.WhichOneof("kind"):
        case "data":
            if not 0 < len(wire.data) <= PIECE_BYTES:
                raise Invalid("A frame is too large.", f"It has {len(wire.data):,} bytes.")
            return Data(wire.data)
        case "credit_bytes":
            if not 0 < wire.credit_bytes <= WINDOW_BYTES:
                raise Invalid("A frame grants too much.", f"It is {wire.credit_bytes:,} bytes.")
            return Credit(wire.credit_bytes)
        case "made":
            return Made()
        case "end":
            return End()
        case "broken":
            return Broken("".join(filter(str.isprintable, wire.broken[:_WHY_CHARACTERS])))
        case None:
            return None
