"""`nnkernels demo`: the stories, each a command of its own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import click

from nnkernels._cli.terminal import (
    check_picture,
    device_option,
    echo_json,
    json_option,
    plot_option,
    progress_bar,
    write_picture,
)
from nnkernels._demos import autoencoder as autoencoder_story
from nnkernels._demos import broken_sine as broken_sine_story
from nnkernels._demos import chain as chain_story
from nnkernels._demos import saturation as saturation_story
from nnkernels._demos import sine as sine_story


@click.group()
@json_option
def demo(as_json: bool) -> None:
    """Relive the questions behind this package, in numbers."""


@demo.command()
@click.option("--balanced", is_flag=True, help="Six ones and six zeros, rather than five and seven.")
@device_option
@plot_option("the parameters over the steps")
@json_option
def autoencoder(balanced: bool, device: str | None, plot: Path | None, as_json: bool) -> None:
    """Tell why a 1-1-1 autoencoder does not move."""
    check_picture(plot)
    _tell(autoencoder_story, autoencoder_story.run(balanced=balanced, device=device), plot, as_json)


@demo.command(name="broken-sine")
@device_option
@plot_option("the sine and what both sets of derivatives make of it")
@json_option
def broken_sine(device: str | None, plot: Path | None, as_json: bool) -> None:
    """Tell which derivatives of a posted program are wrong."""
    check_picture(plot)
    _tell(broken_sine_story, broken_sine_story.run(device=device), plot, as_json)


@demo.command()
@click.option(
    "--range", "upper", type=click.FloatRange(min=0, min_open=True), metavar="X", default=1.0, help="Largest x."
)
@click.option("--scale", is_flag=True, help="Standardize x.")
@click.option("--bias", is_flag=True, help="Give the layers biases.")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", default=sine_story.STEPS, help="Steps of one row.")
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", default=0, help="Of the initial weights and the row order."
)
@device_option
@plot_option("the sine and the network's")
@json_option
def sine(
    upper: float,
    scale: bool,
    bias: bool,
    steps: int,
    seed: int,
    device: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Tell why a network does not learn a sine."""
    check_picture(plot)
    with progress_bar("training") as callbacks:
        result = sine_story.run(
            upper, scale=scale, bias=bias, steps=steps, device=device, seed=seed, callbacks=callbacks
        )
    _tell(sine_story, result, plot, as_json)


@demo.command()
@device_option
@plot_option("the slope of the sigmoid")
@json_option
def saturation(device: str | None, plot: Path | None, as_json: bool) -> None:
    """Tell why a gradient is exactly zero."""
    check_picture(plot)
    _tell(saturation_story, saturation_story.run(device=device), plot, as_json)


@demo.command()
@device_option
@plot_option("the outputs for even and odd numbers")
@json_option
def chain(device: str | None, plot: Path | None, as_json: bool) -> None:
    """Tell whether derivatives are right, and what they cannot teach."""
    check_picture(plot)
    _tell(chain_story, chain_story.run(device=device), plot, as_json)


def _tell(module: ModuleType, result: Any, plot: Path | None, as_json: bool) -> None:
    if plot is not None:
        write_picture(module.picture(result), plot)
    if as_json:
        echo_json(result)
    else:
        click.echo(module.story(result))
