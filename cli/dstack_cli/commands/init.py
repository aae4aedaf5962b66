"""`dstack init`: a first workflow file."""

from pathlib import Path

import click

from dstack_cli.output.forms import chosen
from dstack_cli.replaced import INIT, old_flags
from dstack_cli.tree import home_option
from dstack_mesh.faults import Refused

FIRST_WORKFLOWS = """\
# Workflows of this folder. Run one with: dstack run hello --name you
workflows:
  - name: hello
    help: Says hello and keeps a file
    provider: bash
    commands:
      - echo "Hello, $name, from $(hostname)"
      - mkdir -p output
      - date > output/when.txt
    artifacts:
      - output
"""

FIRST_VARIABLES = """\
# Defaults of variables; a flag changes one: dstack run hello --name you
variables:
  hello:
    name: world
"""


@click.command()
@home_option
@old_flags(INIT)
def init() -> None:
    """Write .dstack/workflows.yaml with a workflow `hello`. Never overwrites a file of yours."""
    from dstack_scheduler.workflow.schema import FILE, MODELINE, printed

    folder = Path.cwd() / ".dstack"
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(printed())
    workflows = folder / "workflows.yaml"
    if workflows.exists() or (folder / "workflows.yml").exists():
        raise Refused(
            "There are workflows here already.",
            f"They were left as they are; .dstack/{FILE}, for editors, is of this version now.",
            "dstack run",
            code="exists",
        )
    wrote = [".dstack/workflows.yaml"]
    _write_new(workflows, f"{MODELINE}\n{FIRST_WORKFLOWS}")
    if not (folder / "variables.yaml").exists():
        _write_new(folder / "variables.yaml", FIRST_VARIABLES)
        wrote.append(".dstack/variables.yaml")
    output = chosen()
    output.talk(f"Wrote {' and '.join(wrote)}.")
    output.talk("Next: dstack run hello   ·   dstack validate")


def _write_new(path: Path, text: str) -> None:
    with path.open("x") as file:
        file.write(text)
