"""`assert_clean_path`: an audit as a test, which fails with the finding as its message."""

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from cleanpath.auditing.examine import Loss, audit
from cleanpath.auditing.finding import Finding
from cleanpath.auditing.judging import check_severity
from cleanpath.auditing.profile import Profile


def assert_clean_path(
    model: nn.Module,
    batch: object,
    *,
    fail_on: str = "warning",
    ignore: Sequence[str] = (),
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
) -> Profile:
    """Fail with an `AssertionError` that tells the findings of severity `fail_on` or worse; else return the profile.

    `ignore` holds `CODE=reason` and `CODE:UNIT=reason`. A network in which no residual unit is found fails too.
    """
    check_severity(fail_on)
    profile = audit(model, batch, loss=loss, optimizer=optimizer)
    judgement = profile.judged(ignore)
    found = judgement.at_least(fail_on)
    if found:
        told = "\n".join(map(message, found))
        raise AssertionError(f"the clean path of {type(model).__name__} is not clean: {judgement.count()}\n{told}")
    if not profile.units:
        raise AssertionError(f"nothing to assert in {type(model).__name__}: {profile.verdict}")
    return profile


def message(finding: Finding) -> str:
    """One finding in two lines: what and where, then what to do."""
    where = f" in {', '.join(finding.units[:3])}{' …' if len(finding.units) > 3 else ''}" if finding.units else ""
    return f"{finding.code} {finding.severity}{where}: {finding.sentence}\n    {finding.remedy}; {finding.reference}"
