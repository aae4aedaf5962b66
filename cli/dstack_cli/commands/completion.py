"""`dstack completion`: scripts for shells. They are static: TAB starts no Python."""

import click

from dstack_cli.tree import home_option
from dstack_cli.verbs import VERBS

NAMING_RUNS = ("stop", "wait", "attach", "ps", "status", "logs", "ls", "artifacts", "cp", "tag")

RUNNER_WORDS = (
    *("start", "join", "status", "check", "pause", "resume", "drain", "policy", "audit", "prune"),
    *("--help", "--version"),
)
"""What `dstack-runner` begins with; a test holds it against that command."""

WORKFLOW_NAMES = (
    "sed -n 's/^ *- *name: *[\"'\\'']*\\([A-Za-z0-9_.-]*\\).*/\\1/p'"
    " .dstack/workflows.yaml .dstack/workflows.yml"
    " .dstack/workflows/*.yaml .dstack/workflows/*.yml 2>/dev/null"
)
RUN_NAMES = (
    'tail -n 50 "${DSTACK_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/dstack}/state/run-names"'
    " 2>/dev/null"
)

BASH = """\
# dstack completion for bash (3.2 and newer): eval "$(dstack completion bash)"
_dstack() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" verb="" words="" at
    for (( at = 1; at < COMP_CWORD; at++ )); do
        case "${{COMP_WORDS[at]}}" in
            --home) (( at++ )) ;;
            -*) ;;
            *) verb="${{COMP_WORDS[at]}}"; break ;;
        esac
    done
    case "$verb" in
        "") words="{verbs} --home --version --help" ;;
{cases}
    esac
    case "$verb:$word" in
        *:-*) ;;
        run:*) words="$words $({workflows})" ;;
        {naming}) words="$words @ $({runs})" ;;
    esac
    COMPREPLY=( $(compgen -W "$words" -- "$word") )
}}
complete -o default -F _dstack dstack
complete -o default -W "{runner}" dstack-runner
"""

ZSH = """\
#compdef dstack
# dstack completion for zsh: eval "$(dstack completion zsh)"
_dstack() {{
    local word="${{words[CURRENT]}}" verb="" at
    local -a found
    for (( at = 2; at < CURRENT; at++ )); do
        case "${{words[at]}}" in
            --home) (( at++ )) ;;
            -*) ;;
            *) verb="${{words[at]}}"; break ;;
        esac
    done
    case "$verb" in
        "") found=({verbs} --home --version --help) ;;
{cases}
    esac
    case "$verb:$word" in
        *:-*) ;;
        run:*) found+=($({workflows})) ;;
        {naming}) found+=(@ $({runs})) ;;
    esac
    compadd -a found
    _files
}}
compdef _dstack dstack
_dstack_runner() {{
    compadd {runner_words}
    _files
}}
compdef _dstack_runner dstack-runner
"""


@click.command()
@home_option
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(dstack completion bash)"."""
    click.echo({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](), nl=False)


def _bash() -> str:
    return BASH.format(
        verbs=" ".join(verb.name for verb in VERBS),
        cases="\n".join(f'        {verb}) words="{" ".join(w)}" ;;' for verb, w in _words()),
        naming="|".join(f"{verb}:*" for verb in NAMING_RUNS),
        workflows=WORKFLOW_NAMES,
        runs=RUN_NAMES,
        runner=" ".join(RUNNER_WORDS),
    )


def _zsh() -> str:
    return ZSH.format(
        verbs=" ".join(verb.name for verb in VERBS),
        cases="\n".join(f"        {verb}) found=({' '.join(w)}) ;;" for verb, w in _words()),
        naming="|".join(f"{verb}:*" for verb in NAMING_RUNS),
        workflows=WORKFLOW_NAMES,
        runs=RUN_NAMES,
        runner_words="-- " + " ".join(RUNNER_WORDS),
    )


def _fish() -> str:
    lines = ["# dstack completion for fish: dstack completion fish | source"]
    for verb in VERBS:
        about = f"-f -a {verb.name} -d '{_quoted(verb.help)}'"
        lines.append(f"complete -c dstack -n __fish_use_subcommand {about}")
    for verb, words in _words():
        seen = f"-n '__fish_seen_subcommand_from {verb}'"
        for word in words:
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}"
            lines.append(f"complete -c dstack {seen} {kind}")
    naming = " ".join(NAMING_RUNS)
    home = "$HOME/.local/share/dstack"
    names = f'tail -n 50 (test -n \\"$DSTACK_HOME\\"; and echo $DSTACK_HOME; or echo {home})'
    lines.append(
        f"complete -c dstack -n '__fish_seen_subcommand_from {naming}'"
        f' -f -a "({names}/state/run-names 2>/dev/null)"'
    )
    for word in RUNNER_WORDS:
        kind = f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}"
        lines.append(f"complete -c dstack-runner -n __fish_use_subcommand {kind}")
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    return text.replace("'", "\\'")


def _words() -> list[tuple[str, list[str]]]:
    """Flags and sub-commands of each verb, read from the commands themselves."""
    from dstack_cli.tree import root

    found: list[tuple[str, list[str]]] = []
    with click.Context(root) as ctx:
        for verb in VERBS:
            command = root.get_command(ctx, verb.name)
            assert command is not None
            names = [opt for param in command.params for opt in param.opts if opt[:2] == "--"]
            if isinstance(command, click.Group):
                names += command.list_commands(ctx)
            found.append((verb.name, [*names, "--help"]))
    return found
