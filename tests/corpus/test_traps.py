"""The traps of the old system by number: a test of the trap's name, or why it cannot happen here.

`CANNOT` says it in a sentence, and names the test elsewhere that guards it as `FILE::TEST` below
`tests/`. What is neither yet stands in OPEN.md as `- trap NN: why`.
"""

import ast
import re
from pathlib import Path

import pytest

from dstack_cli.repository import normalised
from dstack_cli.run_words import read
from dstack_cli.verbs import find
from dstack_scheduler.gpus import memory_fits, name_fits
from dstack_scheduler.needs import Needs
from dstack_scheduler.phrases import models
from dstack_scheduler.plan import Plan
from dstack_scheduler.workflow.environment import exported
from dstack_scheduler.workflow.planning import find_problems
from dstack_scheduler.workflow.problem import Code
from support.impossible_traps import CANNOT
from support.machines import gpu
from support.workflow_files import codes_of, job_of, plan_of, project_of

HERE = Path(__file__).parent
COUNT = 102
GB = 10**9
BASH = "provider: bash\ncommands: [a]\n"


def refusal(line: str, variables: str = "", *args: str) -> list[Code]:
    """What is wrong with a workflow of one more line."""
    text = f"workflows:\n- name: x\n  provider: bash\n  commands: [a]\n  {line}\n"
    return codes_of(project_of(text, variables), "x", *args)


def chain(*workflows: str) -> Plan:
    """The plan of the last of some workflows, each as `name: keys`."""
    lines = "".join(f"- {{provider: bash, commands: [a], {one}}}\n" for one in workflows)
    last = workflows[-1].split("name: ")[1].split(",")[0]
    return plan_of(project_of(f"workflows:\n{lines}"), last)


def test_trap_01_the_key_decides_whether_something_is_run() -> None:
    y = "name: y"
    for key, jobs in (("depends-on", 2), ("dependencies", 2), ("deps", 1)):
        assert len(chain(y, f"name: x, {key}: [y]").jobs) == jobs


def test_trap_03_a_name_with_a_tag_is_split_at_the_first_colon_under_any_key() -> None:
    for key in ("deps", "depends-on"):
        (reuse,) = job_of(f"{BASH}{key}: ['a-b_c:v-1_0']\n").reuses
        assert (reuse.workflow, reuse.tag) == ("a-b_c", "v-1_0")
        for wrong in ("'a:b:c'", "a/b", "'a,b'", "'a;b'", "'a b'"):
            assert refusal(f"{key}: [{wrong}]") == [Code.BAD_DEPENDENCY]


def test_trap_04_a_mapping_with_both_keys_or_none_is_a_mistake() -> None:
    for mapping in ("{workflow: y, tag: v1}", "{}", "{mount: true}"):
        assert refusal(f"deps: [{mapping}]") != []


def test_trap_13_cycles_are_named_and_a_diamond_is_run_once() -> None:
    y = "name: y, depends-on: [z]"
    diamond = chain("name: z", y, "name: w, depends-on: [z]", "name: x, depends-on: [y, w]")
    assert [job.workflow for job in diamond.jobs] == ["z", "y", "w", "x"]
    assert diamond.jobs[-1].after == (0, 1, 2)
    assert refusal("depends-on: [x]") == [Code.CYCLE]
    text = (
        "workflows:\n- {name: x, provider: bash, commands: [a], depends-on: [y]}\n"
        "- {name: y, provider: bash, commands: [a], depends-on: [x]}\n"
    )
    assert [problem.code for problem in find_problems(project_of(text))] == [Code.CYCLE]


def test_trap_14_inputs_and_artifacts_are_replaced_and_env_is_added_to() -> None:
    written = f"{BASH}deps: [':v1']\nartifacts: [data]\nenv: [A=1, B=2]\n"
    job = job_of(written, ("--dep", ":v2", "-a", "out", "-e", "B=3", "-e", "C=4"))
    assert [reuse.tag for reuse in job.reuses] == ["v2"]
    assert job.artifacts == ("out",)
    assert job.env == {"A": "1", "B": "3", "C": "4"}


