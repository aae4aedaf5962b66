"""Section 1.4 of the map: the forms of artifacts."""

import pytest

from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, job_of, project_of

BASH = "provider: bash\ncommands: [a]\n"


def kept(line: str) -> tuple[str, ...]:
    return job_of(f"{BASH}{line}").artifacts


def refusal(line: str) -> list[Code]:
    text = f"workflows:\n- name: x\n  provider: bash\n  commands: [a]\n  {line}\n"
    return codes_of(project_of(text), "x")


def test_1_4_1_artifacts_are_texts_in_either_style_of_a_list() -> None:
    assert kept("artifacts: [model, ./logs/, a/b]") == ("model", "logs", "a/b")
    assert kept("artifacts:\n- model\n- ./logs\n- model.pt") == ("model", "logs", "model.pt")
    assert kept("artifacts: [model, ./model, model/]") == ("model",)
    assert kept("artifacts: []") == ()


def test_1_4_2_artifacts_are_paths_and_texts_in_one_list() -> None:
    assert kept("artifacts: [{path: ./model}, logs]") == ("model", "logs")
    assert refusal("artifacts: [{path: a, paths: b}]") == [Code.UNKNOWN_KEY]
    assert refusal("artifacts: [{}]") == [Code.MISSING_KEY]
    assert refusal("artifacts: [{mount: true}]") == [Code.MISSING_KEY]


def test_1_4_3_an_absolute_path_keeps_its_place() -> None:
    assert kept("artifacts: [{path: /opt/conda/envs/x}, /data]") == ("/opt/conda/envs/x", "/data")
    assert refusal("artifacts: [/]") == [Code.BAD_PATH]


def test_1_4_4_a_path_in_the_home_keeps_its_tilde_until_the_home_is_known() -> None:
    assert kept("artifacts: [{path: ~/x}]") == ("~/x",)
    docker = "image: a\ncommands: [b]\nhome_dir: /root\nartifacts: [~/x]\n"
    assert job_of(docker).artifacts == ("/root/x",)
    assert refusal("artifacts: ['~']") == [Code.BAD_PATH]
    assert refusal("artifacts: [~ana/x]") == [Code.BAD_PATH]


@pytest.mark.parametrize("mount", ["true", "false"])
def test_1_4_5_a_mounted_artifact_is_an_artifact(mount: str) -> None:
    assert kept(f"artifacts: [{{path: model, mount: {mount}}}]") == ("model",)


def test_what_people_wrote_by_accident_is_a_mistake() -> None:
    assert refusal("artifacts: [model, ]") == []
    assert refusal("artifacts:\n  -") == [Code.EMPTY]
    assert refusal("artifacts: model") == [Code.WRONG_TYPE]
    assert refusal("artifacts: [../x]") == [Code.BAD_PATH]
    assert refusal("artifiacts: [x]") == [Code.UNKNOWN_KEY]
