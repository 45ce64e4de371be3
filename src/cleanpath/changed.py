"""A network of the catalog with settings of it replaced, as `show` and `audit` take it; never imports torch."""

from collections.abc import Sequence

from cleanpath import settings
from cleanpath.errors import SettingError
from cleanpath.experiment import Experiment, Network
from cleanpath.nn import catalog, own
from cleanpath.paper import recipes


def changed(name: str, changes: Sequence[str]) -> Network:
    """The network of that name with `network.*` settings replaced. Raises `SettingError` for others."""
    if strange := [change for change in changes if not change.startswith("network.")]:
        raise SettingError(f"--set {strange[0]}: a network has the settings network.*; see `cleanpath list settings`")
    base = Experiment(network=catalog.network(name), training=recipes.default())
    network = settings.override(base, changes).network
    assert isinstance(network, Network)
    return own.with_code(network)