def test_trap_19_spellings_of_one_path_are_one_path_and_none_leads_out() -> None:
    job = job_of(f"{BASH}artifacts: [./model, model/, model, a/../model, ~/x, /opt/x]\n")
    assert job.artifacts == ("model", "~/x", "/opt/x")
    for wrong in ("../x", "a/../../x", "~/../x", "/", "."):
        assert refusal(f"artifacts: [{wrong}]") == [Code.BAD_PATH]


def test_trap_28_both_forms_mix_in_a_list_and_a_second_reading_is_the_same() -> None:
    project = project_of(
        "workflows: [{name: x, provider: bash, commands: [a], artifacts: [a, {path: b}]}]"
    )
    plans = [plan_of(project, "x") for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0].jobs[0].artifacts == ("a", "b")


def test_trap_29_a_variable_comes_before_a_flag_and_a_flag_before_the_script() -> None:
    python = "provider: python\nfile: t.py\nargs: $gpu\n"
    declared = job_of(python, ("--gpu", "4", "--x", "1"), "variables: {x: {gpu: 1}}")
    assert (declared.commands, declared.needs.gpus) == (("python t.py 4 --x 1",), 0)
    plain = job_of("provider: python\nfile: t.py\n", ("--gpu", "4", "--x", "1"))
    assert (plain.commands, plain.needs.gpus) == (("python t.py --x 1",), 4)


def test_trap_30_arguments_reach_the_script_in_their_order_and_as_they_were_typed() -> None:
    args = ("--epoch", "3", "--lr=-1e-3", "--n", "-1", "-v", "-v", "a b", "$x", "--", "--gpu", "2")
    job = job_of("provider: python\nfile: t.py\n", args)
    assert job.commands == ("python t.py --epoch 3 --lr=-1e-3 --n -1 -v -v 'a b' '$x' --gpu 2",)
    assert job.needs.gpus == 0


def test_trap_31_every_variable_gets_its_own_value_and_a_unique_beginning_is_enough() -> None:
    variables = "variables: {x: {a: 0, b: 0, c: 0, epochs: 0}}"
    args = ("--a", "1", "--b", "2", "--c", "3", "--epoch", "4")
    assert job_of("provider: bash\ncommands: [$a$b$c$epochs]\n", args, variables).commands == (
        "1234",
    )
    twins = "variables: {x: {epoch_size: 0, epoch_count: 0}}"
    assert refusal("help: y", twins, "--epoch", "1") == [Code.UNUSED_ARGUMENTS]


def test_trap_32_a_dash_and_an_underscore_are_one() -> None:
    variables = "variables: {x: {batch-size: 1}}"
    job = job_of("provider: bash\ncommands: [$batch_size]\n", ("--batch_size", "2"), variables)
    assert (job.commands, job.env) == (("2",), {"BATCH_SIZE": "2"})


def test_trap_33_only_declared_names_are_replaced_and_the_longest_wins() -> None:
    text = "$model_dir $model $PORT_0 $HOME $1 $$ $models"
    variables = "variables: {x: {model: m, model_dir: d}}"
    job = job_of(f"provider: bash\ncommands: ['{text}']\n", (), variables)
    assert job.commands == ("d m $PORT_0 $HOME $1 $$ $models",)


def test_trap_34_names_in_braces_that_nobody_knows_are_told_and_never_dropped() -> None:
    for name in ("gpuu", "run.arg", "github.sha", "", "secret.X"):
        assert refusal(f"help: '${{{{ {name} }}}}'") == [Code.UNKNOWN_VARIABLE]


def test_trap_35_values_are_checked_after_they_were_put_in() -> None:
    for value, gpus in (("'4'", 4), ("0", 0), ("'0'", 0), ("''", 0), ("", 0)):
        job = job_of(f"{BASH}gpu: $gpu\n", (), f"variables: {{x: {{gpu: {value}}}}}")
        assert job.needs.gpus == gpus
    assert refusal("gpu: $gpu", "variables: {x: {gpu: x}}") == [Code.BAD_NUMBER]


def test_trap_36_a_flag_without_its_value_is_a_mistake() -> None:
    for args in (("--gpu",), ("--gpu", "--cpu", "1"), ("--artifact",)):
        assert refusal("help: y", "", *args) == [Code.MISSING_VALUE]
    assert refusal("help: y", "variables: {x: {lr: 1}}", "--lr") == [Code.MISSING_VALUE]


