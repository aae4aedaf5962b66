"""The documents say what the code says: verbs, settings, faults, codes, keys, examples, links."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dstack_agent.command import root as runner
from dstack_agent.owner.policy_text import KEYS as POLICY_KEYS
from dstack_agent.owner.policy_text import parse_policy
from dstack_agent.settings import TABLE, Setting
from dstack_cli import exit_codes
from dstack_cli.run_words import FLAGS as OWN_FLAGS
from dstack_cli.tree import root
from dstack_cli.verbs import VERBS
from dstack_mesh.faults import ERRORS, EXIT_CODES, Fault
from dstack_mesh.home import Home
from dstack_mesh.ids import RunId, RunName
from dstack_mesh.wire.errors import STATUS
from dstack_scheduler.job import JobState
from dstack_scheduler.policy import Policy
from dstack_scheduler.providers.registry import PROVIDERS
from dstack_scheduler.workflow.command_line import FLAGS, SHORT
from dstack_scheduler.workflow.document import SourceFile
from dstack_scheduler.workflow.keys import COMMON
from dstack_scheduler.workflow.planning import find_problems, plan
from dstack_scheduler.workflow.problem import Code
from dstack_scheduler.workflow.project import read_project
from dstack_scheduler.workflow.resources import GPU, RESOURCES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGES = tuple(ROOT / part / f"dstack_{part}" for part in ("mesh", "scheduler", "agent", "cli"))
ERROR_NAMES = frozenset(error.__name__ for error in ERRORS.values()) | {"Misused"}
OF_EVERY_VERB = frozenset({"--home", "--help", "-h"})
CODE_AT = {"Reason": 0, "Problem": 0, "NotSaved": 0}
"""Calls whose first argument is a stable word."""


def documents() -> list[Path]:
    """Every Markdown file of the repository that is ours."""
    found = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted([*found, *(ROOT / "protos").glob("*.md")])


def modules() -> Iterator[tuple[Path, str]]:
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            if "v1" not in path.relative_to(package).parts:
                yield path, path.read_text()


def page(name: str) -> str:
    return (DOCS / name).read_text()


def sections(text: str) -> dict[str, str]:
    """The text below each heading, by the heading without its backticks."""
    parts = re.split(r"^#{1,4} +(.+)$", text, flags=re.MULTILINE)
    return {title.replace("`", ""): body for title, body in zip(parts[1::2], parts[2::2])}  # noqa: B905


def words(text: str) -> set[str]:
    """What stands in backticks, and its single words: `--gpu N` gives "--gpu N" and "--gpu"."""
    spans = re.findall(r"`([^`\n]+)`", text)
    return {*spans, *(word for span in spans for word in re.split(r"[\s,=\[\]()|]+", span))}


def commands() -> list[tuple[str, click.Command]]:
    """Every command a person can type, as "dstack mesh join"."""
    found: list[tuple[str, click.Command]] = []
    with click.Context(root) as ctx:
        for verb in VERBS:
            command = root.get_command(ctx, verb.name)
            assert command is not None
            found += _leaves(f"dstack {verb.name}", command)
    return found + [(f"dstack-runner {name}", command) for name, command in runner.commands.items()]


def _leaves(name: str, command: click.Command) -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return [(name, command)]
    alone = [(name, command)] if command.invoke_without_command else []
    return alone + [
        leaf for sub, one in command.commands.items() for leaf in _leaves(f"{name} {sub}", one)
    ]


def flags_of(name: str, command: click.Command) -> set[str]:
    if name == "dstack run":
        found = {spelling for flag in OWN_FLAGS for spelling in flag.spellings}
    else:
        options = [
            one for one in command.params if isinstance(one, click.Option) and not one.hidden
        ]
        found = {spelling for one in options for spelling in (*one.opts, *one.secondary_opts)}
    return found - OF_EVERY_VERB


def stable_codes() -> set[str]:
    """Every stable code that our packages can raise or tell, read from their source."""
    return {code for _, text in modules() for code in codes_in(text)}


def codes_in(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found |= _codes_of_call(node)
        elif isinstance(node, ast.Assign) and any("code" in _names(one) for one in node.targets):
            found |= {
                text for text in _texts(node.value) if re.fullmatch(r"[a-z]+(-[a-z]+)+", text)
            }
    return found


def _codes_of_call(call: ast.Call) -> set[str]:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if name in CODE_AT:
        given = call.args[CODE_AT[name] : CODE_AT[name] + 1]
    elif name in ERROR_NAMES:
        given = [*call.args[3:4], *(one.value for one in call.keywords if one.arg == "code")]
    else:
        return set()
    return {text for one in given if isinstance(one, ast.Constant) for text in _texts(one)}


def _names(node: ast.expr) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _texts(node: ast.expr) -> set[str]:
    found = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
    return {value for value in found if isinstance(value, str)}


def yaml_examples() -> list[tuple[str, str, str]]:
    """Workflow files in the documents: where, the workflows, the variables of the same section."""
    found: list[tuple[str, str, str]] = []
    for path in documents():
        for title, body in sections(path.read_text()).items():
            blocks = re.findall(r"```yaml\n(.*?)```", body, re.DOTALL)
            variables = next((one for one in blocks if one.startswith("variables:")), "")
            where = f"{path.relative_to(ROOT)}: {title}"
            found += [(where, one, variables) for one in blocks if one.startswith("workflows:")]
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_every_flag_of_every_verb_is_documented(name: str, command: click.Command) -> None:
    described = sections(page("commands.md"))
    assert name in described, f"docs/commands.md has no section `{name}`"
    assert flags_of(name, command) - words(described[name]) == set()


def test_no_verb_and_no_flag_is_documented_that_does_not_exist() -> None:
    known = {name: flags_of(name, command) for name, command in commands()}
    described = sections(page("commands.md"))
    named = {title for title in described if title.startswith("dstack")}
    assert named == set(known)
    for name in named:
        shown = set(re.findall(r"`(--?[a-z][a-z-]*)", described[name]))
        foreign = shown - known[name] - OF_EVERY_VERB
        # A section may speak of other verbs' flags in its sentences, not in its table.
        assert not foreign & words("\n".join(re.findall(r"^\| (`.*?) \|", described[name], re.M)))


def test_every_alias_of_a_verb_is_documented() -> None:
    described = page("commands.md")
    assert [alias for verb in VERBS for alias in verb.aliases if alias not in described] == []


@pytest.mark.parametrize("setting", TABLE, ids=[one.name for one in TABLE])
def test_every_setting_is_documented_with_its_twin_and_default(setting: Setting) -> None:
    rows = [
        line
        for line in page("settings.md").splitlines()
        if line.startswith(f"| `{setting.name}` |")
    ]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].split("|")[1:-1]]
    real = flags_of("dstack-runner start", runner.commands["start"])
    assert setting.flag in words(cells[1])
    assert words(cells[1]) - OF_EVERY_VERB <= real
    assert cells[2] == f"`{setting.env}`"
    assert (cells[3], cells[4]) == (setting.default, setting.unit)
    assert setting.effect.split(".")[0] in cells[5]


def test_every_variable_of_the_environment_is_documented() -> None:
    pattern = re.compile(r"\bDSTACK_[A-Z]+(?:_[A-Z0-9]+)*\b")
    tests = "\n".join(path.read_text() for path in (ROOT / "tests" / "support").glob("*.py"))
    used = {name for _, text in modules() for name in pattern.findall(text)}
    used |= {name for name in pattern.findall(tests) if "_TEST_" in name or "_CHAOS_" in name}
    assert used - words(page("settings.md")) == set()


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_is_documented_with_its_exit_code_and_status(fault: Fault) -> None:
    row = f"| `{fault.value}` | {EXIT_CODES[fault]} | {STATUS[fault].name} |"
    assert row in page("errors.md")


def test_every_key_of_the_owners_policy_is_documented_and_the_example_is_one() -> None:
    described = sections(page("owner.md"))["policy.yaml"]
    assert set(POLICY_KEYS) - words(described) == set()
    (example,) = re.findall(r"```yaml\n(.*?)```", described, re.DOTALL)
    policy = parse_policy(Path("owner.md"), example.encode(), Policy())
    assert set(POLICY_KEYS) <= set(re.findall(r"^([a-z]+):", example, re.MULTILINE))
    assert policy != Policy()


def test_every_exit_code_is_documented() -> None:
    table = sections(page("errors.md"))["Exit codes"]
    codes = {
        value
        for name, value in vars(exit_codes).items()
        if name.isupper() and isinstance(value, int)
    }
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert codes - shown == set()


def test_every_stable_code_is_documented() -> None:
    codes = stable_codes()
    assert len(codes) > 80
    assert codes - words(page("errors.md")) == set()


def test_a_code_that_is_not_documented_would_be_found() -> None:
    """The negative control of the test above."""
    source = 'raise Refused("No.", code="brand-new")\ncode = "one-more" if x else "and-more"\n'
    assert codes_in(source) == {"brand-new", "one-more", "and-more"}
    assert "brand-new" not in words(page("errors.md"))


def test_every_cause_that_doctor_tells_is_documented() -> None:
    described = words(sections(page("troubleshooting.md"))["What doctor finds"])
    causes: set[str] = set()
    for path in (ROOT / "cli" / "dstack_cli" / "checkup").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _names(node.func) & {"failed", "warned"}:
                causes |= {text for one in node.args[1:2] for text in _texts(one)}
    assert len(causes) > 40
    assert causes - described == set()


def test_every_mistake_in_a_workflow_file_is_documented() -> None:
    described = words(sections(page("errors.md"))["Workflow files"])
    assert {code.value for code in Code} - described == set()


def test_every_way_a_job_ends_and_every_state_is_documented() -> None:
    from dstack_agent.executor import record

    reasons = {
        value
        for name, value in vars(record).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"[a-z]+(-[a-z]+)*", value)
    } - {record.JOURNAL, record.ASKED, record.LOG_CUT}
    assert reasons - words(page("errors.md")) == set()
    assert {state.value for state in JobState} - words(page("json.md")) == set()


def test_every_schema_is_documented_and_every_documented_one_exists() -> None:
    used = {name for _, text in modules() for name in re.findall(r'"(dstack\.[a-z]+/v\d+)"', text)}
    shown = set(re.findall(r"^## `(dstack\.[a-z]+/v\d+)`", page("json.md"), re.MULTILINE))
    assert used == shown


def test_every_key_of_every_provider_is_documented() -> None:
    described = sections(page("workflows.md"))
    assert set(COMMON) - words(described["Of every workflow"]) == set()
    for name, provider in PROVIDERS.items():
        title = next((one for one in described if f"{one},".startswith(f"provider: {name},")), "")
        assert title, f"no section of docs/workflows.md begins with provider: {name}"
        assert set(provider.keys) - words(described[title]) == set(), name
    assert {*RESOURCES, *GPU} - {"count", "name"} - words(described["Resources"]) == set()


def test_every_flag_of_a_workflow_is_documented() -> None:
    described = words(sections(page("workflows.md"))["The command line"])
    assert {*FLAGS, *SHORT} - described == set()


@pytest.mark.parametrize(
    ("where", "workflows", "variables"), yaml_examples(), ids=[one[0] for one in yaml_examples()]
)
def test_every_example_of_a_workflow_file_is_a_plan(
    where: str, workflows: str, variables: str
) -> None:
    declared = [SourceFile("variables.yaml", variables.encode())] if variables else []
    project = read_project([SourceFile("workflows.yaml", workflows.encode())], declared)
    assert find_problems(project) == ()
    for name in project.workflows:
        jobs = plan(project, name, run_name=RunName("calm-ibex-1"), run_id=RunId("0" * 26)).jobs
        assert jobs[-1].workflow == name


def test_there_are_examples_in_readme_and_reference() -> None:
    places = {where.split(":")[0] for where, _, _ in yaml_examples()}
    assert {"README.md", "docs/workflows.md", "docs/first-steps.md"} <= places


def test_every_relative_link_leads_to_a_file_and_a_heading() -> None:
    broken: list[str] = []
    for path in documents():
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []


def anchors(text: str) -> set[str]:
    """Anchors of headings as the common renderers make them."""
    titles = re.findall(r"^#{1,4} +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_test_that_the_architecture_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "ARCHITECTURE.md").read_text())
    assert len(named) > 50
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text()
    ]
    assert missing == []


def test_every_path_that_the_documents_name_exists() -> None:
    prefixes = "mesh|scheduler|agent|cli|tests|protos|docs|bench|examples"
    missing = [
        f"{path.relative_to(ROOT)}: {named}"
        for path in documents()
        for named in re.findall(rf"`((?:{prefixes})/[\w./-]*)`", path.read_text())
        if not (ROOT / named).exists()
    ]
    assert missing == []


def test_every_place_in_a_home_is_documented() -> None:
    described = sections(page("security.md"))["Where things are"]
    home = Home(Path("/home-of-a-peer"))
    places = (
        *(home.keys, home.state, home.sockets, home.chunks, home.jobs),
        *(home.config, home.policy, home.secrets),
    )
    missing = [place.name for place in places if f"`{place.name}" not in described]
    assert missing == []
