"""The verb `forecast`. No arithmetic; never imports torch by itself."""

from pathlib import Path
from typing import Annotated

import typer

from cleanpath import options
from cleanpath.options import AsJson, DataName, Device, Settings, ToTrain


def forecast(
    target: ToTrain,
    data: DataName = None,
    recipe: Annotated[
        str | None, typer.Option(help="How it would be trained: `list recipes`.", autocompletion=options.recipes)
    ] = None,
    settings: Settings = None,
    seed: Annotated[int | None, typer.Option(help="The seed of weights and order. Default: 0.")] = None,
    init: Annotated[Path | None, typer.Option(metavar="RUN|FILE", help="Begin with these weights.")] = None,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; default: all cores.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say in the time of twenty steps whether a network will train, why, and what would change that.

    Examples: cleanpath forecast resnet110 --set training.lr=0.3; cleanpath forecast timm:resnet18 --data cifar10 --json
    """
    from cleanpath import assemble, devices, forecasted, single
    from cleanpath.grid.local import cores

    changes = [*(settings or []), *([f"data.name={data}"] if data is not None else [])]
    changes += [f"seed={seed}"] if seed is not None else []
    if init is not None:
        init, digest = assemble.weights_of(init)
        changes.append(f"init={digest}")
    experiment = single.experiment_of(target, changes, recipe)
    on = devices.chosen(device)
    found = forecasted.of_experiment(experiment, threads=threads or cores(), device=on, init=init)
    options.show(forecasted.data_of(experiment, found), as_json, lambda: typer.echo(str(found)))
