"""The `nnkernels` command: the group, and what it does without a command."""

from __future__ import annotations

import click

from nnkernels._cli.bench import bench
from nnkernels._cli.check import check
from nnkernels._cli.demo import demo
from nnkernels._cli.devices import devices
from nnkernels._cli.predict import predict
from nnkernels._cli.race import race
from nnkernels._cli.sweep import sweep
from nnkernels._cli.terminal import App, json_option
from nnkernels._cli.train import train
from nnkernels._demos.sine import STEPS
from nnkernels._version import __version__

EPILOG = """\b
Exit codes:
  0    it worked
  1    a problem with the data, a file or the run, which the message names;
       of check: something is wrong
  2    wrong usage
  3    the device cannot be used, or does not exist
  130  interrupted
"""


@click.group(
    cls=App,
    invoke_without_command=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", default=STEPS, help="Steps of the comparison.")
@json_option
@click.version_option(__version__, prog_name="nnkernels", message="%(prog)s %(version)s")
@click.pass_context
def app(ctx: click.Context, steps: int, as_json: bool) -> None:
    """Train small dense networks at the speed of the hardware.

    Without a command: train a 1-10-1 network on a sine, one row a step, on every device that is there, and compare.
    """
    if ctx.invoked_subcommand is None:
        race(steps, as_json)
    elif ctx.get_parameter_source("steps") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError(
            f"--steps before a command is for no command; {ctx.invoked_subcommand} has its own options"
        )


for command in (devices, train, predict, sweep, check, demo, bench):
    app.add_command(command)
