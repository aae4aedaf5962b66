"""Section 2.2 of the map: what the providers without an app run."""

from dstack_scheduler.plan import PlannedJob
from dstack_scheduler.shell import script
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, job_of, plan_of, project_of

NOTHING = project_of("workflows: []")


def direct(*words: str) -> PlannedJob:
    return plan_of(NOTHING, words[0], *words[1:]).jobs[0]


def test_2_2_1_image_and_commands() -> None:
    job = job_of("image: alpine\ncommands: [a, b]\n")
    assert (job.image, job.commands, job.entrypoint) == ("alpine", ("a", "b"), ())


def test_2_2_2_python() -> None:
    for key in ("file", "script", "python_script"):
        job = job_of(f"provider: python\n{key}: fit.py\nargs: --lr 1\nbefore_run: [make]\n")
        assert job.commands == ("make", "python fit.py --lr 1")
    assert direct("python", "fit.py", "a b").commands == ("python fit.py 'a b'",)


def test_2_2_3_docker_with_each_combination_of_entrypoint_and_commands() -> None:
    assert direct("docker", "alpine").commands == ()
    assert direct("docker", "alpine", "ls", "-l").commands == ("ls -l",)
    assert direct("docker", "alpine", "-c", "ls | wc").commands == ("ls | wc",)
    text = job_of("provider: docker\nimage: a\nentrypoint: /bin/sh -c\ncommands: [b]\n")
    listed = job_of("provider: docker\nimage: a\nentrypoint: [/run, x]\n")
    assert (text.entrypoint, text.commands) == (("/bin/sh", "-c"), ("b",))
    assert (listed.entrypoint, listed.commands) == (("/run", "x"), ())


def test_2_2_4_bash() -> None:
    job = direct("bash", "-c", "cd x; ls", "-p", "1")
    assert (job.commands, job.ports) == (("cd x; ls",), (0,))


def test_2_2_5_torchrun() -> None:
    nodes = plan_of(NOTHING, "torchrun", "fit.py", "--lr", "1", "--nnodes", "2").jobs
    assert [job.node and job.node.rank for job in nodes] == [0, 1]
    for words in ('--nnodes="$DSTACK_NODES_NUM"', '--node_rank="$NODE_RANK"', "fit.py --lr 1"):
        assert words in nodes[1].commands[-1]
    alone = job_of("provider: torchrun\nscript: fit.py\n")
    assert alone.node is None
    assert alone.commands[-1].startswith("torchrun --standalone --nproc_per_node=")


def test_2_2_13_curl() -> None:
    job = direct("curl", "https://example.org/a?b=c", "-o", "data/a.tar", "-a", "data")
    assert job.artifacts == ("data",)
    assert job.commands[0] == "mkdir -p data"
    assert job.commands[1].endswith("--output data/a.tar --url 'https://example.org/a?b=c'")
    assert script(job.commands)
    assert len(codes_of(NOTHING, "curl", "https://example.org")) == 1


def test_2_2_13_curl_finds_the_home_folder() -> None:
    job = direct("curl", "https://example.org/a", "-o", "~/my data/a.tar")
    assert job.commands[0] == "mkdir -p ~/'my data'"
    assert "--output ~/'my data/a.tar' --url" in job.commands[1]
    (fetch,) = direct("curl", "https://example.org/a", "-o", "~/a").commands
    assert "--output ~/a --url" in fetch


def test_1_2_12_url_and_output_are_both_needed() -> None:
    for key in ("url: a", "output: a"):
        project = project_of(f"workflows: [{{name: x, provider: curl, {key}}}]")
        assert len(codes_of(project, "x")) == 1


def test_2_2_everything_after_two_dashes_is_the_scripts() -> None:
    job = direct("python", "--gpu", "1", "fit.py", "--", "--gpu", "4", "-e")
    assert (job.needs.gpus, job.commands[-1]) == (1, "python fit.py --gpu 4 -e")


def test_2_2_the_line_of_the_documents_is_carried_out() -> None:
    words = "python train.py --epoch 100 --dep prepare:latest --artifact checkpoint --gpu 1"
    job = direct(*words.split())
    assert job.commands[-1] == "python train.py --epoch 100"
    assert (job.artifacts, job.needs.gpus) == (("checkpoint",), 1)
    assert [reuse.text for reuse in job.reuses] == ["prepare:latest"]


def test_2_2_a_providers_own_long_flags_hold_for_its_workflows() -> None:
    workflow = "provider: torchrun\nfile: fit.py\n"
    assert job_of(workflow, ("--nnodes", "2")).node is not None
    assert codes_of(NOTHING, "torchrun", "fit.py", "--nnodes") == [Code.MISSING_VALUE]