@pytest.mark.parametrize(
    "value", ["3.10", "1e-3", "on", "off", "yes", "no", "12GB", "0o17", "1_000", "0.00002", "012"]
)
def test_trap_37_values_are_passed_as_they_were_written(value: str) -> None:
    job = job_of("provider: bash\ncommands: [t $v]\n", (), f"variables: {{x: {{v: {value}}}}}")
    assert (job.commands, job.env) == ((f"t {value}",), {"V": value})
    assert job_of(f"{BASH}python: 3.10\n").python == "3.10"


def test_trap_38_a_list_or_a_mapping_is_no_value_of_a_variable() -> None:
    for value in ("[1, 2]", "{a: 1}"):
        assert refusal("help: y", f"variables: {{x: {{v: {value}}}}}") == [Code.WRONG_TYPE]


def test_trap_39_empty_sections_and_those_of_nobody_are_fine() -> None:
    for variables in ("variables:\n", "variables: {x: }", "variables: {nobody: {a: 1}}", "", "# a"):
        assert refusal("help: y", variables) == []


def test_trap_40_arguments_are_quoted_for_the_shell() -> None:
    args = ("a b", "$x", "`y`", "a;b", "it's", '"', "*", "")
    job = job_of("provider: bash\ncommands: ['t ${{ run.args }}']\n", args)
    assert job.commands == ("t 'a b' '$x' '`y`' 'a;b' 'it'\"'\"'s' '\"' '*' ''",)


def test_trap_41_args_in_a_list_are_joined_by_spaces() -> None:
    job = job_of("provider: python\nfile: t.py\nargs: [--a, 1, 'b c']\n")
    assert job.commands == ("python t.py --a 1 'b c'",)


def test_trap_42_gb_is_decimal_and_cards_may_report_a_little_less() -> None:
    job = job_of(f"{BASH}resources: {{memory: 16GB, gpu: {{memory: 16GB}}}}\n")
    assert job.needs.memory_bytes == job.needs.gpu_memory_bytes == 16 * GB
    assert memory_fits(16 * GB, 15360 * 2**20)
    assert not memory_fits(16 * GB, 14 * GB)


def test_trap_43_a_name_alone_asks_for_one_card() -> None:
    assert job_of(f"{BASH}gpu: {{name: V100}}\n").needs == Needs(gpus=1, gpu_name="V100")


@pytest.mark.parametrize(
    ("wanted", "card", "fits"),
    [
        ("v100", "Tesla V100-SXM2-16GB", True),
        ("K80", "Tesla K80", True),
        ("4090", "NVIDIA GeForce RTX 4090", True),
        ("H100", "NVIDIA H100 NVL", True),
        ("A10", "NVIDIA A100-SXM4-80GB", False),
        ("A10", "NVIDIA A10G", False),
        ("A100,V100", "Tesla V100-SXM2-16GB", True),
    ],
)
def test_trap_44_names_of_cards_fit_by_whole_words(wanted: str, card: str, fits: bool) -> None:
    assert name_fits(wanted, card) is fits


def test_trap_45_cards_are_given_once() -> None:
    for line in ("{v100/gpu: 1, k80/gpu: 1}", "{v100/gpu: 1, gpu: 1}"):
        assert refusal(f"resources: {line}") == [Code.SAID_TWICE]
    assert refusal("resources: {/gpu: 1}") == [Code.UNKNOWN_KEY]


def test_trap_46_cards_of_one_model_are_told_together() -> None:
    assert models([gpu(0, "Tesla V100", 16), gpu(1, "Tesla V100", 16)]) == "2 x Tesla V100 16 GB"


def test_trap_48_nothing_is_asked_for_that_was_not_written() -> None:
    assert job_of(BASH).needs == Needs()
    assert Needs() == Needs(0, 0, 0, "", 0, 0, False)


def test_trap_49_a_flag_has_the_last_word_on_the_place() -> None:
    assert job_of(f"{BASH}resources: {{remote: true}}\n").place == "remote"
    assert read(["--local", "x"]).placement == "local"
    assert read(["x", "--remote"]).placement == "remote"


def test_trap_53_shared_memory_alone_is_a_need() -> None:
    assert job_of(f"{BASH}resources: {{shm_size: 8GB}}\n").needs == Needs(shm_bytes=8 * GB)


