"""The healthy network beside an audited one: as deep, clean, and made without disturbing anything."""

import math
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from cleanpath.auditing.profile import Profile
from cleanpath.reference import reference_for
from tests.report.audit_example import chain, unit


def shaped(*shapes: tuple[int, ...]) -> Profile:
    return Profile(verdict="", units=tuple(replace(unit(f"u{at}"), shape=shape) for at, shape in enumerate(shapes)))


def test_a_network_of_images_is_as_deep_clean_and_widens_where_the_other_does() -> None:
    profile = shaped((2, 256, 56, 56), (2, 256, 56, 56), (2, 512, 28, 28), (2, 1024, 14, 14), (2, 1024, 14, 14))
    found = reference_for(profile)
    assert found is not None
    assert found.verdict.startswith("clean: 5 residual units")
    assert [one.shape[1] for one in found.units] == [16, 16, 32, 64, 64]
    assert [one.changes_shape for one in found.units] == [False, False, True, True, False]
    assert [one.shape[-1] for one in found.units] == [16, 16, 8, 4, 4]
    gains = [one.measurements.direct_gain for one in found.units if not one.changes_shape]
    assert gains == pytest.approx([1.0] * 3, abs=1e-6)


def test_a_network_of_sequences_has_two_units_a_layer() -> None:
    found = reference_for(shaped(*[(2, 128, 768)] * 6))
    assert found is not None
    assert found.verdict.startswith("clean: 6 residual units")
    assert {one.shape[-1] for one in found.units} == {64}
    assert all(one.order == "pre" for one in found.units)


@pytest.mark.parametrize("profile", [Profile(verdict=""), shaped((2, 16)), shaped(())])
def test_there_is_none_for_what_is_neither(profile: Profile) -> None:
    assert reference_for(profile) is None


def test_units_inside_others_do_not_count() -> None:
    units = chain(4)
    nested = replace(units[2], name="inner", parent=units[1].name)
    found = reference_for(Profile(verdict="", units=(*units, nested)))
    assert found is not None
    assert len(found.units) == 4


def test_it_is_the_same_each_time_and_leaves_the_generators_alone() -> None:
    profile = shaped(*[(2, 16, 8, 8)] * 3)

    def state() -> tuple[object, ...]:
        drawn = np.random.get_state()[1]  # type: ignore[index]  # noqa: NPY002
        return torch.get_rng_state().tolist(), random.getstate(), list(drawn), torch.get_num_threads()

    before = state()
    one, other = reference_for(profile), reference_for(profile)
    assert one == other
    assert state() == before


def test_a_network_that_narrows_is_no_trouble() -> None:
    found = reference_for(shaped((2, 8, 4, 4), (2, 64, 2, 2), (2, 8, 16, 16), (2, 4, 9, 16, 16)))
    assert found is not None
    assert len(found.units) == 4


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 512, 56, 56), (2, 128, 768)])
def test_a_thousand_units_take_less_than_half_a_minute(shape: tuple[int, ...]) -> None:
    start = time.monotonic()
    found = reference_for(shaped(*[shape] * 1000))
    assert found is not None
    assert len(found.units) == 1000
    assert math.isfinite(found.units[0].measurements.gradient_rms or math.nan)
    assert time.monotonic() - start < 30
