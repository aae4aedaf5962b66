"""`dstack doctor`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dstack_cli.output.forms import chosen
from dstack_cli.tree import home_option
from dstack_mesh.home import Home

if TYPE_CHECKING:
    from dstack_cli.checkup.finding import Finding, Topic
    from dstack_cli.output.port import Listing

SCHEMA = "dstack.findings/v1"
MARKS = {"pass": "ok", "warn": "warn", "fail": "FAIL"}
UNHEALTHY = 1
TOPICS = ("network", "gpu", "docker", "cloud", "machine")


@click.command()
@click.argument("topics", nargs=-1, type=click.Choice(TOPICS), metavar="[TOPIC]...")
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--bundle",
    metavar="FILE",
    help="Also write what a helper would ask for, without secrets: a folder, or FILE.tar.gz.",
)
@click.pass_obj
def doctor(home: Home, topics: "tuple[Topic, ...]", as_json: bool, bundle: str | None) -> int:
    """Check this machine and the way to the agents; each trouble with a fix.

    TOPIC is network, gpu, docker, cloud or machine; all of them by default.
    """
    import asyncio
    import os
    from pathlib import Path

    from dstack_cli.checkup.finding import Grade
    from dstack_cli.checkup.round import carry_out_all
    from dstack_cli.checkup.table import TOPICS as EVERY
    from dstack_cli.checkup.table import checks_of
    from dstack_mesh.clock import SystemClock

    if bundle is not None:
        from dstack_cli.checkup.bundle import check_target

        check_target(Path(bundle))
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    output, clock = chosen(as_json), SystemClock()
    checks = checks_of(home, os.environ, clock, topics or EVERY)
    findings = asyncio.run(carry_out_all(checks, output.talk))
    output.listing(_listing(findings))
    if bundle is not None:
        from dstack_cli.checkup.bundle import write_bundle

        files = write_bundle(home, os.environ, findings, clock.now(), Path(bundle))
        output.talk(f"Wrote {bundle}: {', '.join(files)}. Look through it before you send it.")
    return UNHEALTHY if any(one.grade is Grade.FAIL for one in findings) else 0


def _listing(findings: "Sequence[Finding]") -> "Listing":
    from dstack_cli.output.port import Listing
    from dstack_cli.output.table import Column, Table

    return Listing(
        schema=SCHEMA,
        items=[
            {
                "check": one.check,
                "grade": one.grade.value,
                "message": one.message,
                "fix": one.fix,
                "topic": one.topic,
                "cause": one.cause,
            }
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
