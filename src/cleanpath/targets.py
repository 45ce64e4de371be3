"""TARGET on the command line: what it names becomes a module and inputs for it.

preresnet110              a network of the catalog
runs/resnet20-digits-s0   a run, with its weights and images of its data
timm:resnet50             random weights; images as small as its declaration allows
torchvision:resnet18
hf:bert                   a model type, configuration class or model class of transformers, built small
hf:path/to/folder         what `save_pretrained` wrote, at its real size
path/to/file.py:factory   a function without arguments that returns an nn.Module, or a module and its inputs
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cleanpath import networks
from cleanpath.changed import changed
from cleanpath.data.sources import load
from cleanpath.errors import RunError, UserError
from cleanpath.nn import catalog, resnet
from cleanpath.records import Run
from cleanpath.targeting import factories, small_configs, small_models, vision_models
from cleanpath.targeting import weights as foreign
from cleanpath.targeting.seeded import seeded

_BATCH = 2
_RUN_BATCH = 8
_MOST_ELEMENTS = 1 << 30
_EXAMPLES = "--input 2x3x224x224, --input int64:1x128 or --input mask=bool:1x128"
_INPUT = re.compile(r"(?:([A-Za-z_]\w*)=)?(?:([a-z]+\d*):)?(\d+(?:[x×]\d+)*)")
_DTYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int32", "int64", "bool", "complex64")
_NAME = re.compile(r"[\w-]+")
_OF_CODE = re.compile(r"(.+\.py|[A-Za-z_][\w.]*):([A-Za-z_]\w*(?:\.\w+)*)")


@dataclass(frozen=True)
class Target:
    """A module as it was built, what to call it with, and how both came about."""

    module: nn.Module
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Input:
    """One --input: NAME=DTYPE:1x128, of which only the sizes must be there."""

    name: str | None
    dtype: torch.dtype
    shape: tuple[int, ...]

    def made(self, generator: torch.Generator, below: int) -> Tensor:
        if self.dtype.is_floating_point or self.dtype.is_complex:
            drawn = torch.float64 if self.dtype is torch.float64 else torch.float32
            wide = self.dtype if self.dtype.is_complex else drawn
            return torch.randn(self.shape, generator=generator, dtype=wide).to(self.dtype)
        if self.dtype is torch.bool:
            return torch.ones(self.shape, dtype=torch.bool)
        return torch.randint(below, self.shape, generator=generator).to(self.dtype)


@dataclass(frozen=True)
class _Request:
    target: str
    inputs: tuple[_Input, ...]
    weights: Path | None
    seed: int
    changes: tuple[str, ...] = ()

    def arguments(self, module: nn.Module) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """The inputs asked for, of numbers that the seed decides."""
        generator = torch.Generator().manual_seed(self.seed)
        below = _vocabulary(module)
        made = [(one.name, one.made(generator, below)) for one in self.inputs]
        positional = tuple(value for name, value in made if name is None)
        return positional, {name: value for name, value in made if name is not None}


def resolve(
    target: str,
    *,
    inputs: Sequence[str] = (),
    weights: Path | None = None,
    seed: int = 0,
    changes: Sequence[str] = (),
) -> Target:
    """The module and the inputs that a target stands for; the global random state is as before afterwards.

    `inputs` are as on the command line: `1x3x224x224`, `int64:1x128`, `attention_mask=int64:1x128`. `changes` are
    settings of a network of the catalog. Raises `UserError` for whatever a user can mend.
    """
    request = _Request(target, tuple(_parsed(text) for text in inputs), weights, seed, tuple(changes))
    if changes and (Path(target).is_dir() or not _NAME.fullmatch(target)):
        raise UserError(f"--set is for networks of the catalog, and {target} is none; see `cleanpath list networks`")
    prefix, colon, name = target.partition(":")
    libraries: dict[str, Callable[[_Request, str], Target]] = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}
    if colon and prefix in libraries:
        package = "transformers" if prefix == "hf" else prefix
        if find_spec(package) is None:
            raise UserError(f"{target} needs {package}; pip install 'cleanpath[models]'")
        try:
            import_module(package)
        except Exception as error:
            raise UserError(f"{package} cannot be imported ({type(error).__name__}: {error})") from error
        found = libraries[prefix](request, name)
    elif Path(target).is_dir() and not (_is_network(target) and not (Path(target) / "experiment.json").is_file()):
        found = _run(request)
    elif match := _OF_CODE.fullmatch(target):
        found = _code(request, match[1], match[2])
    elif target.endswith(".py"):
        raise UserError(f"{target} needs a factory: {target}:{_a_factory(target)}")
    elif "/" in target or "\\" in target:
        raise UserError(f"no run folder {target}; a target is a network, a run, timm:NAME or path/to/file.py:factory")
    else:
        found = _catalog(request)
    return replace(found, name=" --set ".join((target, *changes)))


def _is_network(name: str) -> bool:
    try:
        catalog.network(name)
    except UserError:
        return False
    return True


def _parsed(text: str) -> _Input:
    match = _INPUT.fullmatch(text.strip())
    if match is None:
        raise UserError(f"--input '{text}' is not [NAME=][DTYPE:]SIZES; write {_EXAMPLES}")
    name, dtype, shape = match[1], match[2] or "float32", tuple(int(size) for size in re.split("[x×]", match[3]))
    if dtype not in _DTYPES:
        raise UserError(f"--input '{text}': no dtype '{dtype}'; choose one of {', '.join(_DTYPES)}")
    elements = 1
    for size in shape:
        elements *= size
    if not 0 < elements <= _MOST_ELEMENTS:
        raise UserError(f"--input '{text}' has {elements:,} numbers; must be at least 1 and at most {_MOST_ELEMENTS:,}")
    return _Input(name, getattr(torch, dtype), shape)


def _catalog(request: _Request) -> Target:
    network = changed(request.target, request.changes)
    with seeded(request.seed):
        module = resnet.build(network)
    side = catalog.usual_size(network)
    images = torch.randn(_BATCH, network.in_channels, side, side, generator=torch.Generator().manual_seed(request.seed))
    return _finished(request, module, lambda: ((images,), {}), checked=True)


def _run(request: _Request) -> Target:
    run = Run(Path(request.target))
    experiment = run.experiment
    with seeded(request.seed):
        module = networks.build(experiment.network, seed=request.seed)
    said = ""
    died = request.weights is None and run.post_mortem.is_file()
    if died:
        said, arguments = post_mortem(run, module)
    elif request.weights is None and run.weights.is_file():
        wanted = (run.result or {}).get("weights_sha256")
        if wanted is not None and sha256(run.weights.read_bytes()).hexdigest() != wanted:
            raise RunError(f"{run.weights} is damaged: its SHA-256 is not the one that the run recorded; train again")
        said = foreign.load(module, run.weights)
    elif request.weights is None:
        said = f"the run is {run.status} and has no weights; they are at their start"

    def images() -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        if died:
            return arguments, {}
        held_out = load(experiment.data).held_out
        places = torch.randperm(len(held_out.labels), generator=torch.Generator().manual_seed(request.seed))
        return (held_out.plain(places[:_RUN_BATCH]),), {}

    return _finished(request, module, images, said=said, checked=True)


def post_mortem(run: Run, module: nn.Module) -> tuple[str, tuple[Tensor]]:
    """Give a network the weights that a run had when a value was not finite; the images that it saw then.

    Raises `RunError` if the file is damaged.
    """
    try:
        with safe_open(str(run.post_mortem), framework="pt") as file:
            told = file.metadata()
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"{run.post_mortem} is damaged ({error}); train again") from None
    tested = told["tested"] == "true"
    prefix = "average.module." if tested and "average.n_averaged" in kept else "network."
    module.load_state_dict({n.removeprefix(prefix): value for n, value in kept.items() if n.startswith(prefix)})
    experiment = run.experiment
    images = load(experiment.data)
    if tested:
        module.eval()
        found = images.held_out.plain(torch.arange(min(_RUN_BATCH, len(images.held_out.labels))))
    else:
        found = images.train.drawn(kept["indices"], kept["epochs"], experiment.seed)
    what = "held-out images" if tested else "the batch of that iteration"
    return f"the weights before iteration {told['iteration']}, at which the run diverged, and {what}", (found,)


def _timm(request: _Request, name: str) -> Target:
    module, candidates = vision_models.timm_model(name, request.seed)
    return _image_model(request, module, candidates)


def _torchvision(request: _Request, name: str) -> Target:
    module, candidates = vision_models.torchvision_model(name, request.seed)
    return _image_model(request, module, candidates)


def _image_model(request: _Request, module: nn.Module, candidates: Iterator[Any]) -> Target:
    def images() -> tuple[tuple[Any, ...], dict[str, Tensor]]:
        return vision_models.first_passing(module, candidates, request.target), {}

    return _finished(request, module, images, checked=True)


def _hf(request: _Request, name: str) -> Target:
    folder = Path(name)
    if folder.is_dir():
        module = small_models.from_folder(folder, request.seed)
        held = folder / "model.safetensors"
        if request.weights is None and held.is_file():
            request = replace(request, weights=held)
        return _finished(request, module, lambda: _of_configuration(request, module))
    config_class, model_class = small_models.find(name)
    if request.weights is not None:
        if (request.weights.parent / "config.json").is_file():
            module = small_models.from_folder(request.weights.parent, request.seed, model_class)
        else:
            module = small_models.full(config_class, model_class, request.seed)
        return _finished(request, module, lambda: _of_configuration(request, module))
    given = request.arguments if request.inputs else None
    module, (arguments, keywords), said = small_models.build(config_class, model_class, seed=request.seed, given=given)
    note = f"{model_class.__name__}, {said}; {_described(arguments, keywords)}"
    return Target(module, arguments, dict(keywords), note=note)


def _code(request: _Request, where: str, name: str) -> Target:
    module, given = factories.build(where, name, request.seed)

    def found() -> tuple[tuple[Any, ...], dict[str, Any]]:
        if given is not None:
            return _spread(given)
        declared = vision_models.declared(module, request.seed)
        if declared is not None:
            return vision_models.first_passing(module, declared, request.target), {}
        if small_models.takes_inputs(module):
            return _of_configuration(request, module)
        raise UserError(f"{request.target} does not declare its inputs; say them, such as {_EXAMPLES}")

    return _finished(request, module, found)


def _of_configuration(request: _Request, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Tensor]]:
    call = small_models.inputs(module, request.seed)
    if call is None:
        raise UserError(f"no inputs could be made up for {request.target}; say them, such as {_EXAMPLES}")
    return call[0], dict(call[1])


def _finished(
    request: _Request,
    module: nn.Module,
    inputs: Callable[[], tuple[tuple[Any, ...], Mapping[str, Any]]],
    *,
    said: str = "random weights",
    checked: bool = False,
) -> Target:
    """Load the weights and take the inputs that were asked for, else those that the module declares."""
    if request.weights is not None:
        said = foreign.load(module, request.weights)
    if request.inputs:
        arguments, keywords = request.arguments(module)
        if checked:
            vision_models.check(module, arguments, keywords, request.target)
        return Target(module, arguments, keywords, note=f"{said}; {_described(arguments, keywords)}, as asked")
    found, named = inputs()
    return Target(module, tuple(found), dict(named), note=f"{said}; {_described(found, named)}")


def _spread(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs that a factory returned: a table of keywords, several, or one."""
    if isinstance(given, Mapping):
        return (), dict(given)
    return (tuple(given) if isinstance(given, tuple | list) else (given,)), {}


def _described(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> str:
    said = [_shape(value) for value in arguments] + [f"{name} {_shape(value)}" for name, value in keywords.items()]
    return f"inputs {', '.join(said)}"


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        size = "×".join(map(str, value.shape)) or "scalar"
        return size if value.dtype is torch.float32 else f"{str(value.dtype).removeprefix('torch.')} {size}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_shape(part) for part in value)}]"
    return type(value).__name__


def _vocabulary(module: nn.Module) -> int:
    """What integers stay below: the configuration's vocabulary, else the least table that is no table of types."""
    if hasattr(getattr(module, "config", None), "model_type"):
        return small_configs.vocabulary(module.config)
    sizes = [one.num_embeddings for one in module.modules() if isinstance(one, nn.Embedding)]
    return min((size for size in sizes if size > 16), default=min(sizes, default=2))


def _a_factory(path: str) -> str:
    offered = factories.offers(path)
    return " or :".join(offered[:8]) if offered else "factory, a function without arguments that it does not have yet"
