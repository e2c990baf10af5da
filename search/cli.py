"""The command line: launch, resume, watch, pick, validate and deploy. Text for people on stderr, data on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from typer.exceptions import TyperException

from ..studies.errors import ForgefrontError, InputError

__all__ = ["app", "main"]

app = typer.Typer(
    name="forgefront",
    help="Automated compression search for vision models that stay robust.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class TableFormat(StrEnum):
    """How a table is printed."""

    table = "table"
    csv = "csv"
    json = "json"


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, for example runs/digits.")]
RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of one run or more.")]
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
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the study file.")
]
TrialOption = Annotated[int, typer.Option("--trial", min=0, help="Number of a finished trial.")]


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
    with _interruptible():
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

    with _interruptible():
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

    with _interruptible():
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


@app.command()
def front(
    runs: RunsArgument,
    format: Annotated[TableFormat, typer.Option("--format", help="Form of the table on stdout.")] = TableFormat.table,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Also draw to this PNG, PDF or SVG: every pair of objectives, parallel coordinates, hypervolume.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every trial, not only the front.")] = False,
) -> None:
    """Print the feasible non-dominated trials, of one run or of several together.

    The column "like" names the members that lie within two standard errors of one in every objective: a choice between
    them is one by chance. Several runs must have the same objectives. Their values are compared as they stand;
    corruption error, compression ratio and latency are relative to each run's own dense control.
    """
    from .merged_front import MergedRuns
    from .run import load_run
    from .tables import render

    opened = [(path, load_run(path)) for path in runs]
    loaded = opened[0][1] if len(opened) == 1 else MergedRuns(opened)
    frame = loaded.trials() if every else loaded.front()
    if plot is not None:
        loaded.plot_front(plot)
        _say(f"wrote {plot}")
    for line in loaded.remarks if isinstance(loaded, MergedRuns) else ():
        _say(line)
    typer.echo(render(frame, loaded.metrics, format.value))


@app.command()
def pick(
    run: RunArgument,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="A condition, such as 'latency_ms<=2'; may be repeated.")
    ] = None,
    prefer: Annotated[
        str,
        typer.Option(
            "--prefer",
            help="knee, balanced, hypervolume, weights: accuracy=2,mce=1, or a place on the front: "
            "pseudo-weights=accuracy:0.5,mce:0.5.",
        ),
    ] = "knee",
    interactive: Annotated[bool, typer.Option("--interactive", help="Narrow the front down on the terminal.")] = False,
) -> None:
    """Choose one trial of the front and say why; its number goes to stdout."""
    from .run import load_run

    loaded = load_run(run)
    if interactive:
        from .choice_dialogue import choose

        with _interruptible():
            choice = choose(loaded, where=where or [], prefer=prefer)
    else:
        choice = loaded.pick(where=where or [], prefer=prefer)
        for line in choice.reasons:
            _say(line)
        for line in choice.alternatives:
            _say(f"  or {line}")
    _say(f"next: forgefront deploy {run} --trial {choice.number} --out deployed")
    typer.echo(choice.number)


@app.command()
def report(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file to write; by default RUN/report.html.", metavar="FILE")
    ] = None,
) -> None:
    """Write one HTML file that shows the whole run, readable offline and on a phone; its path goes to stdout."""
    from .report import write_report
    from .run import load_run

    file = out or run / "report.html"
    for line in write_report(load_run(run), file):
        _say(line)
    typer.echo(file)


@app.command()
def validate(
    run: RunArgument,
    trial: Annotated[
        list[int] | None, typer.Option("--trial", min=0, help="Trials to score; by default the whole front.")
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Test images to score on; by default all.")
    ] = None,
    corruptions: Annotated[
        str, typer.Option("--corruptions", help="published (15), extra (4), all, none, or names: fog,snow.")
    ] = "published",
    attack: Annotated[
        str, typer.Option("--attack", help="pgd (50 steps, 10 restarts), apgd, autoattack or none.")
    ] = "pgd",
    epsilon: Annotated[
        str | None, typer.Option("--epsilon", help="Radius of the attack, such as 8/255; by default the study's.")
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option("--archive", help="A -C archive to read corrupted images from, instead of making them."),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="Trainings of each to score, under seeds of their own; their means.")
    ] = 1,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", metavar="DIR", help="Folder of the pictures; by default RUN/validation/plots."),
    ] = None,
    format: Annotated[TableFormat, typer.Option("--format", help="Form of the table on stdout.")] = TableFormat.table,
) -> None:
    """Score trials by the published protocol on the test split, which the search never saw, beside controls.

    Fifteen corruptions at five severities, PGD with 50 steps and 10 restarts, an audit against false robustness, and
    the study's own objectives. With --repeats each is trained again under other seeds, so that standard errors and
    differences count what chance in training does. Every step is kept as soon as it is measured: after Ctrl-C, a crash
    or a reboot the same command goes on where it stopped.
    """
    from .run import load_run
    from .validate import validate as validate_trials
    from .validation.protocol import protocol_of

    loaded = load_run(run)
    protocol = protocol_of(
        loaded.study, images=images, corruptions=corruptions, attack=attack, epsilon=epsilon, archive=archive
    )
    with _interruptible():
        found = validate_trials(loaded, trial, protocol=protocol, repeats=repeats, say=_say)
        for file in found.draw(plots or run / "validation" / "plots"):
            _say(f"wrote {file}")
    typer.echo(found.text(format.value))


@app.command()
def deploy(
    run: RunArgument,
    trial: TrialOption,
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle; must not exist or be empty.")],
) -> None:
    """Write a trial's bundle, run it in its runtime on test images, and refuse it if it disagrees."""
    from .deploy import deploy as deploy_trial
    from .run import load_run

    for line in deploy_trial(load_run(run), trial, out):
        _say(line)
    typer.echo(out)


