"""Section 2 of the map, the providers with an app: what each runs, on which port, at which link."""

from dataclasses import replace
from pathlib import Path

import pytest

from dstack_agent.executor.ports import noted_ports, settle_ports
from dstack_cli.forwarding.links import Link, Links
from dstack_cli.forwarding.local_port import bind_local
from dstack_mesh.faults import Refused
from dstack_scheduler.app import App, first_page
from dstack_scheduler.job import JobSpec
from dstack_scheduler.plan import PlannedJob, Reuse
from dstack_scheduler.workflow.problem import Code
from support import machines
from support.workflow_files import codes_of, job_of, plan_of, project_of

NOTHING = project_of("workflows: []")
T = "0" * 32


def direct(*words: str) -> PlannedJob:
    return plan_of(NOTHING, words[0], *words[1:]).jobs[-1]


def link(job: PlannedJob) -> str:
    """Path and query of its own app."""
    return first_page(job.apps[-1], T)


@pytest.mark.parametrize(
    ("name", "package", "page"),
    [
        pytest.param("lab", "jupyterlab", f"/lab?token={T}", id="2.2.6 lab"),
        pytest.param("notebook", "notebook", f"/tree?token={T}", id="2.2.7 notebook"),
    ],
)
def test_jupyter(name: str, package: str, page: str) -> None:
    job = direct(name)
    assert job.ports == (0,) and link(job) == page
    assert job.apps[0].token == "TOKEN" and job.apps[0].web
    assert job.installs == (package,)
    assert f"python -m {package} " in job.commands[-1] and '"$PORT_0"' in job.commands[-1]
    assert 'JUPYTER_TOKEN="$TOKEN"' in job.commands[0] and "TOKEN" not in job.commands[-1]
    text = f"provider: {name}\nversion: 4.2\nrequirements: r.txt\nsetup: [echo a]\nports: 2"
    job = job_of(text)
    assert job.installs == ("-r r.txt", f"{package}==4.2") and job.commands[0] == "echo a"
    assert job.ports == (0, 0, 0) and '"$PORT_2"' in job.commands[-1]
    assert [app.name for app in job.apps] == ["port0", "port1", name]
    assert job.commands[:2] == job_of(text.replace("setup", "before_run")).commands[:2]


def test_2_2_8_code() -> None:
    job = direct("code")
    assert job.ports == (0,) and link(job) == f"/?tkn={T}"
    assert job.apps[0].token == "CONNECTION_TOKEN"
    for server in ("openvscode-server", "code-server", "code serve-web"):
        assert server.split()[0] in job.commands[-1]
    assert "There is no VS Code server" in job.commands[-1]
    assert "1.74.3" in job_of("provider: code\nversion: 1.74.3").commands[-1]


def test_2_2_9_streamlit() -> None:
    job = direct("streamlit", "app.py", "--lr", "0.1")
    assert job.commands[-1].endswith(" app.py -- --lr 0.1") and job.ports == (0,)
    assert '--server.port "$PORT_0"' in job.commands[-1] and link(job) == "/"
    job = job_of('provider: streamlit\ntarget: my app.py\nargs: ["a b"]\nversion: 1.9')
    assert job.commands[-1].endswith(" 'my app.py' -- 'a b'")
    assert job.installs == ("streamlit==1.9",)
    assert codes_of(project_of("workflows: [{name: x, provider: streamlit}]"), "x") == [
        Code.MISSING_KEY
    ]


def test_2_2_10_gradio() -> None:
    job = direct("gradio", "app.py", "--share", "no")
    assert job.commands[-1] == "python app.py --share no"
    assert 'GRADIO_SERVER_PORT="$PORT_0"' in job.commands[-2]
    assert link(job) == "/" and job.apps[0].web and job.installs == ("gradio",)


def test_2_2_11_fastapi() -> None:
    job = direct("fastapi", "main:app")
    assert job.commands[-1].startswith("python -m uvicorn main:app ") and link(job) == "/docs"
    job = job_of("provider: fastapi\napp: main:app\nversion: 0.100\nuvicorn: 0.30")
    assert job.installs == ("fastapi==0.100 'uvicorn[standard]==0.30'",)


