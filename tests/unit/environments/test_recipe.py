"""What a job wants installed: the same wish has the same name, and nothing else has it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_agent.environments.recipe import Recipe, read_recipe
from dstack_agent.executor.pythons import Interpreter, own
from dstack_mesh.faults import Invalid, Refused

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def recipe(work: Path, *installs: str, **changes: object) -> Recipe:
    words: dict[str, object] = {
        "python": own(),
        "work": work,
        "start": work,
        "options": {},
        "whose": "",
        "values": {},
    }
    return read_recipe(installs, **words | changes)  # type: ignore[arg-type]


def written(work: Path, text: str, name: str = "r.txt") -> Path:
    (work / name).parent.mkdir(parents=True, exist_ok=True)
    (work / name).write_text(text)
    return work


def test_comments_and_blanks_change_nothing(tmp_path: Path) -> None:
    plain = recipe(written(tmp_path / "a", "numpy==1\ntorch==2\n"), "-r r.txt")
    noted = recipe(written(tmp_path / "b", "# a\n\nnumpy==1  # b\n  torch==2"), "-r r.txt")
    assert plain.key == noted.key
    assert plain.shared


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["a==1", "a==2", "b", "c>=3"]), min_size=1, max_size=4))
def test_other_lines_have_another_name(lines: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        before = recipe(written(work, "\n".join(lines)), "-r r.txt").key
        after = recipe(written(work, "\n".join([*lines, "d"])), "-r r.txt").key
        assert before != after


def test_whatever_decides_what_is_installed_is_in_the_name(tmp_path: Path) -> None:
    work = written(tmp_path, "a")
    names = {
        recipe(work, "-r r.txt").key,
        recipe(work, "-r r.txt", "b").key,
        recipe(work, "-r r.txt b").key,
        recipe(work, "-r r.txt", python=Interpreter("3.99.1", Path("/p/python"))).key,
        recipe(work, "-r r.txt", options={"PIP_INDEX_URL": "https://x"}).key,
        recipe(work, "-r r.txt", whose="somebody").key,
    }
    assert len(names) == 6


@pytest.mark.parametrize(
    "line", ["-r more.txt", "-rmore.txt", "--requirement=more.txt", "-c more.txt"]
)
def test_files_that_a_file_names_count(tmp_path: Path, line: str) -> None:
    work = written(tmp_path, f"{line}\n", "deep/r.txt")
    written(tmp_path, "a==1", "deep/more.txt")
    before = recipe(work, "-r deep/r.txt")
    written(tmp_path, "a==2", "deep/more.txt")
    assert before.shared
    assert recipe(work, "-r deep/r.txt").key != before.key


@pytest.mark.parametrize(
    ("line", "shared"),
    [
        ("numpy==1.26", True),
        ("a[b] >= 1 ; python_version > '3'", True),
        ("https://host/x-1-py3-none-any.whl", True),
        (f"x @ git+https://host/x@{COMMIT}", True),
        ("--find-links /opt/wheels", True),
        ("x @ git+https://host/x", False),
        ("git+ssh://git@host/x@main", False),
        ("-e .", False),
        ("--editable=./sub", False),
        ("./x", False),
        ("wheels/x-1-py3-none-any.whl", False),
        ("x @ file:///work/x", False),
        ("--find-links wheels", False),
        ("-r https://host/r.txt", False),
    ],
)
def test_what_names_files_of_the_job_or_moves_serves_nobody_else(
    tmp_path: Path, line: str, shared: bool
) -> None:
    assert recipe(written(tmp_path, line), "-r r.txt").shared is shared


def test_a_file_of_the_machine_is_not_read_for_a_job(tmp_path: Path) -> None:
    work = written(tmp_path / "work", "a")
    (tmp_path / "secret").write_text("token==1")
    (work / "link.txt").symlink_to(tmp_path / "secret")
    for name in ("../secret", str(tmp_path / "secret"), "link.txt"):
        before = recipe(work, f"-r {name}")
        (tmp_path / "secret").write_text("token==2")
        assert (recipe(work, f"-r {name}").key, before.shared) == (before.key, False)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"a" * (1 << 21)])
def test_what_cannot_be_read_is_refused_with_its_name(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "r.txt").write_bytes(content)
    with pytest.raises(Refused) as refused:
        recipe(tmp_path, "-r r.txt")
    assert (refused.value.code, "r.txt" in refused.value.what) == ("no-requirements", True)


def test_words_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        recipe(tmp_path, "'open")


def test_yaml_is_conda_s_and_its_name_for_itself_does_not_count(tmp_path: Path) -> None:
    text = "name: {}\ndependencies:\n  - python=3.11\n"
    one = recipe(written(tmp_path, text.format("one"), "environment.yml"), "-r environment.yml")
    two = recipe(written(tmp_path, text.format("two"), "environment.yml"), "-r environment.yml")
    assert one.conda == tmp_path / "environment.yml"
    assert (one.key, one.shared, one.told) == (two.key, True, "environment.yml")
    local = text + "  - pip:\n    - -r more.txt\n"
    assert not recipe(written(tmp_path, local, "e.yaml"), "-r e.yaml").shared


def test_variables_that_a_file_reads_are_found(tmp_path: Path) -> None:
    work = written(tmp_path, "--index-url https://${TOKEN}@host/simple\na")
    assert recipe(work, "-r r.txt").variables == {"TOKEN"}


def test_values_of_variables_are_in_the_name(tmp_path: Path) -> None:
    work = written(tmp_path, "--index-url https://${HOST}/simple\na @ https://x/${V}.zip\n")
    first = recipe(work, "-r r.txt", values={"HOST": "a", "V": "1", "NOT": "x"})
    assert first.variables == {"HOST", "V"}
    others = [
        recipe(work, "-r r.txt", values={"HOST": host, "V": v}).key
        for host, v in (("a", "1"), ("b", "1"), ("a", "2"), ("a", ""))
    ]
    assert others[0] == first.key
    assert len(set(others)) == 4


@pytest.mark.parametrize("value", ["./own", "git+https://x/y@main", "file:///x"])
def test_what_a_variable_leads_to_counts(tmp_path: Path, value: str) -> None:
    work = written(tmp_path, "${WHAT}\n")
    assert recipe(work, "-r r.txt", values={"WHAT": "a==1"}).shared
    assert not recipe(work, "-r r.txt", values={"WHAT": value}).shared
    assert not recipe(work, "${WHAT}", values={"WHAT": value}).shared


@pytest.mark.parametrize("name", ["r.txt", "r\0.txt", "r" * 300])
def test_what_is_no_file_is_refused_whatever_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "r.txt").symlink_to("r2.txt")
    (tmp_path / "r2.txt").symlink_to("r.txt")
    with pytest.raises(Refused) as refused:
        recipe(tmp_path, f"-r {name}")
    assert refused.value.code == "no-requirements"
