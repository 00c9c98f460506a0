"""The command line: one file per verb, loaded when it is called. The only rooms that print."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from ..errors import SimcacheError

VERBS: Final = (
    "advise",
    "bill",
    "compare",
    "convert",
    "decide",
    "fit",
    "plan",
    "predict",
    "profiles",
    "providers",
    "replay",
    "report",
    "run",
    "steps",
    "sweep",
    "theory",
    "validate",
)
"""Every verb is a file of this folder whose click command is called ``command``."""
STATUS_BAD_INPUT: Final = 2
STATUS_INTERRUPTED: Final = 130  # 128 + SIGINT
STATUS_READER_GONE: Final = 141  # 128 + SIGPIPE


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __package__).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        with _warnings_in_one_line():
            try:
                return super().invoke(ctx)
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                _silence_stdout()
                raise click.exceptions.Exit(STATUS_READER_GONE) from None

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "simcache",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        for output in (sys.stdout, sys.stderr):
            if isinstance(output, io.TextIOWrapper):
                output.reconfigure(errors="replace")  # a terminal that has no plus-minus sign gets a question mark, not a traceback
        try:
            status = super().main(args, prog_name, complete_var, False, **extra)
            sys.stdout.flush()
        except click.exceptions.Abort:
            status = STATUS_INTERRUPTED
        except click.ClickException as error:
            error.show()
            status = error.exit_code
        except BrokenPipeError:
            _silence_stdout()
            status = STATUS_READER_GONE
        except SimcacheError as error:
            status = _refuse(str(error))
        except OSError as error:
            status = _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(status if isinstance(status, int) else 0)


def _refuse(message: str) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return STATUS_BAD_INPUT


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere: whoever read standard output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="simcache", prog_name="simcache")
def main() -> None:
    """Predict what users will wait and what it will cost, before you deploy: prompt caching, eviction, speculative warming."""
