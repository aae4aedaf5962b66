"""`dstack completion`: scripts for shells. They are static: TAB starts no Python."""

import click

from dstack_cli.tree import home_option
from dstack_cli.verbs import VERBS, Verb

NAMING_KEPT = frozenset(("ls", "artifacts", "cp", "push", "pull", "export"))
"""Verbs that take the name of a run or a :TAG."""

NAMING_RUNS = NAMING_KEPT | {
    *("stop", "restart", "explain", "app", "wait", "attach", "exec"),
    *("ps", "status", "logs", "verify", "tag", "untag", "rm"),
}
"""Verbs that take the name of a run."""

NAMING_TAGS = frozenset(("untag", "tags"))
"""Verbs that take a tag as it is."""

NAMING_WORKFLOWS = frozenset(("run", "offers"))
"""Verbs that take the name of a workflow or a provider."""

PROVIDERS = (
    *("bash", "code", "curl", "docker", "fastapi", "gradio", "lab", "notebook"),
    *("python", "ssh", "streamlit", "tensorboard", "torchrun"),
)
"""What can be run without a file; a test holds it against the registry, which is heavy to load."""

SUBWORDS = {
    "artifacts": ("list", "download", "upload"),
    "prune": ("cache",),
    "tags": ("list", "add", "create", "delete"),
}
"""Words that verbs take without being groups."""

RUNNER_WORDS = (
    *("start", "join", "status", "check", "pause", "resume", "drain", "policy", "audit", "prune"),
    *("--help", "--version"),
)
"""What `dstack-runner` begins with; a test holds it against that command."""

WORKFLOW_NAMES = (
    "sed -n 's/^ *- *name: *[\"'\\'']*\\([A-Za-z0-9_.-]*\\).*/\\1/p;"
    "s/^   *name: *[\"'\\'']*\\([A-Za-z0-9_.-]*\\).*/\\1/p'"
    " .dstack/workflows.yaml .dstack/workflows.yml"
    " .dstack/workflows/*.yaml .dstack/workflows/*.yml 2>/dev/null"
)

NAMES = """\
_dstack_kept() {
    tail -n "$2" "${DSTACK_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/dstack}/state/$1" 2>/dev/null
}
"""
"""For bash and zsh: the last lines of what commands of this home noted."""

BASH = """\
# dstack completion for bash (3.2 and newer): eval "$(dstack completion bash)"
%(names)s\
_dstack() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"
    local verb="" words="" more="" at
    for (( at = 1; at < COMP_CWORD; at++ )); do
        case "${COMP_WORDS[at]}" in
            --home) (( at++ )) ;;
            -*) ;;
            *) verb="${COMP_WORDS[at]}"; break ;;
        esac
    done
    case "$verb" in
        "") words="%(verbs)s --home --version --help" ;;
%(cases)s
    esac
    case "$before:$word" in
        # A colon ends a word for bash.
        ?*:":"|":":*) [ "$word" = : ] && word=""; words="$(_dstack_kept tag-names 50)" ;;
        *:-*) ;;
        *)
            case "$verb" in %(workflow_verbs)s) more="%(providers)s $(%(workflows)s)" ;; esac
            case "$verb" in %(runs)s) more="@ $(_dstack_kept run-names 50)" ;; esac
            case "$verb" in
                %(kept)s) more="$more $(_dstack_kept tag-names 50 | sed 's/^/:/')" ;;
            esac
            case "$verb" in %(tags)s) more="$more $(_dstack_kept tag-names 50)" ;; esac
            ;;
    esac
    COMPREPLY=( $(compgen -W "$words $more" -- "$word") )
}
complete -o default -F _dstack dstack
complete -o default -W "%(runner)s" dstack-runner
"""

ZSH = """\
#compdef dstack
# dstack completion for zsh, after compinit: eval "$(dstack completion zsh)"
%(names)s\
_dstack() {
    local word="${words[CURRENT]}" verb="" at
    local -a found
    for (( at = 2; at < CURRENT; at++ )); do
        case "${words[at]}" in
            --home) (( at++ )) ;;
            -*) ;;
            *) verb="${words[at]}"; break ;;
        esac
    done
    case "$verb" in
        "") found=(%(verbs)s --home --version --help) ;;
%(cases)s
    esac
    if [[ "$word" != -* ]]; then
        case "$verb" in %(workflow_verbs)s) found+=(%(providers)s $(%(workflows)s)) ;; esac
        case "$verb" in %(runs)s) found+=(@ $(_dstack_kept run-names 50)) ;; esac
        case "$verb" in %(kept)s) found+=($(_dstack_kept tag-names 50 | sed 's/^/:/')) ;; esac
        case "$verb" in %(tags)s) found+=($(_dstack_kept tag-names 50)) ;; esac
    fi
    compadd -- $found
    _files
}
compdef _dstack dstack
_dstack_runner() {
    compadd -- %(runner)s
    _files
}
compdef _dstack_runner dstack-runner
"""

