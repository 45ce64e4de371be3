"""The menagerie: small networks whose residual units are known, one per construct the audit must understand."""

from . import additions, changed, functions, further, orders, settings, shortcuts, streams, topologies, transformers
from .case import KINDS, After, Case, Inputs, call

CASES: tuple[Case, ...] = (
    *additions.CASES,
    *shortcuts.CASES,
    *orders.CASES,
    *transformers.CASES,
    *topologies.CASES,
    *streams.CASES,
    *functions.CASES,
    *settings.CASES,
    *changed.CASES,
    *further.CASES,
)

__all__ = ["CASES", "KINDS", "After", "Case", "Inputs", "call"]
