"""The keys of a workflow: spelling to meaning. A new spelling is a row here or at its provider."""

from collections.abc import Mapping

from dstack_scheduler.workflow.commands import (
    read_args,
    read_commands,
    read_entrypoint,
    read_help,
    read_image,
    read_ports,
    read_prebuild,
    read_python,
    read_requirements,
    read_script,
    read_setup,
)
from dstack_scheduler.workflow.dependencies import read_chain, read_reuses
from dstack_scheduler.workflow.environment import read_env
from dstack_scheduler.workflow.limits import read_idle_timeout, read_max_duration, read_retry
from dstack_scheduler.workflow.model import Key, Reader, Workflow
from dstack_scheduler.workflow.paths import (
    read_artifacts,
    read_cache,
    read_home_dir,
    read_working_dir,
)
from dstack_scheduler.workflow.resources import read_gpu, read_nodes, read_resources
from dstack_scheduler.workflow.scope import Scope
from dstack_scheduler.workflow.secrets import read_registry_auth, read_secrets
from dstack_scheduler.workflow.shapes import ANY_MAPPING, Either, Scalar, Shape, shaped
from dstack_scheduler.workflow.ssh import read_ssh
from dstack_scheduler.workflow.tree import Node


def _elsewhere(shape: Shape) -> Reader:
    # The project reads these before anything else: they choose the table of keys, or bring more.
    @shaped(shape)
    def read(workflow: Workflow, node: Node, scope: Scope) -> Workflow:
        del node, scope
        return workflow

    return read


ARGS = Key("arguments", read_args, "args: --lr 0.1")
COMMANDS = Key("commands", read_commands, "commands: [python train.py]")
ENTRYPOINT = Key("entrypoint", read_entrypoint, "entrypoint: /bin/sh -c")
HOME_DIR = Key("home_dir", read_home_dir, "home_dir: /root")
IMAGE = Key("image", read_image, "image: python:3.11")
NODES = Key("nodes", read_nodes, "nodes: 2")
PORTS = Key("ports", read_ports, "ports: 1")
PYTHON = Key("python", read_python, 'python: "3.11"')
REGISTRY_AUTH = Key(
    "registry_auth",
    read_registry_auth,
    "registry_auth: {username: ana, password: '${{ secrets.REGISTRY }}'}",
)
REQUIREMENTS = Key("requirements", read_requirements, "requirements: requirements.txt")
SCRIPT = Key("script", read_script, "file: train.py")
SETUP = Key("setup", read_setup, "setup: [pip install torch]")
SSH = Key("ssh", read_ssh, "ssh: true")
_CHAIN = Key("depends-on", read_chain, "depends-on: [prepare]")
_ENV = Key("env", read_env, "env: [NAME=value]")

COMMON: Mapping[str, Key] = {
    "name": Key("name", _elsewhere(Scalar.TEXT), "name: train"),
    "template": Key("template", _elsewhere(Either((Scalar.TEXT, ANY_MAPPING))), "template: NAME"),
    "provider": Key("provider", _elsewhere(Scalar.TEXT), "provider: bash"),
    "help": Key("help", read_help, "help: Trains the model"),
    "env": _ENV,
    "environment": _ENV,
    "secrets": Key("secrets", read_secrets, "secrets: [TOKEN]"),
    "working_dir": Key("working_dir", read_working_dir, "working_dir: src"),
    "artifacts": Key("artifacts", read_artifacts, "artifacts: [data]"),
    "depends-on": _CHAIN,
    "dependencies": _CHAIN,
    "deps": Key("deps", read_reuses, "deps: [prepare]"),
    "resources": Key("resources", read_resources, "resources: {gpu: 1}"),
    "gpu": Key("gpu", read_gpu, "gpu: 1"),
    "nodes": NODES,
    "cache": Key("cache", read_cache, "cache: [~/.cache/pip]"),
    "max_duration": Key("max_duration", read_max_duration, "max_duration: 2h"),
    "idle_timeout": Key("idle_timeout", read_idle_timeout, "idle_timeout: 1h"),
    "retry": Key("retry", read_retry, "retry: 3"),
    "prebuild": Key("prebuild", read_prebuild, "prebuild: never"),
}
"""Keys that every provider takes."""
