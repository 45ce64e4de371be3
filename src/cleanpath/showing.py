"""The verb `show`: networks, tables, recipes, data sets, runs. No arithmetic; never imports torch by itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cleanpath import options
from cleanpath.errors import SettingError, UserError
from cleanpath.options import AsJson, Settings

_ROWS, _EPOCHS, _CLASSES = 3, 4, 10


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A network, a table, a recipe, a data set (digits, cifar10, folder:PATH, …) or a run folder.",
            autocompletion=options.shown,
        ),
    ],
    size: Annotated[
        int | None, typer.Option(help="Pixels of an image's side; default 32, ImageNet 224.", min=1)
    ] = None,
    every: Annotated[bool, typer.Option("--all", "-v", help="Every unit, class and file that is wrong.")] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Of a data set: images beside their augmentations.")
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Print a network's units, a table as the paper has it, a recipe, a data set and what is wrong with it, or a run.

    Examples: cleanpath show preresnet164; cleanpath show folder:photos --picture photos.png
    """
    from cleanpath.paper import recipes
    from cleanpath.paper.tables import RECIPES
    from cleanpath.report import terminal

    if name in options.DATA or name.startswith(("folder:", "imagenet:")):
        _data(name, settings or (), every=every, picture=picture, as_json=as_json)
        return
    if picture is not None:
        raise UserError(f"--picture is for data sets, and {name} is none; see `cleanpath list data`")
    if settings and (name in RECIPES or name in recipes.RECIPES or Path(name).is_dir()):
        raise UserError(f"--set is for data sets and networks, and {name} is neither; see `cleanpath list networks`")
    if name in RECIPES:
        from cleanpath.paper.published import published_table

        table = published_table(name)
        options.show(table.to_data(), as_json, lambda: terminal.print_published(table))
    elif name in recipes.RECIPES:
        from cleanpath.report import listing

        found = listing.recipe_data(name)
        options.show(found, as_json, lambda: terminal.print_recipe(found))
    elif Path(name).is_dir():
        from cleanpath.records import Run

        run = Run(Path(name))
        options.show(run.to_data(), as_json, lambda: terminal.print_run(run))
    else:
        from cleanpath.changed import changed
        from cleanpath.nn import catalog, summary
        from cleanpath.nn.summary_values import to_data

        network = changed(name, settings or ())
        summed = summary.summarise(network, size or catalog.usual_size(network))
        options.show(to_data(summed, name), as_json, lambda: terminal.print_network(name, summed, every=every))


def _data(name: str, changes: Sequence[str], *, every: bool, picture: Path | None, as_json: bool) -> None:
    from cleanpath import settings, watch
    from cleanpath.experiment import Experiment
    from cleanpath.nn import catalog
    from cleanpath.paper import recipes
    from cleanpath.report import data_sheet

    if strange := [change for change in changes if not change.startswith("data.")]:
        raise SettingError(f"--set {strange[0]}: a data set has the settings data.*; see `cleanpath list settings`")
    if picture is not None and (picture.suffix != ".png" or not picture.parent.is_dir()):
        raise UserError(f"{picture} is no .png in a folder that is there")
    base = Experiment(network=catalog.network("preresnet20"), training=recipes.default())
    data = settings.override(base, [f"data.name={name}", *changes]).data
    from cleanpath.data import inspection

    with watch.Counting("images") as counting:
        found = inspection.inspection(data, every=every, progress=counting.tell)
    options.show(found, as_json, lambda: data_sheet.show(found, every=every))
    if picture is not None:
        samples, side = inspection.samples(data, classes=_CLASSES, rows=_ROWS, epochs=_EPOCHS)
        data_sheet.draw(samples, side, picture)
        typer.echo(f"picture: {picture}", err=True)
