"""The claims of the paper as data, and of the first one where this one builds on it.

H1 to H13 are the paper's (Sections 1, 3, 4 and 5); H14 to H16 are what it takes over: degradation with depth, and
what depth brings.
"""

from cleanpath.errors import UnknownNameError
from cleanpath.paper.claims import Claim
from cleanpath.paper.hypotheses.depth import DEPTH_CLAIMS
from cleanpath.paper.hypotheses.placements import PLACEMENT_CLAIMS
from cleanpath.paper.hypotheses.preactivation import PREACTIVATION_CLAIMS
from cleanpath.paper.hypotheses.shortcuts import SHORTCUT_CLAIMS

CLAIMS: tuple[Claim, ...] = (*SHORTCUT_CLAIMS, *PLACEMENT_CLAIMS, *PREACTIVATION_CLAIMS, *DEPTH_CLAIMS)

# What each hypothesis is about, in a few words.
HYPOTHESES = {
    "H1": "identity shortcuts are best",
    "H2": "gates and 1×1 convolutions fail by optimisation",
    "H3": "gates depend on their bias",
    "H4": "BN after the addition impedes",
    "H5": "ReLU before the addition harms",
    "H6": "ReLU-only pre-activation changes nothing",
    "H7": "1001 layers need clean paths",
    "H8": "why: the ReLU truncates more in deep networks",
    "H9": "pre-activation regularises",
    "H10": "why: BN before every convolution",
    "H11": "no warm-up is needed",
    "H12": "ResNet-200 overfits on ImageNet",
    "H13": "ResNet-1202 overfits on CIFAR-10",
    "H14": "plain networks degrade with depth, residual ones do not",
    "H15": "depth pays with pre-activation only",
    "H16": "projections help a little",
}


def claim_of(identifier: str) -> Claim:
    """The claim of that name. Raises `UnknownNameError` with the nearest."""
    by_id = {claim.id: claim for claim in CLAIMS}
    if identifier not in by_id:
        raise UnknownNameError("claim", identifier, by_id)
    return by_id[identifier]
