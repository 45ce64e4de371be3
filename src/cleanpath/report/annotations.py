"""Findings for a pull request: Markdown, and annotations of source lines on GitHub. Never imports torch."""

from collections.abc import Iterator

from cleanpath.auditing.finding import Finding, Judgement
from cleanpath.auditing.profile import Profile
from cleanpath.auditing.text import number, places

LEVELS = {"error": "error", "warning": "warning", "note": "notice"}
MOST = 10
"""Annotations of one level that GitHub shows."""


def github(profile: Profile, judgement: Judgement) -> str:
    """One workflow command per finding and class of the units concerned, at its source line, worst first; the count."""
    sources = {unit.name: unit.source for unit in profile.units}
    shown = [
        line
        for level in LEVELS.values()
        for line in [
            line for one in judgement.findings if LEVELS[one.severity] == level for line in _annotations(one, sources)
        ][:MOST]
    ]
    return "\n".join([*shown, f"cleanpath: {judgement.count()}"])


def _annotations(finding: Finding, sources: dict[str, str]) -> Iterator[str]:
    by_source = dict[str, list[str]]()
    for unit in finding.units:
        by_source.setdefault(sources.get(unit, ""), []).append(unit)
    for source, units in by_source.items() or [("", list[str]())]:
        file, _, line = source.rpartition(":")
        place = f"file={_property(file)},line={line}," if file else ""
        where = f" [{places(units)}]" if units else ""
        text = f"{finding.sentence}{where}. {finding.remedy} ({finding.reference})"
        yield f"::{LEVELS[finding.severity]} {place}title={_property(f'{finding.code} {finding.name}')}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def markdown(name: str, profile: Profile, judgement: Judgement) -> str:
    """The verdict, a table of findings, what is ignored, what was not seen."""
    return "\n".join(_markdown(name, profile, judgement))


def _markdown(name: str, profile: Profile, judgement: Judgement) -> Iterator[str]:
    yield f"**{_cell(name)}**: {_cell(profile.verdict)} ({judgement.count()})"
    if judgement.findings:
        yield ""
        yield "| code | severity | finding | units | measured | expected | remedy |"
        yield "| --- | --- | --- | --- | --: | --- | --- |"
    for one in judgement.findings:
        cells = (one.code, one.severity, one.sentence, places(one.units), number(one.measured))
        yield f"| {' | '.join((*map(_cell, cells), _cell(one.expected), _cell(one.remedy)))} |"
    for entry in judgement.ignored:
        yield f"\nIgnored: {entry.finding.code}: {_cell(entry.reason)}"
    if profile.not_seen:
        yield f"\n{len(profile.not_seen)} things were not seen; `cleanpath audit` lists them."


def _cell(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(escaped.split())
