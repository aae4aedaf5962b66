"""The table of checks: what each topic looks at."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import get_args

from dstack_cli.checkup.agents import judge_agents
from dstack_cli.checkup.agreement import judge_clocks, judge_ids, judge_versions
from dstack_cli.checkup.certificate import check_membership
from dstack_cli.checkup.cloud import check_cloud
from dstack_cli.checkup.docker import check_docker
from dstack_cli.checkup.finding import Finding, Topic
from dstack_cli.checkup.gpu import check_gpus, seen
from dstack_cli.checkup.machine import check_disk, check_git, check_home
from dstack_cli.checkup.multicast import judge_multicast
from dstack_cli.checkup.proxies import check_proxies
from dstack_cli.checkup.round import Check, blocking
from dstack_cli.checkup.sights import Sights
from dstack_cli.checkup.survey import survey
from dstack_cli.checkup.whereabouts import judge_whereabouts
from dstack_mesh.clock import Clock
from dstack_mesh.home import Home
from dstack_mesh.user import user_home

TOPICS: tuple[Topic, ...] = get_args(Topic)

SURVEY_SECONDS = 15.0
"""It ends after three, but a private agent may have to be started first."""


def checks_of(
    home: Home, environ: Mapping[str, str], clock: Clock, topics: Collection[Topic]
) -> list[Check]:
    """The checks of these topics, in the order in which they are shown."""
    cards = seen()

    def network() -> Sequence[Finding]:
        return check_membership(home, clock.now())

    every = [
        Check("home", "machine", blocking(partial(check_home, home))),
        Check("disk", "machine", blocking(partial(check_disk, home, environ))),
        Check("git", "machine", blocking(check_git)),
        Check("mesh", "network", blocking(network)),
        Check("network", "network", partial(_network, home, environ, clock), SURVEY_SECONDS),
        Check("docker", "docker", blocking(partial(check_docker, environ, cards.any))),
        Check("gpu", "gpu", blocking(partial(check_gpus, cards))),
        Check("cloud", "cloud", blocking(partial(check_cloud, environ, user_home(), clock.now()))),
    ]
    return [one for one in every if one.topic in topics]


async def _network(home: Home, environ: Mapping[str, str], clock: Clock) -> Sequence[Finding]:
    return judged(await survey(home, environ, clock), environ)


def judged(sights: Sights, environ: Mapping[str, str]) -> Sequence[Finding]:
    """Everything that a survey tells. Pure."""
    return [
        *judge_whereabouts(sights),
        *(judge_multicast(sights) if sights.membership is not None or not sights.mdns else ()),
        *judge_agents(sights),
        *judge_clocks(sights),
        *judge_versions(sights),
        *judge_ids(sights),
        *check_proxies(environ, [way.host for way in sights.ways]),
    ]