@app.command()
def corrupt(
    source: Annotated[
        str, typer.Argument(metavar="STUDY|RUN", help="A study file, a shipped study's name, or a run's folder.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the arrays: CORRUPTION.npy and labels.npy as in CIFAR-10-C.")
    ] = None,
    split: Annotated[
        Literal["test", "validation", "train"],
        typer.Option("--split", help="Whose images; with validation those that trials are scored on."),
    ] = "test",
    images: Annotated[int | None, typer.Option("--images", min=1, help="How many; by default all.")] = None,
    corruptions: Annotated[
        str, typer.Option("--corruptions", help="published, extra, all, or names with commas.")
    ] = "published",
    severities: Annotated[str, typer.Option("--severities", help="Some of 1–5, with commas.")] = "1,2,3,4,5",
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Also draw a contact sheet to this PNG.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of the random numbers; by default the study's.")
    ] = None,
    frost: Annotated[
        Path | None, typer.Option("--frost", help="Folder of textures for frost; by default the built-in ones.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Write a study's images, corrupted, and a contact sheet; goes on where it stopped.

    They are those of the test split unless --split says otherwise; trials are scored on those of --split validation.
    """
    from .corrupt import corrupt as corrupt_images

    with _interruptible():
        written = corrupt_images(
            source,
            out,
            split=split,
            images=images,
            corruptions=corruptions,
            severities=severities,
            sheet=sheet,
            seed=seed,
            frost=frost,
            overrides=settings or [],
            say=_say,
        )
    for file in written:
        typer.echo(file)


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
    _say(f"wrote {file}; next: forgefront run {file}")


@app.command()
def inspect(
    candidate: Annotated[
        str,
        typer.Argument(
            metavar="CANDIDATE",
            help="A trial's folder, a RUN with --trial, a deployed bundle, or a model: resnet20, module:function, …",
        ),
    ],
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="Number of a trial of the run.")] = None,
    size: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="Input shape of a model; by default 3x32x32.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=1, help="Number of classes of a model; by default 10.")
    ] = None,
    format: Annotated[TableFormat, typer.Option("--format", help="Form of the table on stdout.")] = TableFormat.table,
) -> None:
    """Show layer by layer what is kept of a candidate and what it costs, or what a model has."""
    from .inspection import inspect as inspected

    typer.echo(inspected(candidate, trial=trial, size=size, classes=classes, form=format.value, say=_say))


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        # typer would turn it into the same exit code without a word
        _say(f"forgefront: interrupted; {interrupt}" if str(interrupt) else "forgefront: interrupted.")
        raise typer.Exit(130) from None


def _say(line: str) -> None:
    typer.echo(line, err=True)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 2 wrong input, 1 anything else, 130 interrupted."""
    code: object = 1
    try:
        code = app(standalone_mode=False)
    except (InputError, TyperException) as error:
        text = error.format_message() if isinstance(error, TyperException) else str(error)
        for line in text.splitlines():
            _say(f"forgefront: {line}")
        code = 2
    except ForgefrontError as error:
        _say(f"forgefront: {error}")
    except BrokenPipeError:
        # the reader of our stdout has gone; Python would complain again when it flushes at exit
        sys.stderr.close()
    sys.exit(code if isinstance(code, int) else 0)
