"""Every block of every tutorial prints what its page shows; see `tutorials.py` for how that is compared."""

import re
from pathlib import Path

import pytest

from tests.tutorials import FOLDER, USUAL, differences, outputs

PAGES = sorted(path.name for path in FOLDER.glob("*.md") if path.name != "README.md")


LONG = (
    "slow-start.md",
    "your-own-unit.md",
    "watch-a-gate-close.md",
    "audit-your-own-model.md",
    "mend-a-broken-network.md",
)


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.slow] if p in LONG else []) for p in PAGES])
def test_what_a_tutorial_shows_is_what_its_blocks_print(page: str, tmp_path: Path) -> None:
    found = [each for output in outputs(FOLDER / page, tmp_path) for each in output.differences()]
    assert not found, "\n".join([*found, f"if that is meant: python -m tests.tutorials {page}"])


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_links_of_a_tutorial_lead_somewhere_and_name_no_machine(page: str) -> None:
    text = (FOLDER / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|usr|Users)/", text)


def test_every_tutorial_stands_in_the_index() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert PAGES
    assert {page for page in PAGES if f"({page})" not in index} == set()


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("rms 0.52 at unit 3", "rms 0.54 at unit 3"),
        ("3.9e-10 of it", "4.0e-10 of it"),
        ("gain  1.1 │█", "gain 1.1  │"),
        ("0.04 0.999", "0.03 1"),
        ("fails 88%", "fails 89%"),
        ("12 passed in 0.31s", "12 passed in 4.00s"),
        ("a\n…\nb 2", "a\nany\nthing\nb 2"),
    ],
)
def test_alike_are_equal_words_with_near_numbers(shown: str, printed: str) -> None:
    assert differences(shown, printed, USUAL) == []


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("rms 0.52 at unit 3", "rms 0.56 at unit 3"),
        ("12 units", "13 units"),
        ("fails 88%", "fails 80%"),
        ("fails 88%", "fails 88"),
        ("56,682 parameters", "56,681 parameters"),
        ("1.5e-10", "1.5e-9"),
        ("0.52", "−0.52"),
        ("clean", "not clean"),
        ("a", ""),
        ("", "a"),
        ("a\n…\nb 2", "a\nb 3"),
        ("one CP204", "one CP205"),
    ],
)
def test_other_words_and_far_numbers_are_told(shown: str, printed: str) -> None:
    assert differences(shown, printed, USUAL)