def test_2_2_12_tensorboard() -> None:
    job = direct("tensorboard", "calm-ibex-1", "lazy-bobcat-2")
    assert job.reuses == tuple(
        Reuse(run=run, below=f"tensorboard-runs/{run}", text=run)
        for run in ("calm-ibex-1", "lazy-bobcat-2")
    )
    assert "--logdir tensorboard-runs" in job.commands[-1]
    job = direct("tensorboard", "calm-ibex-1", "--logdir", "./logs/")
    assert "--logdir_spec calm-ibex-1:tensorboard-runs/calm-ibex-1/logs" in job.commands[-1]
    for text in ("runs: [calm-ibex-1]", "runs: calm-ibex-1"):
        assert job_of(f"provider: tensorboard\n{text}").reuses[0].run == "calm-ibex-1"
    wrong = project_of("workflows: [{name: x, provider: tensorboard, runs: ['a b']}]")
    assert codes_of(wrong, "x") == [Code.BAD_NAME]


def test_2_2_14_ssh() -> None:
    job = direct("ssh")
    assert job.ports == (0,) and job.apps == (App("ssh", ssh=True),)
    assert job.commands[-1].startswith('sh "${DSTACK_SSHD')
    assert direct("ssh", "--code").apps[0].editor
    text = "provider: ssh\nsetup: [cd sub]\nrequirements: r.txt\nports: 2\npython: 3.11"
    job = job_of(text)
    assert job.installs == ("-r r.txt",) and job.commands[0] == "cd sub" and job.python == "3.11"
    assert [(app.name, app.port) for app in job.apps] == [("port0", 0), ("port1", 1), ("ssh", 2)]
    # Whoever is let in finds what setup left, so it comes before the server.
    assert "DSTACK_SSHD" in job.commands[-1] and len(job.commands) == 2


def test_2_3_2_ports_of_bash_and_docker_are_apps_with_names() -> None:
    job = job_of("provider: bash\ncommands: [x]\nports: 2")
    assert [(app.name, app.port) for app in job.apps] == [("bash0", 0), ("bash1", 1)]
    assert [app.name for app in job_of("image: x\ncommands: [x]\nports: 1").apps] == ["docker"]
    assert direct("bash", "-c", "x").apps == ()


@pytest.mark.parametrize(
    ("ports", "told", "local"),
    [
        ("3", (0, 0, 0), (0, 0, 0)),
        ("[3000, 3001]", (3000, 3001), (0, 0)),
        ('["8000:18080", 9000]', (8000, 9000), (18080, 0)),
        ('["3000"]', (3000,), (0,)),
        ("0", (), ()),
    ],
)
def test_1_2_31_ports_in_every_epochs_meaning_and_trap_81(
    ports: str, told: tuple[int, ...], local: tuple[int, ...]
) -> None:
    job = job_of(f"provider: bash\ncommands: [x]\nports: {ports}")
    assert job.ports == told
    assert tuple(app.local for app in job.apps) == local


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        pytest.param(("-p", "2"), [(0, 0), (0, 0)], id="2.1.8 --ports as a number"),
        (("--ports", "1"), [(0, 0)]),
        (("-p", "8000:18000"), [(8000, 18000), (9000, 0)]),
        (("-p", "7000"), [(8000, 1), (9000, 0), (7000, 0)]),
        pytest.param(
            ("--port", "8000:2", "--port", "7000"),
            [(8000, 2), (9000, 0), (7000, 0)],
            id="2.1.9 --port as a list",
        ),
        (("--port", "9000:3"), [(8000, 1), (9000, 3)]),
    ],
)
def test_port_flags_count_or_go_over_the_file(
    flags: tuple[str, ...], told: list[tuple[int, int]]
) -> None:
    job = job_of('provider: bash\ncommands: [x]\nports: ["8000:1", 9000]', flags)
    assert [(port, app.local) for port, app in zip(job.ports, job.apps, strict=True)] == told


@pytest.mark.parametrize("ports", ["true", "1.5", "[0]", "['8000:0']", "[70000]", "[a]", "101"])
def test_ports_that_are_none_are_refused(ports: str) -> None:
    text = f"workflows: [{{name: x, provider: bash, commands: [x], ports: {ports}}}]"
    assert len(codes_of(project_of(text), "x")) == 1