FISH = """\
# dstack completion for fish: dstack completion fish | source
function __dstack_kept
    set -l home $HOME/.local/share/dstack
    set -q XDG_DATA_HOME; and set home $XDG_DATA_HOME/dstack
    set -q DSTACK_HOME; and set home $DSTACK_HOME
    tail -n 50 $home/state/$argv[1] 2>/dev/null
end
function __dstack_workflows
    for file in .dstack/workflows.{yaml,yml} .dstack/workflows/*.{yaml,yml}
        test -f $file; and string replace -rf '^ *(?:- *)?name: *["\\']*([\\w.-]+).*' '$1' <$file
    end
end
function __dstack_verb
    set -l words (commandline -opc)
    set -l skip 1
    for word in $words
        if test $skip = 1
            set skip 0
        else if test $word = --home
            set skip 1
        else if not string match -q -- '-*' $word
            echo $word
            return
        end
    end
end
function __dstack_in
    contains -- (__dstack_verb) $argv
end
"""


@click.command()
@home_option
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(dstack completion bash)"."""
    click.echo({"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](), nl=False)


def _bash() -> str:
    return BASH % {**_parts(), "cases": _cases('words="{}"')}


def _zsh() -> str:
    return ZSH % {**_parts(), "cases": _cases("found=({})")}


def _parts() -> dict[str, str]:
    """What both scripts are made of."""
    return {
        "names": NAMES,
        "verbs": " ".join(verb.name for verb in VERBS),
        "providers": " ".join(PROVIDERS),
        "workflows": WORKFLOW_NAMES,
        "workflow_verbs": "|".join(_spelled(NAMING_WORKFLOWS)),
        "runs": "|".join(_spelled(NAMING_RUNS)),
        "kept": "|".join(_spelled(NAMING_KEPT)),
        "tags": "|".join(_spelled(NAMING_TAGS)),
        "runner": " ".join(RUNNER_WORDS),
    }


def _cases(form: str) -> str:
    return "\n".join(
        f"        {'|'.join((verb.name, *verb.aliases))}) {form.format(' '.join(words))} ;;"
        for verb, words in _words()
    )


def _fish() -> str:
    lines = [FISH.rstrip("\n")]
    for verb in VERBS:
        about = f"-f -a {verb.name} -d '{_quoted(verb.help)}'"
        lines.append(f"complete -c dstack -n 'not __dstack_verb | string length -q' {about}")
    for verb, words in _words():
        inside = f"-n '__dstack_in {' '.join((verb.name, *verb.aliases))}'"
        for word in words:
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}"
            lines.append(f"complete -c dstack {inside} {kind}")
    for naming, offered in (
        (NAMING_WORKFLOWS, f"{' '.join(PROVIDERS)} (__dstack_workflows)"),
        (NAMING_RUNS, "@ (__dstack_kept run-names)"),
        (NAMING_KEPT, ":(__dstack_kept tag-names)"),
        (NAMING_TAGS, "(__dstack_kept tag-names)"),
    ):
        inside = f"-n '__dstack_in {' '.join(_spelled(naming))}'"
        lines.append(f"complete -c dstack {inside} -f -a '{offered}'")
    for word in RUNNER_WORDS:
        kind = f"-l {word[2:]}" if word.startswith("--") else f"-f -a {word}"
        lines.append(f"complete -c dstack-runner -n __fish_use_subcommand {kind}")
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    return text.replace("'", "\\'")


def _spelled(names: frozenset[str]) -> list[str]:
    """These verbs and their other spellings."""
    return [word for verb in VERBS if verb.name in names for word in (verb.name, *verb.aliases)]


def _words() -> list[tuple[Verb, list[str]]]:
    """Flags, sub-commands and fixed words of each verb, read from the commands themselves."""
    from dstack_cli.tree import root

    found: list[tuple[Verb, list[str]]] = []
    with click.Context(root) as ctx:
        for verb in VERBS:
            command = root.get_command(ctx, verb.name)
            assert command is not None
            names = [opt for param in command.params for opt in param.opts if opt[:2] == "--"]
            if isinstance(command, click.Group):
                names += command.list_commands(ctx)
            for param in command.params:
                if isinstance(param.type, click.Choice):
                    names += map(str, param.type.choices)
            names += SUBWORDS.get(verb.name, ())
            found.append((verb, [*names, "--help"]))
    return found
