"""`nnkernels bench`: the benchmarks, where they are."""

from __future__ import annotations

import importlib

import click

from nnkernels._errors import NnkernelsError


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Time nnkernels beside its peers, and beside the best C.

    In a clone of the repository: the benchmarks are not part of what is installed. --help lists the options.
    """
    try:
        module = importlib.import_module("benchmarks.__main__")
    except ModuleNotFoundError as error:
        if error.name not in ("benchmarks", "benchmarks.__main__"):
            raise NnkernelsError(f"the benchmarks need {error.name}: pip install 'nnkernels[bench]'") from None
        raise NnkernelsError(
            "the benchmarks are not part of what pip installs: clone the repository, and run "
            "`python -m benchmarks` there"
        ) from None
    module.command.main(args=list(arguments), prog_name="nnkernels bench", standalone_mode=False)
