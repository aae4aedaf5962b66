"""Which words of `dstack run …` and of its kin are ours, and which belong to the workflow.

Our flags are found before and after the name, up to a `--`; everything else after the name goes on
to the workflow language unchanged and in order: variables, its own flags, arguments of the script.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from dstack_cli.misused import Misused
from dstack_mesh.frozen import frozen


@frozen
class Asked:
    """What a person asked for.

    Attributes:
        target: The workflow or provider; "" to list them.
        words: Everything that is the workflow's.
        placement: "" for this machine first, "local", "remote", or an agent's name or id.
        help: Wants to be told, about the target if there is one.
        remote: Said `--remote`.
        push_to: Remote that the run goes to once it has ended; "" for none.
        no_open: Links of apps are printed only.
        reuse: Results of earlier jobs may stand in for jobs.
        reload: What is edited is laid into the jobs while they run.
    """

    target: str = ""
    words: tuple[str, ...] = ()
    detach: bool = False
    quiet: bool = False
    dry_run: bool = False
    as_json: bool = False
    placement: str = ""
    tag: str = ""
    home: str | None = None
    help: bool = False
    remote: bool = False
    push_to: str = ""
    no_open: bool = False
    reuse: bool = True
    reload: bool = False


@frozen
class Flag:
    """A flag of ours: its spellings, what it does, the word for its value if it takes one."""

    spellings: tuple[str, ...]
    help: str
    value: str = ""


FLAGS: tuple[Flag, ...] = (
    Flag(("-d", "--detach"), "Submit and return; the run goes on without you."),
    Flag(("-q", "--quiet"), "With -d print the run's name alone; else say nothing of our own."),
    Flag(("-t", "--tag"), "Name the run.", "NAME"),
    Flag(("--dry-run",), "Show what would run and who would take it; start nothing."),
    Flag(("--json",), "Print JSON; the output of the job goes to standard error."),
    Flag(("-l", "--local"), "Run on this machine only."),
    Flag(
        ("--remote",), "Run on another machine only (--remote=NAME: that one); remotes get a copy."
    ),
    Flag(("--agent",), "Run on this agent only.", "NAME"),
    Flag(("--no-open",), "Print links of apps; open none in a browser."),
    Flag(("-f", "--follow"), "Follow the run; that is what happens anyway."),
    Flag(("--no-reuse",), "Run every job, also one whose result exists already."),
    Flag(("--reload",), "Lay what you edit here into the jobs while they run."),
    Flag(("--home",), "Keep everything below DIR (also DSTACK_HOME).", "DIR"),
    Flag(("-h", "--help"), "Tell about this verb, or about the workflow whose name comes before."),
)


@frozen
class Grammar:
    """What a verb takes beside a workflow and its words.

    Attributes:
        flags: The verb's own.
        early: Flags of workflows that may come before the name too, or without one.
    """

    verb: str
    flags: tuple[Flag, ...]
    early: tuple[Flag, ...] = ()


RUN = Grammar("run", FLAGS)

_SET: dict[str, Callable[[Asked, str], Asked]] = {
    "-d": lambda asked, _: replace(asked, detach=True),
    "-q": lambda asked, _: replace(asked, quiet=True),
    "-t": lambda asked, value: replace(asked, tag=value),
    "--dry-run": lambda asked, _: replace(asked, dry_run=True),
    "--json": lambda asked, _: replace(asked, as_json=True),
    "-l": lambda asked, _: _placed(asked, "local"),
    "--remote": lambda asked, value: replace(_placed(asked, value or "remote"), remote=True),
    "--agent": lambda asked, value: _placed(asked, value),
    "--no-open": lambda asked, _: replace(asked, no_open=True),
    "-f": lambda asked, _: replace(asked, detach=False),
    "--no-reuse": lambda asked, _: replace(asked, reuse=False),
    "--reload": lambda asked, _: replace(asked, reload=True, reuse=False),
    "--home": lambda asked, value: replace(asked, home=value),
    "-h": lambda asked, _: replace(asked, help=True),
}


def read(args: Sequence[str], grammar: Grammar = RUN) -> Asked:
    """What the words ask for.

    Raises:
        Misused: A flag lacks its value, or flags contradict each other.
    """
    own = _by_spelling(grammar.flags)
    asked = Asked()
    words: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--" and asked.target:
            words += [word, *rest]
            break
        if (letters := _together(word, own)) is not None:
            rest[:0] = letters
            continue
        name, equals, value = word.partition("=")
        if name in own:
            asked = _set(asked, own[name], name, value if equals else None, rest)
        elif asked.target:
            words.append(word)
        elif word.startswith("-") and word != "--":
            words += _early(word, grammar, rest)
        elif word != "--":
            asked = replace(asked, target=word)
    if asked.reload and asked.detach:
        raise Misused(
            "--reload follows your edits only while you stay.",
            "With -d nobody is there to send them.",
            "leave -d or --reload away",
            code="usage",
        )
    return replace(asked, words=tuple(words))


def _by_spelling(flags: Iterable[Flag]) -> dict[str, Flag]:
    return {spelling: flag for flag in flags for spelling in flag.spellings}


def _early(word: str, grammar: Grammar, rest: list[str]) -> list[str]:
    """A workflow's flag that comes before its name, and its value. Raises Misused."""
    name, equals, _ = word.partition("=")
    flag = _by_spelling(grammar.early).get(name)
    if flag is None:
        raise _not_ours(word, grammar)
    return [word, _value(flag, name, rest)] if flag.value and not equals else [word]


def _together(word: str, own: Mapping[str, Flag]) -> list[str] | None:
    """The flags in "-dq", if all of them are ours and take no value."""
    letters = [f"-{letter}" for letter in word[1:]]
    if word[:1] != "-" or word[:2] == "--" or len(letters) < 2:
        return None
    ours = all(one in own and not own[one].value for one in letters)
    return letters if ours else None


def _set(asked: Asked, flag: Flag, spelling: str, value: str | None, rest: list[str]) -> Asked:
    if flag.value and value is None:
        value = _value(flag, spelling, rest)
    if value is not None and not flag.value and "--remote" not in flag.spellings:
        raise Misused(f"{spelling} takes no value.", f"It was given {value!r}.", code="usage")
    return _SET[flag.spellings[0]](asked, value or "")


def _value(flag: Flag, spelling: str, rest: list[str]) -> str:
    """The next word, which is the flag's."""
    if not rest:
        raise Misused(f"{spelling} needs a value.", "", f"{spelling} {flag.value}", code="usage")
    return rest.pop(0)


def _placed(asked: Asked, placement: str) -> Asked:
    if asked.placement == "remote" and placement != "local":
        return replace(asked, placement=placement)
    if asked.placement and asked.placement != placement and placement != "remote":
        raise Misused(
            "The flags say two places.",
            f"They are {asked.placement} and {placement}.",
            "give one of --local, --remote and --agent NAME",
            code="usage",
        )
    if asked.placement == "local" and placement == "remote":
        raise Misused("--local and --remote contradict each other.", code="usage")
    return asked if asked.placement else replace(asked, placement=placement)


def _not_ours(word: str, grammar: Grammar) -> Misused:
    from dstack_cli.names import close_to  # only mistakes need it

    name = word.partition("=")[0]
    flags = _by_spelling((*grammar.flags, *grammar.early))
    known = [spelling for spelling in flags if spelling[:2] == "--"]
    hint = close_to(name, known) or f"dstack {grammar.verb} WORKFLOW {word} …"
    return Misused(
        f"No such option {name}.",
        "Flags of a workflow come after its name.",
        hint,
        code="usage",
    )
