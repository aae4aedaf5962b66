"""Section 3.1: every command of every epoch is a verb, or says what took its place."""

import pytest

from dstack_cli.replaced import find_replaced
from dstack_cli.verbs import find

VERBS = [
    pytest.param("config", "config", id="3.1.1 config"),
    pytest.param("init", "init", id="3.1.2 init"),
    pytest.param("login logout token", "", id="3.1.3 login, logout, token"),
    pytest.param("run", "run", id="3.1.4 run"),
    pytest.param("status", "status", id="3.1.5 status"),
    pytest.param("runs ps", "ps", id="3.1.5 runs and ps"),
    pytest.param("logs", "logs", id="3.1.6 logs"),
    pytest.param("stop", "stop", id="3.1.7 stop"),
    pytest.param("resume restart", "restart", id="3.1.8 resume and restart"),
    pytest.param("tag", "tag", id="3.1.9 tag"),
    pytest.param("untag", "untag", id="3.1.9 untag"),
    pytest.param("tags", "tags", id="3.1.10 tags"),
    pytest.param("artifacts", "artifacts", id="3.1.11 artifacts"),
    pytest.param("ls", "ls", id="3.1.12 ls"),
    pytest.param("cp", "cp", id="3.1.12 cp"),
    pytest.param("push", "push", id="3.1.12 push"),
    pytest.param("pull", "pull", id="3.1.12 pull"),
    pytest.param("prune", "prune", id="3.1.13 prune"),
    pytest.param("delete rm", "rm", id="3.1.13 delete, rm"),
    pytest.param("secrets", "secrets", id="3.1.14 secrets"),
    pytest.param("runners", "agents", id="3.1.15 runners"),
    pytest.param("aws on-demand", "", id="3.1.16 aws and on-demand"),
    pytest.param("app", "app", id="3.1.17 app"),
    pytest.param("dashboard hub start", "", id="3.1.18 dashboard, hub, start"),
]


@pytest.mark.parametrize(("words", "verb"), VERBS)
def test_an_old_word_is_a_verb_or_says_what_took_its_place(words: str, verb: str) -> None:
    for word in words.split():
        found, told = find(word), find_replaced(word)
        assert (found is None) is (told is not None)
        if found is not None:
            assert found.name == verb
        if told is not None:
            assert told.code == "replaced" and told.why and "dstack" in told.hint