def test_trap_82_tokens_are_made_where_the_job_runs_and_never_planned() -> None:
    job = direct("lab")
    assert job.apps == (App("lab", path="/lab", query="token={token}", token="TOKEN", web=True),)
    assert job.env == {} and not any("{token}" in command for command in job.commands)


@pytest.mark.parametrize(
    ("written", "key", "option"),
    [
        pytest.param("provider: streamlit\ntarget: a.py", "target", "a.py", id="1.2.10 target"),
        pytest.param("provider: fastapi\napp: m:a", "app", "m:a", id="1.2.11 app"),
        pytest.param("provider: tensorboard\nruns: [a-b-1]", "runs", "a-b-1", id="1.2.13 runs"),
        pytest.param("provider: fastapi\napp: m:a\nuvicorn: 1.0", "uvicorn", "1.0", id="1.2.21 u"),
    ],
)
def test_keys_of_one_provider(written: str, key: str, option: str) -> None:
    job = job_of(written)
    assert option in " ".join((*job.commands, *job.installs, *(each.run for each in job.reuses)))
    other = project_of(f"workflows: [{{name: x, provider: bash, commands: [a], {key}: a}}]")
    assert codes_of(other, "x") == [Code.UNKNOWN_KEY]


def test_2_3_1_links_lead_to_the_forwarded_port_with_the_token() -> None:
    link = Link(direct("lab").apps[0], 8888, 8889, T)
    for host in ("localhost", "127.0.0.1", "0.0.0.0", "ws-2"):
        shown = Links(("ws-2",)).rewritten(f"at http://{host}:8888/lab".encode(), {8888: link})
        assert shown.decode() == f"at http://127.0.0.1:8889/lab?token={T}"


def test_2_3_3_the_same_port_else_the_next_and_a_named_one_or_none() -> None:
    with bind_local(0, exactly=False) as taken:
        port = taken.getsockname()[1]
        with bind_local(port, exactly=False) as other:
            assert other.getsockname()[1] != port
        with pytest.raises(Refused):
            bind_local(port, exactly=True)


def test_4_15_1_free_ports_by_number(tmp_path: Path) -> None:
    ports = settle_ports(spec_with((0, 0)), tmp_path)
    assert len({*ports}) == 2 and 0 not in ports
    assert settle_ports(spec_with((0, 0)), tmp_path) == ports == noted_ports(tmp_path)


def test_4_15_2_a_port_that_somebody_has_is_refused_where_the_job_would_run(
    tmp_path: Path,
) -> None:
    with bind_local(0, exactly=False) as taken:
        with pytest.raises(Refused) as refused:
            settle_ports(spec_with((taken.getsockname()[1],)), tmp_path)
        assert refused.value.code == "port-taken"


def test_trap_78_what_apps_require_is_installed_and_setup_is_theirs_too() -> None:
    keys = "requirements: r.txt\nsetup: [cd sub]"
    for own in ("lab", "notebook", "streamlit\ntarget: a.py", "gradio\nfile: a.py"):
        job = job_of(f"provider: {own}\n{keys}")
        assert job.installs[0] == "-r r.txt" and job.commands[0] == "cd sub"


def test_trap_79_a_server_of_vs_code_is_taken_from_the_machine_or_missed_in_words() -> None:
    job = direct("code")
    assert job.installs == () and "There is no VS Code server" in job.commands[-1]
    assert not any(word in job.commands[-1] for word in ("curl", "wget", "https://"))


def test_trap_80_streamlit_has_one_port_and_is_served_there() -> None:
    job = direct("streamlit", "a.py")
    assert job.ports == (0,) and [app.port for app in job.apps] == [0]


def test_trap_83_only_links_to_the_job_s_own_ports_are_touched() -> None:
    link = Link(direct("lab").apps[0], 8888, 8889, T)
    for kept in (
        b"\xff\x00http://localhost:1234/\r",
        b" 45%|###  \r",
        b"\x1b[1mhttp://x:8888\x1b[0m",
    ):
        assert Links(()).rewritten(kept, {8888: link}) == kept


def spec_with(ports: tuple[int, ...]) -> JobSpec:
    return replace(machines.spec(machines.question()), ports=ports)
