"""`python -m nnkernels`: the command line, if what it needs is installed."""

from __future__ import annotations


def main() -> None:
    """Run the `nnkernels` command.

    Raises
    ------
    SystemExit
        Always, with the exit code, or with what to install.
    """
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: the command line needs {error.name}: pip install 'nnkernels[cli]'") from None
    from nnkernels._cli.app import app

    app(prog_name="nnkernels")


if __name__ == "__main__":
    main()
