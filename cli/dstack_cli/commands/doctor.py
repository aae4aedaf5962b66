"""`dstack doctor`."""

import click

from dstack_cli.output.forms import chosen
from dstack_cli.tree import home_option
from dstack_mesh.home import Home

SCHEMA = "dstack.findings/v1"
MARKS = {"pass": "ok", "warn": "warn", "fail": "FAIL"}
UNHEALTHY = 1

NEEDED = ("home", "mesh")
"""Checks that must not fail before anybody can be talked to."""


@click.command()
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor(home: Home, as_json: bool) -> int:
    """Check this machine and the way to the agents; each trouble with a fix."""
    from dstack_cli.checkup import machine, ways
    from dstack_cli.checkup.finding import Grade
    from dstack_cli.output.port import Listing
    from dstack_cli.output.table import Column, Table

    findings = machine.checks(home)
    if all(one.check not in NEEDED or one.grade is not Grade.FAIL for one in findings):
        findings += ways.checks(home)
    listing = Listing(
        schema=SCHEMA,
        items=[
            {"check": one.check, "grade": one.grade.value, "message": one.message, "fix": one.fix}
            for one in findings
        ],
        table=Table(
            (Column("CHECK"), Column("RESULT"), Column("")),
            tuple(
                (
                    one.check,
                    MARKS[one.grade.value],
                    one.message + (f"\nfix: {one.fix}" if one.fix else ""),
                )
                for one in findings
            ),
        ),
    )
    chosen(as_json).listing(listing)
    return UNHEALTHY if any(one.grade is Grade.FAIL for one in findings) else 0
