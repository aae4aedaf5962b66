"""Every spelling of every key, on one workflow."""

import pytest

from dstack_scheduler.needs import Needs
from dstack_scheduler.plan import Reuse
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, job_of, plan_of, project_of

BASH = "provider: bash\ncommands: [echo hi]\n"
GB = 10**9


@pytest.mark.parametrize(
    ("resources", "needs"),
    [
        ("{cpu: 4}", Needs(cpus=4)),
        ("{cpu: {count: 4}}", Needs(cpus=4)),
        ("{memory: 16GB}", Needs(memory_bytes=16 * GB)),
        ("{memory: 16 gb}", Needs(memory_bytes=16 * GB)),
        ("{memory: 512M}", Needs(memory_bytes=512 * 10**6)),
        ("{memory: 16GiB}", Needs(memory_bytes=16 * 2**30)),
        ("{memory: 16Gi, shm_size: 512MiB}", Needs(0, 16 * 2**30, shm_bytes=512 * 2**20)),
        ("{memory: 0}", Needs()),
        ("{gpu: 2}", Needs(gpus=2)),
        ("{gpu: '2'}", Needs(gpus=2)),
        ("{gpu: 0}", Needs()),
        ("{gpu: '0'}", Needs()),
        ("{gpu: {count: 0, name: V100}}", Needs()),
        ("{gpu: {name: V100, count: 0}}", Needs()),
        ("{gpu: {name: V100}}", Needs(gpus=1, gpu_name="V100")),
        ("{gpu: {memory: 16GB}}", Needs(gpus=1, gpu_memory_bytes=16 * GB)),
        ("{gpu: {count: 2, name: K80, memory: 12GB}}", Needs(0, 0, 2, "K80", 12 * GB)),
        ("{v100/gpu: 2}", Needs(gpus=2, gpu_name="v100")),
        ("{v100/gpu: 0}", Needs()),
        ("{cpu: 2..4}", Needs(cpus=2)),
        ("{cpu: {count: 2..}}", Needs(cpus=2)),
        ("{cpu: ..4}", Needs()),
        ("{memory: 16GB.., shm_size: 1GB..2GB}", Needs(0, 16 * GB, shm_bytes=GB)),
        ("{gpu: 1..2}", Needs(gpus=1)),
        ("{gpu: V100}", Needs(gpus=1, gpu_name="V100")),
        ("{gpu: A100:40GB:2}", Needs(0, 0, 2, "A100", 40 * GB)),
        ("{gpu: nvidia:A100}", Needs(gpus=1, gpu_name="nvidia A100")),
        ("{gpu: 24GB..:2}", Needs(0, 0, 2, "", 24 * GB)),
        (
            "{gpu: 'A100,H100:..80GB'}",
            Needs(gpus=1, gpu_name="A100,H100", gpu_memory_most_bytes=80 * GB),
        ),
        ("{gpu: {name: [A100, RTX 4090]}}", Needs(gpus=1, gpu_name="A100,RTX 4090")),
        (
            "{gpu: {memory: 16GB..24GB, count: 2}}",
            Needs(0, 0, 2, "", 16 * GB, gpu_memory_most_bytes=24 * GB),
        ),
        ("{interruptible: true}", Needs(interruptible=True)),
        ("{interruptible: false, nodes: 1}", Needs()),
    ],
)
def test_resources_in_every_form(resources: str, needs: Needs) -> None:
    assert job_of(f"{BASH}resources: {resources}").needs == needs


def test_a_gpu_outside_of_resources_is_a_gpu() -> None:
    assert job_of(f"{BASH}gpu: 2").needs == Needs(gpus=2)


@pytest.mark.parametrize(("place", "expected"), [("local", "local"), ("remote", "remote")])
def test_a_workflow_may_say_where_it_runs(place: str, expected: str) -> None:
    assert job_of(f"{BASH}resources: {{{place}: true}}").place == expected
    assert job_of(f"{BASH}resources: {{{place}: false}}").place == ""


def test_artifacts_in_every_form_are_one_list_of_clean_paths() -> None:
    job = job_of(
        f"{BASH}artifacts: [data, ./data/, {{path: a//b/./c}}, {{path: /opt/conda, mount: true}}, "
        "~/x, ./sub/../logs, model.pt]"
    )
    assert job.artifacts == ("data", "a/b/c", "/opt/conda", "~/x", "logs", "model.pt")


@pytest.mark.parametrize(
    ("form", "reuse"),
    [
        ("y:v3", Reuse("y", "v3", "", "y:v3")),
        (":v3", Reuse("", "v3", "", ":v3")),
        ("acme/corpora/y", Reuse("y", "", "acme/corpora", "acme/corpora/y")),
        (":acme/corpora/v3", Reuse("", "v3", "acme/corpora", ":acme/corpora/v3")),
        ("acme/corpora/y:v3", Reuse("y", "v3", "acme/corpora", "acme/corpora/y:v3")),
        ("{tag: v3}", Reuse("", "v3", "", ":v3")),
        (
            "{tag: acme/corpora/v3, mount: true}",
            Reuse("", "v3", "acme/corpora", ":acme/corpora/v3"),
        ),
        ("{workflow: acme/corpora/y}", Reuse("y", "", "acme/corpora", "acme/corpora/y")),
        ("x:latest", Reuse("x", "latest", "", "x:latest")),
    ],
)
@pytest.mark.parametrize("key", ["deps", "depends-on", "dependencies"])
def test_what_cannot_be_run_here_is_looked_up_under_any_key(
    key: str, form: str, reuse: Reuse
) -> None:
    quoted = form if form.startswith("{") else f'"{form}"'
    job = job_of(f"{BASH}{key}: [{quoted}]")
    assert (job.reuses, job.after) == ((reuse,), ())


