"""What `cleanpath.fix` does on every family of the audit's test list: units mended, refused, the audit afterwards.

    python -m benchmarks.fix_families run [--seconds 600]   # adds what results/fix-families.jsonl lacks
    python -m benchmarks.fix_families                       # prints the table of docs/fixes.md

The networks are those of tests/auditing/expected_units.json, with random weights, as their makers leave them, and MORE
of those with something after the sum, as `cleanpath audit` builds them by name.
"""

import argparse
import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

import cleanpath
from benchmarks.recorded import FOLDER
from cleanpath.auditing.rules.fixes import FIXES
from cleanpath.repair.fixed import Fixed
from cleanpath.targets import resolve
from tests.auditing.test_families import ROWS, build, inputs

RESULTS = FOLDER / "fix-families.jsonl"
FIRST = (
    "hf:Bert",
    "hf:Roberta",
    "hf:Albert",
    "hf:DistilBert",
    "hf:Electra",
    "hf:ResNet",
    "hf:RegNet",
    "torchvision:resnet18",
    "timm:resnet",
    "timm:regnety",
    "timm:skresnet",
    "timm:legacy_se",
    "hf:CTRL",
    "hf:OpenAI",
    "hf:FNet",
    "hf:Mobile",
    "hf:Squeeze",
    "hf:RoFormer",
    "hf:Deberta",
    "hf:Wav2Vec2",
    "hf:Hubert",
    "hf:Bart",
    "torchvision:r3d",
    "torchvision:regnet",
    "hf:",
)
"""Those built with something on the trunk come first, then the small ones."""
MORE = (
    *(
        "hf:autoformer",
        "hf:bart",
        "hf:bert-generation",
        "hf:big_bird",
        "hf:blip",
        "hf:canine",
        "hf:clap",
        "hf:convbert",
    ),
    *("hf:detr", "hf:florence2", "hf:funnel", "hf:git", "hf:hubert", "hf:ibert", "hf:informer", "hf:inkling2"),
    *("hf:jina_embeddings_v3", "hf:longformer", "hf:marian", "hf:mask2former", "hf:maskformer", "hf:mpnet"),
    *("hf:pp_lcnet_v4", "hf:pp_ocrv5_mobile_det", "hf:rt_detr", "hf:sew", "hf:table-transformer", "hf:tapas"),
    *("hf:textnet", "hf:trocr", "hf:unispeech-sat", "hf:upernet", "hf:uvdoc_backbone", "hf:vision-encoder-decoder"),
    *("hf:visual_bert", "hf:wavlm", "hf:xlm", "hf:xlm-roberta", "timm:dla46x_c", "timm:fastvit_t8", "timm:regnetx_002"),
    *("timm:res2next50", "timm:resnest14d", "timm:resnet10t", "timm:xception41p", "torchvision:fcn_resnet50"),
    *("torchvision:mc3_18", "torchvision:quantized_resnet18"),
)
"""Families with something after the sum that the audit's sweep met and the test list does not have."""
MOST = 5
"""So many reasons are told of each code."""
SORTS = (
    *("its forward cannot be read", "what it reads lies inside", "its sum lies inside", "its branch ends with"),
    "a layer or a position stands between the sum and the next unit",
)
"""How reasons begin that differ in names alone."""
FIXABLE = [code for code, one in FIXES.items() if one.safety != "none"]
"""All are named, so that those that are made by name only are made too."""


