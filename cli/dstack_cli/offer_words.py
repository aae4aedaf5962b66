"""Which words `dstack offers` takes beside those of a workflow: whom to ask, and for what."""

from dstack_cli.run_words import Flag, Grammar

RESOURCES: tuple[Flag, ...] = (
    Flag(("--gpu",), "GPUs, at least: a number, or as A100:40GB:2.", "N"),
    Flag(("--gpu-name",), "Model of the GPUs.", "NAME"),
    Flag(("--gpu-memory",), "Memory of each GPU, at least.", "SIZE"),
    Flag(("--cpu",), "Processors, at least.", "N"),
    Flag(("--memory",), "Memory, at least.", "SIZE"),
    Flag(("--shm-size",), "Size of /dev/shm.", "SIZE"),
    Flag(("-i", "--interruptible"), "Machines that may be taken away will do."),
)
"""As `dstack run` has them after the name; a test holds them against those."""

OFFERS = Grammar(
    "offers",
    (
        Flag(("-l", "--local"), "Ask this machine only."),
        Flag(("--remote",), "Ask other machines only (--remote=NAME: that one)."),
        Flag(("--agent",), "Ask this agent only.", "NAME"),
        Flag(("--json",), "Print JSON."),
        Flag(("-q", "--quiet"), "Print the names of those who could take it now."),
        Flag(("--home",), "Keep everything below DIR (also DSTACK_HOME).", "DIR"),
        Flag(("-h", "--help"), "Tell about this verb."),
    ),
    early=RESOURCES,
)
