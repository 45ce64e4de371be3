"""The menagerie: small networks whose residual units are known, one per construct the audit must understand."""

from . import additions, orders, shortcuts, topologies, transformers
from .case import KINDS, After, Case, Inputs, call

CASES: tuple[Case, ...] = (
    *additions.CASES,
    *shortcuts.CASES,
    *orders.CASES,
    *transformers.CASES,
    *topologies.CASES,
)

__all__ = ["CASES", "KINDS", "After", "Case", "Inputs", "call"]
