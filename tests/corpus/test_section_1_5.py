"""Section 1.5 of the map: hardware. Every number is a minimum, 0 and nothing ask for nothing."""

import pytest

from dstack_scheduler.gpus import name_fits
from dstack_scheduler.needs import Needs
from dstack_scheduler.workflow.problem import Code
from support.workflow_files import codes_of, job_of, project_of

BASH = "provider: bash\ncommands: [a]\n"
GB = 10**9


def needs(resources: str, *args: str, variables: str = "") -> Needs:
    return job_of(f"{BASH}resources: {{{resources}}}", args, variables).needs


def refusal(resources: str, variables: str = "") -> list[Code]:
    text = (
        f"workflows:\n- name: x\n  provider: bash\n  commands: [a]\n  resources: {{{resources}}}\n"
    )
    return codes_of(project_of(text, variables), "x")


def test_1_5_1_processors_are_a_number_a_range_or_a_mapping() -> None:
    for four in ("4", "'4'", "{count: 4}", "4..8", "4..", "' 4 .. 8 '"):
        assert needs(f"cpu: {four}").cpus == 4
    assert needs("cpu: 0") == needs("cpu: ..8") == Needs()
    assert job_of(BASH).needs == Needs()
    for wrong in ("many", "-1", "1.5", "8..4", "..", "4...8", "{cores: 4}", "[4]", "2000000"):
        assert len(refusal(f"cpu: {wrong}")) == 1


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("16GB", 16 * GB),
        ("16gb", 16 * GB),
        ("16 G", 16 * GB),
        ("16000MB", 16 * GB),
        ("16GiB", 16 * 2**30),
        ("16gi", 16 * 2**30),
        ("512Mi", 512 * 2**20),
        ("1.5TB", 1500 * GB),
        ("16GB..", 16 * GB),
        ("16GB..32GB", 16 * GB),
        ("0", 0),
    ],
)
def test_1_5_2_memory_is_decimal_or_binary_in_any_case(written: str, size: int) -> None:
    assert needs(f"memory: {written}").memory_bytes == size


@pytest.mark.parametrize(
    "wrong", ["16", "lots", "-1GB", "16XB", "GB", "32GB..16GB", "9" * 19 + "B", "9" * 18 + "TB"]
)
def test_1_5_2_what_is_no_size_is_a_mistake(wrong: str) -> None:
    assert refusal(f"memory: {wrong}") == [Code.BAD_SIZE]


def test_1_5_3_a_number_of_cards() -> None:
    numbers = {"2": 2, "'2'": 2, "0": 0, "'0'": 0, "1..4": 1}
    assert {written: needs(f"gpu: {written}").gpus for written in numbers} == numbers
    assert refusal("gpu: 4090") == [Code.BAD_NUMBER]
    assert refusal("gpu: two") == [Code.BAD_NUMBER]


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("{name: V100}", Needs(gpus=1, gpu_name="V100")),
        ("{memory: 16GB}", Needs(gpus=1, gpu_memory_bytes=16 * GB)),
        ("{count: 2, name: K80, memory: 12GB}", Needs(0, 0, 2, "K80", 12 * GB)),
        ("{count: 0, name: V100}", Needs()),
        ("{name: [A100, H100]}", Needs(gpus=1, gpu_name="A100,H100")),
        ("{memory: 24GB..80GB}", Needs(0, 0, 1, "", 24 * GB, gpu_memory_most_bytes=80 * GB)),
        ("A100:40GB:2", Needs(0, 0, 2, "A100", 40 * GB)),
        ("24GB..:2", Needs(0, 0, 2, "", 24 * GB)),
    ],
)
def test_1_5_4_every_part_of_the_cards_is_optional(gpu: str, expected: Needs) -> None:
    assert needs(f"gpu: {gpu}") == expected


def test_1_5_5_the_model_may_stand_before_the_slash() -> None:
    assert needs("v100/gpu: 2") == Needs(gpus=2, gpu_name="v100")
    assert needs("v100/gpu: 0") == Needs()
    assert refusal("/gpu: 1") == [Code.UNKNOWN_KEY]
    assert refusal("v100/gpu: 1, k80/gpu: 1") == [Code.SAID_TWICE]
    assert refusal("v100/gpu: 1, gpu: 1") == [Code.SAID_TWICE]
    assert name_fits("v100", "Tesla V100-SXM2-16GB")
    assert not name_fits("A10", "NVIDIA A100-SXM4-80GB")


@pytest.mark.parametrize("key", ["gpu", "v100/gpu"])
@pytest.mark.parametrize("value", ["$gpu", "${{ gpu }}", "'${{gpu}}'"])
@pytest.mark.parametrize(("given", "gpus"), [("4", 4), ("'0'", 0), ("''", 0), ("A100:2", 2)])
def test_1_5_6_cards_may_come_from_a_variable(key: str, value: str, given: str, gpus: int) -> None:
    variables = f"variables: {{x: {{gpu: {given}}}}}"
    job = job_of(f"{BASH}resources:\n  {key}: {value}", (), variables)
    assert job.needs.gpus == gpus


def test_1_5_6_a_variable_is_checked_after_it_is_put_in() -> None:
    assert refusal("gpu: $gpu", "variables: {x: {gpu: many}}") == [Code.BAD_NUMBER]
    assert refusal("gpu: $cards", "variables: {x: {gpu: 1}}") == [Code.UNKNOWN_VARIABLE]


def test_1_5_7_shared_memory_is_a_size_alone_too() -> None:
    assert needs("shm_size: 8GB") == Needs(shm_bytes=8 * GB)
    assert refusal("shm_size: 8") == [Code.BAD_SIZE]


def test_1_5_8_a_job_may_be_interruptible() -> None:
    assert needs("interruptible: true").interruptible
    assert not needs("interruptible: false").interruptible
    assert needs("cpu: 1", "-i").interruptible
    assert refusal("interruptible: yes") == [Code.WRONG_TYPE]


@pytest.mark.parametrize(
    "word",
    [
        pytest.param("local", id="1.5.9 local"),
        pytest.param("remote", id="1.5.10 remote"),
    ],
)
def test_a_job_may_say_where_it_runs(word: str) -> None:
    assert job_of(f"{BASH}resources: {{{word}: true}}").place == word
    assert job_of(f"{BASH}resources: {{{word}: false}}").place == ""
    assert refusal("local: true, remote: true") == [Code.SAID_TWICE]


def test_1_5_12_a_flag_has_the_last_word_and_leaves_the_rest_alone() -> None:
    written = "gpu: {count: 1, name: V100, memory: 16GB}, cpu: 2"
    assert needs(written, "--gpu", "4") == Needs(2, 0, 4, "V100", 16 * GB)
    assert needs(written, "--gpu-name", "A100", "--cpu", "8") == Needs(8, 0, 1, "A100", 16 * GB)
    assert needs(written, "--gpu", "0") == Needs(2)
    assert needs("cpu: 1", "--gpu", "A100:40GB:2") == Needs(1, 0, 2, "A100", 40 * GB)
    assert needs("cpu: 1", "--memory", "8GB", "--shm-size=1GB") == Needs(1, 8 * GB, shm_bytes=GB)