@pytest.mark.parametrize("form", ["y", "{workflow: y}"])
def test_the_key_decides_whether_a_bare_name_is_run_or_looked_up(form: str) -> None:
    other = "  - {name: y, provider: bash, commands: [echo y]}\n"
    for key, jobs, reuses in [
        ("deps", 1, (Reuse("y", text="y"),)),
        ("depends-on", 2, ()),
        ("dependencies", 2, ()),
    ]:
        project = project_of(
            f"workflows:\n{other}  - name: x\n    provider: bash\n    commands: [echo x]\n"
            f"    {key}: [{form}]\n"
        )
        plan = plan_of(project, "x")
        assert len(plan.jobs) == jobs
        assert plan.jobs[-1].reuses == reuses


def test_the_object_form_names_workflows_and_what_counts_as_input() -> None:
    job = job_of(f'{BASH}depends-on: {{workflows: ["y:v1"], repo: {{include: ["src/**"]}}}}')
    assert [reuse.text for reuse in job.reuses] == ["y:v1"]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ("[A=1, 'B=x=y z', C, b_c=]", {"A": "1", "B": "x=y z", "C": "", "b_c": ""}),
        ("{A: 0.00002, B: on, C: , d: $HOME}", {"A": "0.00002", "B": "on", "C": "", "d": "$HOME"}),
    ],
)
@pytest.mark.parametrize("key", ["env", "environment"])
def test_env_in_every_form(key: str, env: str, expected: dict[str, str]) -> None:
    assert job_of(f"{BASH}{key}: {env}").env == expected


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ("2", (0, 0)),
        ("'1'", (0,)),
        ("0", ()),
        ("[8000, '8080:18080', \"3000\"]", (8000, 8080, 3000)),
    ],
)
def test_ports_are_a_number_or_a_list(ports: str, expected: tuple[int, ...]) -> None:
    assert job_of(f"{BASH}ports: {ports}").ports == expected


def test_one_block_is_one_command() -> None:
    job = job_of("provider: bash\ncommands: |\n  echo one\n  echo two")
    assert job.commands == ("echo one\necho two",)


def test_commands_that_yaml_takes_for_numbers_or_flags_are_commands() -> None:
    assert job_of("provider: bash\ncommands: [true, 5]").commands == ("true", "5")


@pytest.mark.parametrize("key", ["file", "script", "python_script"])
@pytest.mark.parametrize("setup", ["setup", "before_run"])
@pytest.mark.parametrize("version", ["python: 3.10", "version: 3.10", 'python: "3.10"'])
def test_a_python_workflow_in_every_dialect(key: str, setup: str, version: str) -> None:
    job = job_of(
        f"provider: python\n{key}: my train.py\nargs: --lr 0.1 --out $HOME\n"
        f"requirements: req.txt\n{setup}: [nvidia-smi]\n{version}\nworking_dir: ./src/"
    )
    assert job.installs == ("-r req.txt",)
    assert job.commands == (
        "nvidia-smi",
        "python 'my train.py' --lr 0.1 --out $HOME",
    )
    assert (job.python, job.working_dir, job.image) == ("3.10", "src", "")


def test_items_of_an_args_list_are_quoted_and_joined_by_spaces() -> None:
    job = job_of("provider: python\nfile: t.py\nargs: [--name, a b, 0.00002]")
    assert job.commands == ("python t.py --name 'a b' 0.00002",)


def test_docker_with_and_without_commands_and_entrypoint() -> None:
    plain = job_of("provider: docker\nimage: alpine")
    assert (plain.image, plain.commands, plain.entrypoint) == ("alpine", (), ())
    both = job_of("image: alpine\nentrypoint: /bin/sh -c\ncommands: [echo hi]")
    assert (both.provider, both.commands, both.entrypoint) == (
        "docker",
        ("echo hi",),
        ("/bin/sh", "-c"),
    )
    listed = job_of("provider: docker\nimage: alpine\nentrypoint: [/bin/sh, -c]\ncommand: echo hi")
    assert (listed.commands, listed.entrypoint) == (("echo hi",), ("/bin/sh", "-c"))


def test_the_home_of_an_image_is_where_its_tilde_points() -> None:
    job = job_of("provider: docker\nimage: a\nhome_dir: /home/app\nartifacts: [~/x, y]")
    assert job.artifacts == ("/home/app/x", "y")


def test_what_another_workflow_cannot_do_yet_does_not_stop_this_one() -> None:
    project = project_of(
        "workflows:\n"
        "  - {name: app, provider: bash@next, commands: [a]}\n"
        "  - {name: train, provider: python, file: train.py}\n"
    )
    assert codes_of(project, "train") == []
    assert codes_of(project, "app") == [Code.NOT_SUPPORTED_YET]
