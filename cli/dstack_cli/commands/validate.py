"""`dstack validate`."""

from pathlib import Path

import click

from dstack_cli.tree import home_option


@click.command()
@home_option
@click.argument("workflow", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the mistakes as JSON.")
def validate(workflow: str | None, as_json: bool) -> int:
    """Check the workflow files, or one WORKFLOW with all it depends on. Exits with 2 if wrong."""
    from dstack_cli import exit_codes
    from dstack_cli.output import problems
    from dstack_cli.output.forms import chosen
    from dstack_cli.output.words import count
    from dstack_scheduler.workflow.files import load_project
    from dstack_scheduler.workflow.planning import find_problems

    project = load_project(Path.cwd())
    found = find_problems(project, workflow)
    output = chosen(as_json)
    if as_json:
        output.listing(problems.listing(found))
    elif found:
        output.talk(problems.told(found))
        output.talk(f"{count(len(found), 'mistake')}.")
    elif project.workflows:
        output.talk(f"{count(len(project.workflows), 'workflow')}, nothing wrong.")
    else:
        output.talk("There are no workflows in .dstack here. Write some: dstack init")
    return exit_codes.USAGE if found else 0