def run(row: dict[str, Any]) -> dict[str, Any]:
    """One network."""
    begun = time.perf_counter()
    torch.manual_seed(0)
    told: dict[str, Any] = {"target": row["target"]}
    try:
        model, batch = _built(row)
        fixed = cleanpath.fix(model, batch, FIXABLE, unsafe=True)
    except Exception as error:  # noqa: BLE001 (a row of the table)
        return {**told, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return {
        **told,
        "before": _counted(fixed.before),
        "after": _counted(fixed.after),
        **_became(fixed),
        "read": fixed.read,
        "clean_before": sum(unit.clean for unit in fixed.before.units),
        "clean_after": sum(unit.clean for unit in fixed.after.units),
        "units": len(fixed.before.units),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _became(fixed: Fixed) -> dict[str, Any]:
    """What became of the units with a finding that a fix is for, each counted once, and the reasons for those left.

    Of a unit that several follow, some may have been changed and some not: it counts as changed.
    """
    found = {one for one in _places(fixed.before) if one[0] in FIXABLE}
    changed = found & {(one.code, one.found_in) for one in fixed.changes}
    again = _places(fixed.after)
    reasons = {(one.code, one.unit): one.reason[:160] for one in fixed.refused}
    # What is refused for no unit by name is gone with what was mended before, unless it is found again.
    left = {one for one in found - changed if one in reasons or one in again}
    told = dict[str, Counter[str]]()
    for code, unit in left:
        told.setdefault(code, Counter())[reasons.get((code, unit), reasons.get((code, ""), ""))] += 1
    return {
        "mended": dict(Counter(code for code, _ in sorted(found - left - (changed & again)))),
        "still": dict(Counter(code for code, _ in sorted(changed & again))),
        "left": dict(Counter(code for code, _ in sorted(left))),
        "reasons": {code: dict(counts.most_common()) for code, counts in sorted(told.items())},
    }


def _places(profile: cleanpath.Profile) -> set[tuple[str, str]]:
    return {(finding.code, unit) for finding in profile.findings for unit in finding.units or ("",)}


def _counted(profile: cleanpath.Profile) -> dict[str, int]:
    """Units by code: each trunk has findings of its own."""
    counts = Counter[str]()
    for one in profile.findings:
        counts[one.code] += len(one.units)
    return dict(counts)


def _built(row: dict[str, Any]) -> tuple[torch.nn.Module, object]:
    if "config" in row:
        return build(row), inputs(row)
    target = resolve(row["target"])
    return target.module, target.keywords or target.arguments


def rows() -> list[dict[str, Any]]:
    """What was recorded."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else ""
    return sorted((json.loads(line) for line in text.splitlines()), key=lambda row: str(row["target"]))


def table() -> str:
    """Families with something to mend as Markdown, and how many have nothing."""
    lines = [
        "| family | found | mended | changed, still found | left | clean units, before → after of all | afterwards |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    recorded = rows()
    for row in recorded:
        if "failed" in row:
            lines.append(f"| {row['target']} | – | – | – | {row['failed'][:80]} | – | – |")
        elif _found(row):
            clean = f"{row['clean_before']} → {row['clean_after']} of {row['units']}"
            parts = (_found(row), row["mended"], row["still"], row["left"])
            said = (*map(_told, parts), clean, _told(row["after"]))
            lines.append(f"| {row['target']} | {' | '.join(said)} |")
    quiet = sum("failed" not in row and not _found(row) for row in recorded)
    lines.append("")
    lines.append(
        f"{quiet} more have nothing that a fix is for; {len(recorded)} of {len(ROWS) + len(MORE)} families were run."
    )
    return "\n".join([*lines, "", *_why(recorded)])


def _found(row: dict[str, Any]) -> Counter[str]:
    """In how many units there was something that a fix is for."""
    return Counter(row["mended"]) + Counter(row["still"]) + Counter(row["left"])


def _why(recorded: list[dict[str, Any]]) -> Iterator[str]:
    """Why units were left as they were, by code; the most frequent reasons."""
    told = dict[str, Counter[str]]()
    for row in recorded:
        for code, reasons in row.get("reasons", {}).items():
            for reason, count in reasons.items():
                told.setdefault(code, Counter())[_sort(reason)] += count
    for code, counts in sorted(told.items()):
        most = [f"{count}: {reason}" for reason, count in counts.most_common(MOST)]
        rest = counts.total() - sum(count for _, count in counts.most_common(MOST))
        more = [f"{rest} for other reasons"] if rest else []
        yield f"- {code}, {counts.total()} units left as they were. {'; '.join([*most, *more])}."


def _sort(reason: str) -> str:
    """Reasons that differ in names alone are one."""
    return next((f"{begin} …" for begin in SORTS if reason.startswith(begin)), reason)


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{code} {count}" if count else code for code, count in sorted(counts.items())) or "–"


def _order(row: dict[str, Any]) -> int:
    return next((place for place, name in enumerate(FIRST) if row["target"].startswith(name)), len(FIRST))


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["run", "table"], default="table")
    parser.add_argument("--seconds", type=float, default=600)
    asked = parser.parse_args()
    if asked.what == "table":
        print(table())
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    done, end = {row["target"] for row in rows()}, time.monotonic() + asked.seconds
    for row in sorted([*ROWS, *({"target": target} for target in MORE)], key=_order):
        if row["target"] in done or time.monotonic() > end:
            continue
        told = run(row)
        with RESULTS.open("a", encoding="utf-8") as out:
            out.write(json.dumps(told, ensure_ascii=False) + "\n")
        print(
            told["target"],
            told.get("mended"),
            told.get("still"),
            told.get("left"),
            told.get("failed", ""),
            told.get("seconds"),
            flush=True,
        )


if __name__ == "__main__":
    main()
