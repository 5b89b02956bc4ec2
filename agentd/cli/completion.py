"""`agentd completion`: the script that makes a shell complete agentd's commands and options."""

import click
from click.shell_completion import get_completion_class

from agentd.cli.output import fail

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    r"""Print the completion script of SHELL.

    \b
    bash:  agentd completion bash > /etc/bash_completion.d/agentd
    zsh:   agentd completion zsh > ~/.zfunc/_agentd
    fish:  agentd completion fish > ~/.config/fish/completions/agentd.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        fail(f"no completion for {shell}")
    script = kind(ctx.find_root().command, {}, "agentd", "_AGENTD_COMPLETE")
    click.echo(script.source_template % script.source_vars())
