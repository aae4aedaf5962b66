"""What Ctrl-C means."""

from dstack_cli.interrupts import Interrupts, Wish


def test_before_the_run_was_accepted_it_cancels() -> None:
    assert Interrupts(on_terminal=True).pressed(0, accepted=False) is Wish.CANCEL
    assert Interrupts(on_terminal=False).pressed(0, accepted=False) is Wish.CANCEL


def test_on_a_terminal_it_detaches_then_stops_then_aborts() -> None:
    pressed = Interrupts(on_terminal=True)
    assert [pressed.pressed(at, True) for at in (0.0, 1.5, 3.0, 3.1)] == [
        Wish.DETACH,
        Wish.STOP,
        Wish.ABORT,
        Wish.ABORT,
    ]


def test_a_press_long_after_the_first_detaches_again() -> None:
    pressed = Interrupts(on_terminal=True)
    assert [pressed.pressed(at, True) for at in (0.0, 2.5)] == [Wish.DETACH, Wish.DETACH]


def test_without_a_terminal_it_stops_then_aborts() -> None:
    pressed = Interrupts(on_terminal=False)
    assert [pressed.pressed(at, True) for at in (0.0, 60.0)] == [Wish.STOP, Wish.ABORT]