def test_trap_62_an_empty_working_directory_is_the_root() -> None:
    for written in ("''", ".", "./"):
        assert job_of(f"{BASH}working_dir: {written}\n").working_dir == ""


def test_trap_64_a_workflow_comes_before_a_provider_of_its_name() -> None:
    text = "workflows: [{name: python, provider: bash, commands: [mine]}]"
    (job,) = plan_of(project_of(text), "python").jobs
    assert job.commands == ("mine",)


def test_trap_65_after_two_dashes_everything_is_the_scripts() -> None:
    asked = read(["x", "--epoch", "3", "--", "-d", "-t", "--follow"])
    assert (asked.detach, asked.tag) == (False, "")
    assert asked.words == ("--epoch", "3", "--", "-d", "-t", "--follow")


def test_trap_66_following_is_the_default_and_its_flag_is_taken() -> None:
    assert read(["x"]) == read(["-f", "x"]) == read(["x", "--follow"])
    assert read(["x", "-d"]).detach


def test_trap_67_status_runs_and_ps_are_one_verb() -> None:
    modules = {verb.module for name in ("status", "runs", "ps") if (verb := find(name))}
    assert modules == {"ps"}


def test_trap_76_a_block_is_one_command_however_many_lines_it_has() -> None:
    assert job_of("provider: bash\ncommands: |\n  if true; then\n    a\n  fi\n").commands == (
        "if true; then\n  a\nfi",
    )


def test_trap_81_ports_are_a_number_or_a_list() -> None:
    assert len(job_of(f"{BASH}ports: 2\n").ports) == 2
    assert len(job_of(f"{BASH}ports: '2'\n").ports) == 2
    assert len(job_of(f"{BASH}ports: [8000, '8080:18080', '3000']\n").ports) == 3
    assert refusal("ports: 8000") == [Code.BAD_PORT]


def test_trap_92_a_variable_never_takes_a_name_that_a_job_needs() -> None:
    assert exported({"hostname": "a", "path": "b", "home": "c", "dstack_x": "d", "e": "f"}) == {
        "E": "f"
    }


def test_trap_93_env_keeps_its_case_and_variables_never_collide() -> None:
    assert job_of(f"{BASH}env: [http_proxy=a, HTTP_PROXY=b]\n").env == {
        "http_proxy": "a",
        "HTTP_PROXY": "b",
    }
    assert refusal("help: y", "variables: {x: {a-b: 1, a_b: 2}}") == [Code.SAID_TWICE]


def test_trap_95_a_secret_stays_a_placeholder() -> None:
    job = job_of(f"{BASH}env: ['A=${{{{ secrets.A }}}}']\n")
    assert job.env == {"A": "${{ secrets.A }}"}


def test_trap_100_one_repository_under_several_addresses_is_one() -> None:
    addresses = (
        "https://git.example.org/lab/digits",
        "https://ana:secret@Git.Example.org/lab/digits.git",
        "git@git.example.org:lab/digits.git",
        "ssh://git@git.example.org:2222/lab/digits/",
    )
    assert {normalised(one) for one in addresses} == {"git.example.org/lab/digits"}
    assert normalised("https://git.example.org/fork/digits") not in map(normalised, addresses)


def named() -> set[int]:
    """The traps that a test of this folder is named after."""
    names = (
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return {int(match[1]) for name in names if (match := re.match(r"test_trap_(\d+)_\w", name))}


def opened() -> set[int]:
    return {
        int(number)
        for number in re.findall(r"^- trap (\d+): \S", (HERE / "OPEN.md").read_text(), re.M)
    }


def test_every_trap_has_a_test_a_sentence_or_is_open() -> None:
    known = named() | set(CANNOT) | opened()
    assert set(range(1, COUNT + 1)) - known == set()
    assert known <= set(range(1, COUNT + 1))


@pytest.mark.parametrize("trap", sorted(CANNOT))
def test_the_test_that_a_sentence_names_exists(trap: int) -> None:
    sentence, named_test, name = CANNOT[trap].rpartition("::")
    if named_test:
        assert f"def {name}(" in (HERE.parent / sentence.split()[-1]).read_text()
    assert len(CANNOT[trap].split()) > 5
