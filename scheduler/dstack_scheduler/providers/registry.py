"""Which providers there are: our own by a table, then what packages bring.

A file of ours is loaded once somebody asks for its provider, so a new one costs no run a thing.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType

from dstack_scheduler.providers.installed import BrokenProvider, installed
from dstack_scheduler.providers.port import Provider

FILES: Mapping[str, str] = MappingProxyType(
    {
        "bash": "bash:BASH",
        "code": "code:CODE",
        "curl": "curl:CURL",
        "docker": "docker:DOCKER",
        "fastapi": "fastapi:FASTAPI",
        "gradio": "gradio:GRADIO",
        "lab": "jupyter:LAB",
        "notebook": "jupyter:NOTEBOOK",
        "python": "python:PYTHON_SCRIPT",
        "ssh": "ssh:SSH_SERVER",
        "streamlit": "streamlit:STREAMLIT",
        "tensorboard": "tensorboard:TENSORBOARD",
        "torchrun": "torchrun:TORCHRUN",
    }
)
"""Module beside this one and name in it of each of our own providers."""


class _OurOwn(Mapping[str, Provider]):
    """Our own providers; each is loaded when it is looked up first."""

    def __getitem__(self, name: str) -> Provider:
        module, _, attribute = FILES[name].partition(":")
        return getattr(import_module(f"dstack_scheduler.providers.{module}"), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(FILES)

    def __len__(self) -> int:
        return len(FILES)


PROVIDERS: Mapping[str, Provider] = _OurOwn()
"""Our own by name, as in `provider: NAME` and `dstack run NAME`."""


def provider_of(name: str) -> Provider | BrokenProvider | None:
    """The provider of a name, ours before all others; None if there is none."""
    return PROVIDERS[name] if name in FILES else installed().get(name)


def every() -> tuple[Provider | BrokenProvider, ...]:
    """All there are: our own, then what packages bring."""
    return (
        *PROVIDERS.values(),
        *(one for name, one in installed().items() if name not in FILES),
    )
