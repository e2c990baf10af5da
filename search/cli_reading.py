"""Commands that read what there is: front, pick, report, validate, deploy, corrupt, inspect; `cli` registers them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .cli_arguments import RunArgument, SetOption, TableFormat, interruptible, say

__all__ = ["corrupt", "deploy", "front", "inspect", "pick", "report", "validate"]

RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of one run or more.")]
TrialOption = Annotated[int, typer.Option("--trial", min=0, help="Number of a finished trial.")]


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
        say(f"wrote {plot}")
    for line in loaded.remarks if isinstance(loaded, MergedRuns) else ():
        say(line)
    typer.echo(render(frame, loaded.metrics, format.value))


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

        with interruptible():
            choice = choose(loaded, where=where or [], prefer=prefer)
    else:
        choice = loaded.pick(where=where or [], prefer=prefer)
        for line in choice.reasons:
            say(line)
        for line in choice.alternatives:
            say(f"  or {line}")
    say(f"next: forgefront deploy {run} --trial {choice.number} --out deployed")
    typer.echo(choice.number)


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
        say(line)
    typer.echo(file)


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
    with interruptible():
        found = validate_trials(loaded, trial, protocol=protocol, repeats=repeats, say=say)
        for file in found.draw(plots or run / "validation" / "plots"):
            say(f"wrote {file}")
    typer.echo(found.text(format.value))


def deploy(
    run: RunArgument,
    trial: TrialOption,
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle; must not exist or be empty.")],
) -> None:
    """Write a trial's bundle, run it in its runtime on test images, and refuse it if it disagrees."""
    from .deploy import deploy as deploy_trial
    from .run import load_run

    for line in deploy_trial(load_run(run), trial, out):
        say(line)
    typer.echo(out)


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

    with interruptible():
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
            say=say,
        )
    for file in written:
        typer.echo(file)


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

    typer.echo(inspected(candidate, trial=trial, size=size, classes=classes, form=format.value, say=say))
