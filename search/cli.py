"""The command line: launch, resume, watch, pick, validate and deploy. Text for people on stderr, data on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from ..studies.errors import ForgefrontError, InputError
from .cli_arguments import RunArgument, SetOption, interruptible, say
from .cli_reading import corrupt, deploy, front, inspect, pick, report, validate

__all__ = ["app", "main"]

app = typer.Typer(
    name="forgefront",
    help="Automated compression search for vision models that stay robust.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

TrialsOption = Annotated[int | None, typer.Option("--trials", min=1, help="Trials in all, control and seeds included.")]
TimeoutOption = Annotated[float | None, typer.Option("--timeout", min=0.0, help="Stop asking after this many seconds.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Trials that run at the same time.")]
EngineOption = Annotated[
    str | None,
    typer.Option("--engine", help="serial, processes, or ray (a cluster); by default as workers ask."),
]
StorageOption = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="Database instead of study.db, such as postgresql://host/name."),
]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from ..version import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or the name of a shipped study.")],
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    workers: WorkersOption = None,
    engine: EngineOption = None,
    storage: StorageOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run, when not the study's.")] = None,
    settings: SetOption = None,
) -> None:
    """Launch a study, or go on with it if its run folder exists."""
    from .launch import launch

    overrides = list(settings or [])
    for key, value in {"study.name": name, "storage.url": storage}.items():
        # quoted, so that a name like 2026 stays text
        overrides += [f"{key}={json.dumps(value, ensure_ascii=False)}"] if value is not None else []
    with interruptible():
        launch(study, overrides=overrides, trials=trials, timeout=timeout, workers=workers, engine=engine)


@app.command()
def resume(
    run: RunArgument,
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    workers: WorkersOption = None,
    engine: EngineOption = None,
) -> None:
    """Go on with a run after anything; needs nothing but its folder."""
    from .launch import resume as resume_run

    with interruptible():
        resume_run(run, trials=trials, timeout=timeout, workers=workers, engine=engine)


@app.command()
def worker(
    source: Annotated[
        str, typer.Argument(metavar="STUDY|RUN", help="A study file, a shipped study's name, or a run's folder.")
    ],
    storage: StorageOption = None,
    trials: TrialsOption = None,
    timeout: TimeoutOption = None,
    presumed_dead: Annotated[
        float, typer.Option("--presumed-dead", min=1.0, help="Seconds of silence after which a worker's trial is free.")
    ] = 60.0,
    settings: SetOption = None,
) -> None:
    """Work on a study that is kept on a PostgreSQL server, beside other workers on any machines.

    Each runs one trial at a time until the study holds its trials; none is needed for the others to go on. They share
    the server and the run's folder. A trial whose worker died is taken over; Ctrl-C and SIGTERM give it back at once.
    """
    from .workers.launch import work

    with interruptible():
        work(
            source,
            storage=storage,
            overrides=settings or [],
            trials=trials,
            timeout=timeout,
            presumed_dead=presumed_dead,
        )


@app.command()
def status(run: RunArgument) -> None:
    """Say how far a run is: trials, the running one, front, hypervolume, who holds it."""
    from .run import load_run
    from .status import describe

    for line in describe(load_run(run)):
        typer.echo(line)


for _command in (front, pick, report, validate, deploy, corrupt):
    app.command()(_command)


@app.command()
def studies() -> None:
    """List the studies that ship with Forgefront."""
    from ..studies.load import shipped_descriptions

    for name, description in shipped_descriptions().items():
        typer.echo(f"{name:34s} {description}")


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Study file to write, for example study.toml.")],
) -> None:
    """Write a commented study file to start from."""
    from ..studies.template import template

    if file.exists():
        raise InputError(f"`FILE` must not exist yet; found {file}.")
    if not file.parent.is_dir():
        raise InputError(f"`FILE` must lie in an existing folder; {file.parent} does not exist.")
    try:
        file.write_text(template(file.stem), encoding="utf-8")
    except OSError as error:
        raise InputError(f"`FILE` must be a file that can be written; found {file} ({error.strerror}).") from None
    say(f"wrote {file}; next: forgefront run {file}")


app.command()(inspect)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 2 wrong input, 1 anything else, 130 interrupted."""
    code: object = 1
    try:
        code = app(standalone_mode=False)
    except (InputError, TyperException) as error:
        text = error.format_message() if isinstance(error, TyperException) else str(error)
        for line in text.splitlines():
            say(f"forgefront: {line}")
        code = 2
    except ForgefrontError as error:
        say(f"forgefront: {error}")
    except BrokenPipeError:
        # the reader of our stdout has gone; Python would complain again when it flushes at exit
        sys.stderr.close()
    sys.exit(code if isinstance(code, int) else 0)
