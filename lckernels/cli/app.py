"""The app of the command line; each module in commands/ is one command, named like the module."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lckernels.cli import commands
from lckernels.cli.console import print_error
from lckernels.errors import InputError
from lckernels.version import __version__

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # click's UsageError, of the click that typer has


def make_app() -> typer.Typer:
    """The app with a command for each module in the folder commands/, from its function of the same name."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Searches and encodes texts of any length with an encoder built for short ones, runs a model's "
        "task over them, and measures how well a decoder predicts a text.",
    )
    app.callback()(_options)
    for name in sorted(module.name for module in iter_modules(commands.__path__)):
        command = getattr(import_module(f"{commands.__name__}.{name}"), name)
        app.command(name, cls=_Command)(_with_input_errors(command))
    return app


def _print_version(requested: bool) -> None:
    if requested:
        print(f"lckernels {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """The options of `lckernels` itself."""


class _Command(TyperCommand):
    """A command whose bad arguments are one sentence; where one is missing, all are named in their order."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except _USAGE_ERROR as error:
            if getattr(getattr(error, "param", None), "param_type_name", None) == "argument":
                usage = " ".join(self.collect_usage_pieces(ctx))
                print_error(f"{ctx.info_name}: got too few arguments; expected {usage}")
            else:
                print_error(f"{ctx.info_name}: {error.format_message().rstrip('.')}")
            raise typer.Exit(2) from None


def _with_input_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Bad input, a missing extra or backend end the command with one sentence on stderr and exit code 2."""

    @wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        from lckernels.backends.registry import BackendError

        try:
            _check_environment()
            command(*args, **kwargs)
        except (InputError, ImportError, BackendError) as error:
            print_error(str(error))
            raise typer.Exit(2) from None

    return run


def _check_environment() -> None:
    """Raises InputError for a wrong setting in the environment variable LCKERNELS."""
    from lckernels.backends import registry

    try:
        registry.settings()
    except ValueError as error:
        raise InputError(str(error)) from None


app = make_app()
