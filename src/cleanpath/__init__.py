"""Build, train and audit residual networks: He, Zhang, Ren and Sun (2016), exactly, and beyond.

Public names load when first used, so that importing the package is quick and never imports torch by itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cleanpath.assemble import build, fit
    from cleanpath.auditing.checking import assert_clean_path
    from cleanpath.auditing.examine import audit
    from cleanpath.auditing.finding import Finding
    from cleanpath.auditing.monitoring import monitor
    from cleanpath.auditing.profile import Profile
    from cleanpath.experiment import Data, Experiment, Foreign, Network, Shortcut, Training
    from cleanpath.forecasting.foresee import forecast
    from cleanpath.forecasting.values import Forecast
    from cleanpath.nn.kinds import unit
    from cleanpath.records import Run
    from cleanpath.repair.mending import fix
    from cleanpath.trained import load
    from cleanpath.training.progress import Callback

_HOMES = {
    "Callback": "training.progress",
    "Data": "experiment",
    "Experiment": "experiment",
    "Foreign": "experiment",
    "Network": "experiment",
    "Profile": "auditing.profile",
    "Run": "records",
    "Shortcut": "experiment",
    "Training": "experiment",
    "Finding": "auditing.finding",
    "Forecast": "forecasting.values",
    "assert_clean_path": "auditing.checking",
    "audit": "auditing.examine",
    "build": "assemble",
    "fit": "assemble",
    "fix": "repair.mending",
    "forecast": "forecasting.foresee",
    "load": "trained",
    "monitor": "auditing.monitoring",
    "unit": "nn.kinds",
}

__all__ = [
    "Callback",
    "Data",
    "Experiment",
    "Finding",
    "Forecast",
    "Foreign",
    "Network",
    "Profile",
    "Run",
    "Shortcut",
    "Training",
    "assert_clean_path",
    "audit",
    "build",
    "fit",
    "fix",
    "forecast",
    "load",
    "monitor",
    "unit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cleanpath' has no attribute '{name}'")
    return getattr(import_module(f"cleanpath.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
