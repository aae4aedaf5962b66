"""The table of verbs: what `dstack --help` shows and where each verb lives.

Help and suggestions are made from this table alone; a verb's module is imported only when it runs.
"""

from dstack_mesh.frozen import frozen


@frozen
class Verb:
    """A verb.

    Attributes:
        help: One line of at most 60 characters.
        aliases: Old spellings that keep working.
        function: Name of the command in the module, if it is not the verb's.
        follows: Its exit code is that of a job, so our own trouble is 125.
    """

    name: str
    group: str
    module: str
    help: str
    aliases: tuple[str, ...] = ()
    function: str = ""
    follows: bool = False

    @property
    def attribute(self) -> str:
        return self.function or self.name


RUN, LOOK, DATA, SET_UP = "Run", "Look", "Data", "Set up"

VERBS: tuple[Verb, ...] = (
    Verb("run", RUN, "run", "Run a workflow or a provider, here or on the mesh", follows=True),
    Verb("stop", RUN, "stop", "Stop a run gracefully; -x kills it at once"),
    Verb("restart", RUN, "restart", "Run it again from what it kept", ("resume",), follows=True),
    Verb("wait", RUN, "wait", "Wait for a run to end; exits with its exit code", follows=True),
    Verb("attach", RUN, "attach", "Come back to a run: its log from the start, live", follows=True),
    Verb(
        *("exec", RUN, "exec", "Run a command beside a job, or a shell in it"),
        function="run_beside",
        follows=True,
    ),
    Verb("app", RUN, "app", "Open the apps of a run in the browser, or print links"),
    Verb("validate", RUN, "validate", "Check the workflow files; nothing is started"),
    Verb("explain", RUN, "explain", "Say why a run waits, and what would change that"),
    Verb("ps", LOOK, "ps", "List runs: unfinished ones, or the last", ("runs",)),
    Verb("status", LOOK, "ps", "List runs and their jobs, one line each"),
    Verb("logs", LOOK, "logs", "Show the log of a run; -f follows it", follows=True),
    Verb("verify", LOOK, "verify", "Check who signed a run and what happened to it"),
    Verb("agents", LOOK, "agents", "List the agents of the mesh and what is free", ("runners",)),
    Verb("top", LOOK, "top", "Watch agents and running jobs: what they use, live"),
    Verb("offers", LOOK, "offers", "List who could take a job now, the best first"),
    Verb("ls", DATA, "ls", "List what a run or a :tag kept"),
    Verb("artifacts", DATA, "artifacts", "List or download artifacts, spelled as before"),
    Verb("cp", DATA, "cp", "Copy files of a run or a :tag to this machine"),
    Verb("push", DATA, "push", "Copy runs, artifacts and tags to a remote"),
    Verb("pull", DATA, "pull", "Copy runs from a remote to this home"),
    Verb("export", DATA, "export", "Write what a run kept as plain files, or into a bucket"),
    Verb("tag", DATA, "tag", "Name a run: dstack tag RUN TAG"),
    Verb("untag", DATA, "tag", "Take a name back"),
    Verb("tags", DATA, "tag", "List the names of runs"),
    Verb("rm", DATA, "rm", "Remove runs that ended, for everybody", ("delete",)),
    Verb("prune", DATA, "rm", "Remove all that ended and have no tag"),
    Verb("secrets", DATA, "secrets", "Keep values for jobs; in this home only"),
    Verb("init", SET_UP, "init", "Write a first .dstack/workflows.yaml"),
    Verb("config", SET_UP, "config", "Name a remote: a bucket that keeps runs for all"),
    Verb("mesh", SET_UP, "mesh", "Make, join and look at a mesh"),
    Verb("doctor", SET_UP, "doctor", "Check this machine and the way to the agents"),
    Verb("completion", SET_UP, "completion", "Print the script that completes names on TAB"),
    Verb("version", SET_UP, "version", "Print the version"),
)

GROUPS = (RUN, LOOK, DATA, SET_UP)


def find(name: str) -> Verb | None:
    """The verb of this name or alias."""
    for verb in VERBS:
        if name == verb.name or name in verb.aliases:
            return verb
    return None


def spellings() -> list[str]:
    """Every name and alias, for suggestions."""
    return [name for verb in VERBS for name in (verb.name, *verb.aliases)]
