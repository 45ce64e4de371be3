"""Write the generated parts of the READMEs: what stands between `<!-- begin: NAME -->` and `<!-- end -->`.

    python docs/generate.py          write
    python docs/generate.py --check  say what is out of date, and exit with 1

The tables come from `results/`: each file is what `cleanpath reproduce … --json` printed, and says of which runs;
`audit-sweep.jsonl` is what `benchmarks/audit_sweep.py` wrote.
"""

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import generate_fixes

from cleanpath import estimate, meanings
from cleanpath.auditing import finding, judging, profile, values
from cleanpath.forecasting.rule import the_rule
from cleanpath.grid import plan
from cleanpath.nn import beyond as nn_beyond
from cleanpath.nn import catalog, kinds, layers
from cleanpath.nn import shortcut as nn_shortcut
from cleanpath.nn import streams as nn_streams
from cleanpath.paper.claims import QUANTITIES, Claim
from cleanpath.paper.hypotheses import CLAIMS, HYPOTHESES
from cleanpath.paper.published import published_table
from cleanpath.paper.scales import PAPER_NETWORKS, SCALES, Scale
from cleanpath.paper.tables import RECIPES, experiments
from cleanpath.paper.verdicts import seeds_needed
from cleanpath.repair import fixed
from cleanpath.report.claimed import tally, verdicts_of
from cleanpath.report.claimed import to_markdown as verdicts_in_markdown
from cleanpath.report.page import answer
from cleanpath.report.table import DIVERGED, FINISHED, Table, count, from_data, number, spread
from cleanpath.report.table_text import to_markdown
from cleanpath.reproduction import reproduction

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "README.zh.md",
    "docs/quick-scale.md",
    "docs/audit.md",
    "docs/audit-sweep.md",
    "docs/beyond.md",
    "docs/findings.md",
    "docs/fixes.md",
    *(f"docs/fixes/{code}.md" for code in generate_fixes.FIXED),
    "docs/forecast.md",
    "docs/gallery.md",
    "docs/reliability.md",
    "docs/training.md",
    "docs/memory.md",
    "docs/parallel.md",
    "docs/gpu.md",
    "docs/claims.md",
    "docs/reproduce.md",
    "docs/results.md",
    "benchmarks/README.md",
)
_BLOCK = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables() -> str:
    """Both tables with the demo's seed in a column of its own, what they come to, and what differs from the paper."""
    recorded = from_data(_recorded("quick"))
    found = [table for table in recorded if table.name in ("table1", "table2")]
    deviations = "\n".join(f"- {line}" for line in dict.fromkeys(line for table in found for line in table.deviations))
    parts = (f"{_table(table)}\n{' '.join(answer(table))}\n" for table in found)
    return "\n".join(parts) + f"\n{deviations}\n\n{tally(verdicts_of(recorded), recorded)}\n"


def _table(table: Table) -> str:
    head = ["row", "column", "paper", "seed 0", "median", "mean ± std", "n", "status"]
    lines = [head, ["---", "---", *["--:"] * 5, "---"]]
    for c in table.cells:
        first = next(seed for seed in c.seeds if seed.seed == 0)
        seed_0 = "diverged" if first.error is None else f"{first.error:.1f}"
        numbers = [number(c.paper, 2), seed_0, number(c.median, 1), spread(c), count(c)]
        lines.append([c.label, c.column, *numbers, c.status])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"**{table.name}: {table.title}** (paper: {table.quantity})\n\nOurs: {table.protocol}\n\n{body}\n"


def choice() -> str:
    """The settings that were compared for the quick scale: one column of errors each."""
    settings = ("chosen", "longer", "deeper")
    columns = {
        name: {
            (cell.row, cell.column): cell
            for table in from_data(_recorded(f"choice/{name}"))
            for cell in table.cells
            if cell.n
        }
        for name in settings
    }
    lines = [["row", "paper", *settings], ["---", *["--:"] * (len(settings) + 1)]]
    for key, cell in columns["chosen"].items():
        errors = [columns[name][key].median for name in settings]
        lines.append([cell.label, number(cell.paper, 2), *("diverged" if e is None else f"{e:.1f}" for e in errors)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def gates() -> str:
    """The gated rows with gates in every unit, beside the chosen setting."""
    every, chosen = (
        {cell.row: cell for cell in from_data(_recorded(name))[0].cells} for name in ("choice/gates", "choice/chosen")
    )
    lines = ["| row | gates in every unit | where the width stays |", "| --- | --: | --: |"]
    for row, cell in every.items():
        if "gating" in row:
            lines.append(f"| {cell.label} | {number(cell.median, 1)} | {number(chosen[row].median, 1)} |")
    return "\n".join(lines) + "\n"


def _recorded(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return data


def command(*arguments: str) -> str:
    """A command of ours and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "cleanpath", *arguments], check=True, capture_output=True, text=True, cwd=ROOT
    )
    body = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    return f"```console\n$ cleanpath {' '.join(arguments)}\n{body}\n```\n"


def measurements() -> str:
    """The numbers of a unit, from the source."""
    lines = ["| field | what |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| `{name}` | {said} |" for name, said in _fields(values.Measurements))]) + "\n"


def document() -> str:
    """Every field of a profile by its path in the document, from the source."""
    rows = (
        *(("", profile.Profile), ("units[].", values.UnitRow), ("units[].h.", values.ShortcutRow)),
        *(("units[].branch.", values.BranchRow), ("units[].f.", values.AfterRow)),
        *(("network.", values.NetworkRow), ("network.optimizer.", values.OptimizerRow)),
        *(("units[].before.", values.BeforeRow), ("not_seen[].", values.NotSeen), ("findings[].", finding.Finding)),
    )
    lines = ["| path | what |", "| --- | --- |"]
    for prefix, row in rows:
        lines += [f"| `{prefix}{name}` | {said} |" for name, said in _fields(row)]
    lines.append("| `network.path_gains` | the matrix of direct-path gains: row l, column L |")
    return "\n".join(lines) + "\n"


def _fields(row: type) -> list[tuple[str, str]]:
    """The fields of a dataclass with the sentence that follows each in the source."""
    body = ast.parse(inspect.getsource(row)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = []
    for node, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            said = str(following.value.value) if told else ast.unparse(node.annotation)  # type: ignore[union-attr]
            found.append((node.target.id, said.replace("|", "\\|").replace("\n", " ")))
    return found


def sweep(*arguments: str) -> str:
    """What the results of the sweep say."""
    asked = [sys.executable, "-m", "benchmarks.sweep_summary", *arguments]
    return subprocess.run(asked, check=True, capture_output=True, encoding="utf-8", cwd=ROOT).stdout


def speed(*arguments: str) -> str:
    """What was recorded of speed and memory."""
    asked = [sys.executable, "-m", *arguments]
    return subprocess.run(asked, check=True, capture_output=True, encoding="utf-8", cwd=ROOT).stdout


def rules() -> str:
    """Every rule's page."""
    parts = (f"## {one.code} {one.name}\n\n{judging.page_text(one)}" for one in judging.every_rule())
    return "\n" + "\n".join(parts) + "\n"


def fix_document() -> str:
    """Every field of a fix by its path in the document, from the source."""
    rows = (("", fixed.Fixed), ("changes[].", fixed.Change), ("refused[].", fixed.Refusal))
    lines = ["| path | what |", "| --- | --- |"]
    for prefix, row in (*rows, ("differences[].", fixed.OutputDifference)):
        lines += [f"| `{prefix}{name}` | {said} |" for name, said in _fields(row) if name != "model"]
    return "\n".join(lines) + "\n"


def rates() -> str:
    """On how many healthy networks and on how many rows of the tables each rule fires."""
    healthy, rows = ([r for r in _rates() if r["target"].startswith("table") is table] for table in (False, True))
    lines = [
        "| code | finding | healthy networks | as error | rows of Tables 1 and 2 |",
        "| --- | --- | --: | --: | --: |",
    ]
    for one in judging.every_rule():
        fired = [
            _worst(said) for row in healthy if (said := [s for code, s, *_ in row["findings"] if code == one.code])
        ]
        on_rows = sum(any(code == one.code for code, *_ in row["findings"]) for row in rows)
        share = f"{len(fired)} ({len(fired) / len(healthy):.1%})" if fired else "0"
        lines.append(f"| {one.code} | {one.name} | {share} | {fired.count('error')} | {on_rows} |")
    wrong = sum(any(severity == "error" for _, severity, *_ in row["findings"]) for row in healthy)
    total = f"{len(healthy)} healthy networks with residual units, {len(rows)} rows of the tables. "
    return "\n".join(lines) + f"\n\n{total}With an error: {wrong} networks ({wrong / len(healthy):.1%}).\n"


def _worst(severities: Sequence[str]) -> str:
    return min(severities, key=finding.SEVERITIES.index)


def rates_tables() -> str:
    """The findings of every row of Tables 1 and 2, beside the paper's number."""
    lines = ["| table | row | network | paper, % | findings at the start |", "| --- | --- | --- | --: | --- |"]
    for row in _rates():
        name, key, column = (*row["target"].split("/"), "", "")[:3]
        if name in RECIPES:
            paper = published_table(name).cells.get((key, column))
            said = ", ".join(f"{code} {severity}" for code, severity, *_ in row["findings"]) or "none"
            label = RECIPES[name].row(key).words
            lines.append(f"| {name} | {label} | {column} | {number(paper, 2)} | {said} |")
    return "\n".join(lines) + "\n"


def gallery() -> str:
    """Well-known networks: drawing, verdict, numbers and findings, from `results/gallery.json`."""
    lines = list[str]()
    part = ""
    for entry in _listed("gallery"):
        if entry["part"] != part:
            part = entry["part"]
            lines.append(f"\n## {part}\n")
        lines += [f"### {entry['target']}\n", f"{entry['words']}. {entry['parameters']:,} parameters.\n"]
        if "drawing" in entry:
            alternative = f"The unit {entry['drawn']} of {entry['target']}, drawn"
            lines.append(f'<img src="gallery/{entry["drawing"]}" alt="{alternative}" align="right">\n')
        lines.append(f"**{entry['verdict'][:1].upper()}{entry['verdict'][1:]}.**\n")
        if "drawing" in entry:
            lines.append(
                f"- drawn: `{entry['drawn']}`; {entry['times']} of {entry['units']} units are built like it"
                + (
                    f"\n- the direct path, every branch cut, carries {entry['direct']:.2g} of the gradient from the "
                    "last unit to the first"
                    if entry["direct"] is not None
                    else ""
                )
            )
        lines += [
            f"- [{code}](findings.md#{code.lower()}-{name}) {severity}: {sentence}"
            for code, name, severity, sentence in entry["findings"]
        ]
        lines += [] if entry["findings"] else ["- no findings"]
        lines.append('\n<br clear="both">\n')
    return "\n".join(lines).strip() + "\n"


def kills() -> str:
    """What the campaigns of kills came to, and the runs on real images."""
    lines = list[str]()
    for row in _lines("run-kills"):
        counted = ", ".join(f"{count} {name}" for name, count in sorted(row["kills"].items()))
        differing = "; ".join(row["wrong"]) or "none differed"
        lines.append(
            f"- {sum(row['kills'].values())} kills ({counted}): {row['runs ended']} runs ended meanwhile; {differing}. "
            f"torch {row['torch']}, {row['date']}."
        )
    for row in _lines("resume-combinations"):
        differing = "; ".join(row["wrong"]) or "none differed"
        lines.append(
            f"- {row['combinations']} combinations of optimizer, schedule, what else a recipe may have, and loaders, "
            f"{row['kills']} SIGKILLs: {differing}. torch {row['environment']['torch']}, {row['date']}."
        )
    lines += ["", "| network | images | epochs | kills | test error, % | training error, % | seconds |"]
    lines += ["| --- | --- | --: | --: | --: | --: | --: |"]
    for row in _lines("cifar10"):
        result, killed = row["result"], sum("killed after seconds" in one for one in row["tries"])
        numbers = f"{result['error']:.2f} | {result['train_error']:.2f} | {result['seconds']:.0f}"
        lines.append(f"| {row['network']} | {row['images']} | {row['epochs']} | {killed} | {numbers} |")
    return "\n".join(lines) + "\n"


def mixed() -> str:
    """What a folder of real images in mixed formats came to."""
    row = _lines("mixed-folder")[-1]
    files, predicted = row["files"], row["predict"]
    tuned, fresh = (
        row[f"3 classes, a twentieth of the images: error, {how}"] for how in ("fine-tuned", "from random weights")
    )
    low, high = row["evaluate"]["interval"]
    where, same = row["environment"], "as" if predicted["as evaluate"] else "not as"
    machine = f"one thread, {where['processor']} ({where['instructions']})"
    interval = f"{low:.2f} to {high:.2f}"
    took = f"{row['training seconds without start']:.0f} s"
    speed = f"{predicted['files per second']} files per second with the start"
    lines = [
        f"- {sum(files.values()):,} files of {len(files)} kinds ({', '.join(files)}), from {row['images']}.",
        f"- `preresnet20`, {row['epochs']} epochs, {machine}: {took}, error {row['error']:.2f}% ({interval}).",
        f"- Three classes with a twentieth of the images: {tuned:.2f}% fine-tuned, {fresh:.2f}% from random weights.",
        f"- `predict` on {predicted['files']:,} files, {speed}: {predicted['no images']} are no images.",
        f"- On the others its error is {predicted['error']:.2f}%, {same} `evaluate` has it.",
    ]
    for form, found in row["export"].items():
        norms = f", {found['norms_folded']} BN folded" if found["norms_folded"] else ""
        lines.append(
            f"- Exported as {form}{norms}: largest difference of the logits {found['largest_difference']:.2g}."
        )
    return "\n".join(lines) + "\n"


def thousand_layers() -> str:
    """Peak and seconds per step under the limit."""
    lines = ["| network | images | iterations | peak, GB | seconds per step | threads | loss, first and last |"]
    lines.append("| --- | --- | --: | --: | --: | --: | --- |")
    for row in _lines("thousand-layers"):
        losses = f"{row['losses'][0]:.2f}, {row['losses'][-1]:.2f}"
        numbers = f"{row['peak'] / 1e9:.2f} | {row['seconds per step']:.1f} | {row['environment']['threads']}"
        lines.append(f"| {row['network']} | {row['images']} | {row['iterations']} | {numbers} | {losses} |")
    return "\n".join(lines) + "\n"


def ranks() -> str:
    """The campaign of kills of ranks, and what sharing an epoch came to."""
    row = _lines("rank-kills")[-1]
    lines = ["| killed | kills | survivors lived on, seconds: median | most | without a sentence |"]
    lines.append("| --- | --: | --: | --: | --: |")
    for name, killed in sorted(row["kills"].items()):
        took = (f"{row[f'survivors lived, {which}'][name]:.2f}" for which in ("median", "most"))
        lines.append(f"| {name} | {killed} | {' | '.join(took)} | {row['without a sentence'][name]} |")
    differing = "; ".join(row["wrong"]) or "none differed from the one that was left alone"
    ended = f"{row['runs ended']} run{'s' if row['runs ended'] != 1 else ''} ended meanwhile"
    lines += ["", f"{ended}: {differing}. {row['date']}.", ""]
    row = _recorded("two-processes")
    lines += ["| one epoch of `preresnet20` | images per second | test error, % |", "| --- | --: | --: |"]
    lines += [
        f"| {side} | {each['images per second']:.0f} | {each['error']:.2f} |" for side, each in row["sides"].items()
    ]
    first, most = row["loss apart, iteration 1"], row["loss apart, most in 100 iterations"]
    median = row["loss apart, median"]
    apart = f"{first:.1e} in iteration 1, at most {most:.1e} in the first 100, {median:.1e} at the median of the epoch"
    lines += ["", f"1 process against 2, loss apart: {apart} ({row['images']}, {row['date']})."]
    return "\n".join(lines) + "\n"


def grid_kills() -> str:
    """The campaigns of kills of grids."""
    heads = ("on", "cells", "iterations", *(f"{what} killed" for what in ("workers", "drivers", "nodes")))
    heads += ("results written twice", "cells differing")
    lines = [f"| {' | '.join(heads)} | date |", f"| --- | {' | '.join(['--:'] * (len(heads) - 1))} | --- |"]
    for row in _lines("grid-kills"):
        killed = (str(row["killed"].get(victim, 0)) for victim in ("worker", "driver", "node"))
        wrong = (str(len(row[key])) for key in ("written twice", "differing"))
        lines.append(
            f"| {' | '.join((row['on'], str(row['cells']), str(row['iterations']), *killed, *wrong, row['date']))} |"
        )
    return "\n".join(lines) + "\n"


def combinations() -> str:
    """How far the step of each combination is from the plain one."""
    rows = _recorded("combinations")["rows"]
    lines = ["| processes | precision | compile | memory | way | loss apart | step apart | beside the same precision |"]
    lines.append("| --: | --- | --- | --- | --- | --: | --: | --: |")
    for row in rows:
        numbers = (f"{row[key]:.1e}" if row[key] else "0" for key in ("loss", "step", "step beside the same precision"))
        words = (str(row[key]) for key in ("processes", "precision", "compile", "memory", "way"))
        lines.append(f"| {' | '.join((*words, *numbers))} |")
    return "\n".join(lines) + "\n"


def gpu() -> str:
    """Each way of training on a GPU beside the plain network."""
    sessions = [session for session in _lines("gpu-training") if session["network"] != "preresnet1001"]
    where = sessions[0]["environment"]
    card = f"{where['device']}, torch {where['torch']}, CUDA {where['cuda']}, {sessions[0]['date']}"
    columns = ("network", "way", "batch", "images/s", "times the plain one", "GPU memory, GB", "64,000 iterations, h")
    lines = [
        f"{card}; a copy moves {sessions[0]['copy'] / 1e12:.1f} TB/s.",
        "",
        f"| {' | '.join((*columns, 'share of the bandwidth'))} |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for session in sessions:
        for row in session["rows"]:
            numbers = [
                f"{row['images_per_second']:,.0f}",
                f"{row['times the plain one']:.2f}",
                f"{row['memory'] / 1e9:.2f}",
            ]
            counted = "fp32" in row["way"] or "tf32" in row["way"]  # the bytes are those of 4-byte numbers, not fused
            share = f"{100 * row['share of the bandwidth']:.0f}%" if counted and "compiled" not in row["way"] else "–"
            numbers += [f"{row['hours of 64,000 iterations']:.2f}", share]
            lines.append(f"| {session['network']} | {row['way']} | {row['batch']} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def gpu_layouts() -> str:
    """What sums in a fixed order cost, by precision and layout."""
    keys = ("deterministic", "deterministic, benchmarked", "not", "not, benchmarked")
    lines = [f"| network | precision | layout | {' | '.join(keys)} |", f"| --- | --- | --- |{' --: |' * len(keys)}"]
    for row in _recorded("gpu-layouts")["rows"]:
        layout = {"contiguous_format": "NCHW", "channels_last": "channels last"}[row["layout"]]
        numbers = " | ".join(f"{row[key]:.1f}" for key in keys)
        lines.append(f"| {row['network']} | {row['precision']} | {layout} | {numbers} |")
    return "\n".join(lines) + "\n"


def depth_memory() -> str:
    """A row per network, and the fits against the number of units."""
    found = json.loads((ROOT / "results" / "depth-memory.json").read_text(encoding="utf-8"))
    where, by = found["environment"], {(row["network"], row["way"]): row for row in found["rows"]}
    lines = [
        f"Batch {found['batch']}, one thread, {where['processor']} ({where['instructions']}), torch {where['torch']}.",
        "",
        "| network | units | plain, s | recompute, s | ratio | plain, GB | recompute, GB | ratio | counted, GB |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for name in dict.fromkeys(row["network"] for row in found["rows"]):
        plain, again = by[name, "plain"], by[name, "recompute"]
        numbers = [f"{one['seconds']:.2f}" for one in (plain, again)] + [f"{again['seconds'] / plain['seconds']:.2f}"]
        numbers += [f"{one['memory'] / 1e9:.2f}" for one in (plain, again)]
        numbers += [f"{again['memory'] / plain['memory']:.2f}"]
        counted = ", ".join(f"{one['counted'] / 1e9:.2f}" for one in (plain, again))
        lines.append(f"| {name} | {plain['units']} | {' | '.join(numbers)} | {counted} |")
    lines += [
        "",
        "| fit against units | way | start | per unit | residuals by depth, % |",
        "| --- | --- | --: | --: | --- |",
    ]
    for fit in found["fits"]:
        scale, unit = (1.0, "s") if fit["quantity"] == "seconds" else (1e6, "MB")
        start, slope = (f"{fit[key] / scale:.3g} {unit}" for key in ("start", "per unit"))
        residuals = ", ".join(f"{100 * each:.0f}" for each in fit["residuals"])
        lines.append(f"| {fit['family']}, {fit['quantity']} | {fit['way']} | {start} | {slope} | {residuals} |")
    return "\n".join(lines) + "\n"


def recipe_settings() -> str:
    """Every setting of a recipe, with its default and what it means."""
    lines = [["setting", "type", "default", "what"], ["---"] * 4]
    rows = [row for row in meanings.rows() if row["name"].startswith("training.")]
    lines += [[f"`{row['name']}`", row["type"], row["default"], row["meaning"]] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def reproductions() -> str:
    """Every table and figure: what it shows, its runs at each scale, and the GPU-hours of the paper's protocol."""
    head = ["WHAT", "what it shows", *(f"{scale.name}: runs" for scale in SCALES.values()), "GPU-hours, paper"]
    lines = [head, ["---", "---", *["--:"] * (len(SCALES) + 1)]]
    together: dict[str, set[Any]] = {name: set() for name in SCALES}
    for name, recipe in RECIPES.items():
        runs = {
            scale.name: set(map(plan.apart, experiments(recipe, scale, seeds=range(scale.seeds)).values()))
            for scale in SCALES.values()
        }
        for at, of_scale in runs.items():
            together[at] |= of_scale
        lines.append([f"`{name}`", published_table(name).title, *_counted(runs)])
    lines.append(["`all`", "every table and figure; runs that they share count once", *_counted(together)])
    of_claims = {scale.name: _with_seeds_of_claims(scale) for scale in SCALES.values()}
    more = f"the same with `--seeds claims`: {SCALES['quick'].seeds_of_claims} seeds for cells of claims"
    lines.append(["`all`", more, *_counted(of_claims)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _with_seeds_of_claims(scale: Scale) -> set[Any]:
    job = reproduction(["all"], scale=scale.name, seeds="claims", all_columns=True, changes=[], root=ROOT / "runs")
    return {plan.apart(cell.experiment) for cell in job.cells()}


def _counted(runs: dict[str, set[Any]]) -> list[str]:
    return [*(str(len(of_scale)) for of_scale in runs.values()), f"{estimate.gpu_hours(runs['paper']):,.0f}"]


def stand_ins() -> str:
    """Which network stands for which at the small scales."""
    small = [SCALES["quick"], SCALES["laptop"]]
    keys = dict.fromkeys(key for scale in small for key in scale.networks)
    lines = ["| the paper's | units | quick | units | laptop | units |", "| --- | --: | --- | --: | --- | --: |"]
    for key in keys:
        table, _, network = key.rpartition("/")
        name = f"{network}, in `{table}`" if table else network
        found = [PAPER_NETWORKS[network], *(scale.networks.get(key) for scale in small)]
        units = [str(sum(catalog.units_per_stage(catalog.network(one)))) if one else "" for one in found]
        shown = [f"`{one}`" if one else "as elsewhere" for one in found[1:]]
        lines.append(f"| {name} | {units[0]} | {shown[0]} | {units[1]} | {shown[1]} | {units[2]} |")
    return "\n".join(lines) + "\n"


def results() -> str:
    """What is recorded of every scale: verdicts, judged anew from the records, tables, and the panels of figures."""
    return "\n".join(_results(scale) for name, scale in SCALES.items() if (ROOT / f"results/{name}.json").exists())


def _results(scale: Scale) -> str:
    data = _recorded(scale.name)
    tables = [table for table in from_data(data) if table.cells]
    seeds = [seed for table in tables for cell in table.cells for seed in cell.seeds]
    runs = {seed.run: seed.seconds or 0.0 for seed in seeds if seed.status in (FINISHED, DIVERGED)}
    on = data["measured_on"]
    hours = sum(runs.values()) / 3600
    gpu = "" if on["device"] == "cpu" else f"trained on one {on['device']} with CUDA {on['cuda']}, "
    commit = f", commit {on['commit'][:10]}" if "commit" in on else ""  # where they ran there may be no checkout
    about = (
        f"{scale.about[:1].upper()}{scale.about[1:]}. {len(runs)} runs of {hours:.1f} hours together "
        f"(without those that diverged), {gpu}one thread each, on {on['cores']} cores "
        f"({on['processor']}, {on['instructions']}, torch {on['torch']}; "
        f"cleanpath {on['cleanpath']}{commit}). Alike for all tables:"
    )
    alike = [line for line in tables[0].marked if all(line in table.marked for table in tables if _run(table))]
    parts = [
        f"## Scale {scale.name}\n",
        f"{about}\n",
        "\n".join(_told(*line) for line in alike) + "\n",
        "### Verdicts\n",
        verdicts_in_markdown(tables, verdicts_of(tables)),
    ]
    for table in tables:
        parts.append(f"### {table.name}\n")
        if _run(table):
            parts.append(to_markdown(_without(table, alike)))
        else:
            parts.append(f"{table.title}: no run at this scale.\n")
        parts += [_panel(path) for path in sorted((ROOT / "docs/results").glob(f"{scale.name}-{table.name}-*.svg"))]
    return "\n".join(parts)


def _run(table: Table) -> bool:
    return any(cell.n for cell in table.cells)


def _told(letter: str, line: str) -> str:
    return f"- {f'**{letter}**: ' if letter else ''}{line}"


def _without(table: Table, lines: Sequence[tuple[str, str]]) -> Table:
    kept = [line for line in table.marked if line not in lines]
    letters, deviations = (tuple(line[at] for line in kept) for at in (0, 1))
    return replace(table, letters=letters, deviations=deviations)


def units() -> str:
    """The figures that draw units."""
    lines = list[str]()
    for figure in ("figure1", "figure2", "figure4", "figure5"):
        lines.append(f"**{figure}: {published_table(figure).title}**\n")
        lines += [_panel(path) for path in sorted((ROOT / "docs/results").glob(f"{figure}-*.svg"))]
    return "\n".join(lines)


def _panel(path: Path) -> str:
    """A drawing with the text that it carries itself; lines have numbers in the order of that text."""
    drawing = path.read_text(encoding="utf-8")
    title, told = (re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", drawing, re.DOTALL)[0] for tag in ("title", "desc"))
    return f'<img src="results/{path.name}" alt="{title}">\n\n{told if title in told else f"{title}: {told}"}\n'


def claims() -> str:
    """Every claim with what it compares, under its hypothesis."""
    lines = []
    for hypothesis, about in HYPOTHESES.items():
        lines.append(f"**{hypothesis}: {about}**\n")
        lines += [_claim(claim) for claim in CLAIMS if claim.hypothesis == hypothesis]
        lines.append("")
    return "\n".join(lines)


def _claim(claim: Claim) -> str:
    margin = f" Margin: {claim.why_margin}." if claim.margin else ""
    presumed = "" if claim.decisive else " Not decisive: presumed or implied."
    return (
        f"- **{claim.id}** {claim.sentence} `{claim.formula}` for {QUANTITIES[claim.quantity].words}.{margin} "
        f"Refuted if {claim.refuted_if}. Source: {claim.source}.{presumed}"
    )


def undecidable() -> str:
    """The claims that a scale cannot decide, with the reasons."""
    lines = ["| scale | claims | why |", "| --- | --- | --- |"]
    for scale in SCALES.values():
        for why in dict.fromkeys(scale.undecidable.values()):
            named = ", ".join(claim.id for claim in CLAIMS if scale.undecidable.get(claim.id) == why)
            lines.append(f"| {scale.name} | {named} | {why} |")
    return "\n".join(lines) + "\n"


def seeds() -> str:
    """How many seeds claims need, by how many are judged together and by how many comparisons one has."""
    together = (1, 10, 20, 40)
    ways = {"one comparison": 1, "2, or that says equal": 2, **{str(m): m for m in (4, 6, 10)}}
    lines = [["claims judged together", *map(str, together)], ["---", *["--:"] * len(together)]]
    lines.append(["to confirm one", *(str(seeds_needed(k)) for k in together)])
    lines += [[f"to contradict one of {of}", *(str(seeds_needed(k * m)) for k in together)] for of, m in ways.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def quantities() -> str:
    """What each quantity of a claim is."""
    lines = ["| quantity | what |", "| --- | --- |"]
    lines += [f"| `{one.key}` | {one.definition} |" for one in QUANTITIES.values()]
    return "\n".join(lines) + "\n"


def beyond() -> str:
    """Every kind beyond the paper, from its docstring: formula, reference, settings, deviations."""
    lines = list[str]()
    for home in (nn_beyond, nn_streams):
        for name, one in kinds.KINDS.items():
            if one.make.__module__ != home.__name__:
                continue
            needs, takes = (
                ", ".join(f"`network.shortcut.{setting}`" for setting in sorted(which))
                for which in (one.needs, one.takes)
            )
            given = "; ".join(f"{word} {said}" for word, said in (("needs", needs), ("may have", takes)) if said)
            lines += [f"### {name}\n", f"{inspect.getdoc(one.make)}\n", f"Settings: {given or 'none of its own'}.\n"]
        if home is nn_streams:
            lines += ["### What streams are\n", f"{inspect.getdoc(home)}\n"]
    return "\n".join(lines)


def substitutes() -> str:
    """What stands in for a part of any unit, from the docstrings."""
    rows = (
        ("network.normalisation=group", layers.group_norm),
        ("network.normalisation=layer", layers.layer_norm),
        ("network.widening=D", nn_shortcut.pooled_projection),
    )
    return "\n".join(f"### {setting}\n\n{inspect.getdoc(made)}\n" for setting, made in rows)


def _lines(name: str) -> list[dict[str, Any]]:
    text = (ROOT / "results" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _listed(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _rates() -> list[dict[str, Any]]:
    return _lines("finding-rates")


def forecast_rule() -> str:
    """The weights of the forecast's terms, and its bounds."""
    rule = the_rule()
    head = ["term", "weight in s", "weight in t", "usual where networks train", "lowest", "highest"]
    rows = []
    for name in rule.usual:
        weights = [of.get(name, "") for of in (rule.weights, rule.slow_weights)]
        rows.append([f"`{name}`", *weights, rule.usual[name], rule.lowest[name], rule.highest[name]])
    s, t = (
        " + ".join(f"{weight:g}·{name}" for name, weight in of.items()).replace("+ -", "− ")
        for of in (rule.weights, rule.slow_weights)
    )
    words = f"s = {s}, b = {rule.fails_from:g}; t = {t}, c = {rule.slow_from:g}; fitted to {rule.cells} cells."
    return f"{_rows(head, rows)}\n{words}\n"


def _rows(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, its numbers to the right."""
    marks = ["---", *["--:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (head, marks, *rows))


def _accuracy() -> dict[str, Any]:
    found: dict[str, Any] = _recorded("forecast-accuracy")
    return found


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _scores(every: dict[str, Any], decided: dict[str, Any]) -> list[list[object]]:
    rows = list[list[object]]()
    for name, one in every.items():
        sure, answered = decided[name], decided[name]["balanced_answered"]
        numbers = [one["balanced"], one["area"], sure["balanced"], sure["area"]]
        where = f"{_share(answered)} on {sure['answered']}, {sure['wrong_answered']} wrong"
        rows.append([name, *map(_share, numbers), where])
    return rows


_FORECAST = (
    *("resnet110", "--set", "network.shortcut.kind=scaling", "--set", "network.shortcut.scale=0"),
    *("--set", "training.lr=0.1", "--threads", "1"),
)
_SCORES = ("rule", "all: balanced", "AUC", "decidable: balanced", "AUC", "where it answers")


def forecast_left_out() -> str:
    """The forecast on depths, rates and variants that it was not fitted to, beside the baselines."""
    found, parts = _accuracy(), []
    for by, every in found["left_out"].items():
        decided, one = found["left_out_decided"][by], every["the rule"]
        sure = decided["the rule"]
        cells = f"{one['cells']} cells, {one['fails']} fail; decidable {sure['cells']}, {sure['fails']} fail"
        parts.append(f"One **{by}** at a time left out ({cells}):\n\n{_rows(_SCORES, _scores(every, decided))}")
    return "\n".join(parts)


def forecast_seeds() -> str:
    """How well one seed foretells another."""
    found = _accuracy()["seeds"]
    cells, runs = found["cells"], found["runs"]
    return (
        f"{cells} cells have {runs} runs of several seeds; in {found['agree']} of them all seeds agree. "
        f"One seed's end foretells another's with a balanced accuracy of {found['balanced']:.2f}.\n"
    )


_ALONE = ("gradient ratio alone", "loss after the steps alone")
_OF_KINDS = ("cells", "fail", "balanced", "AUC", "where it answers", "gradient ratio, AUC", "loss after steps, AUC")


def _of_kinds(named: dict[str, dict[str, Any]], first: str) -> str:
    rows = list[list[object]]()
    for kind, scores in named.items():
        one = scores["the rule"]
        others = [f"{_share(scores[name]['balanced'])}, {_share(scores[name]['area'])}" for name in _ALONE]
        answered = f"{_share(one['balanced_answered'])} on {one['answered']}, {one['wrong_answered']} wrong"
        rows.append([kind, one["cells"], one["fails"], _share(one["balanced"]), _share(one["area"]), answered, *others])
    return _rows((first, *_OF_KINDS), rows)


def forecast_kinds() -> str:
    """The forecast on cells that differ in kind from all that it was fitted to."""
    found = _accuracy()
    summed = {
        "**all but `tables`, `quick`**": found["other_kinds"],
        "**their decidable cells**": found["other_kinds_decided"],
    }
    of_ours = found["ours_left_out"]
    tables, quick = (_share(of_ours[kind]["balanced"]) for kind in ("tables", "quick"))
    words = (
        f"With `tables` and `quick` both left out, the rule fitted to the {of_ours['fitted_to']} other cells has a "
        f"balanced accuracy of {tables} on `tables` and of {quick} on `quick`."
    )
    return f"{_of_kinds({f'`{n}`': one for n, one in found['kinds'].items()} | summed, 'kind left out')}\n{words}\n"


def forecast_later() -> str:
    """The forecast on the cells that came after its terms had been chosen, fitted to those before."""
    found = _accuracy()["later"]
    every, decided = found["all"]["the rule"], found["decided"]["the rule"]
    words = (
        f"{every['cells']} runs of {found['cells']} cells, asked of a rule that is fitted to the {found['fitted_to']} "
        f"before them; the seeds of {found['agree']} cells agree. Of the runs {every['fails']} fail; decidable are "
        f"{decided['cells']}, of which {decided['fails']} fail."
    )
    one = found["with_them"]
    more = (
        f"Fitted to all cells, these among them, with one kind at a time left out, the balanced accuracy on the "
        f"{one['cells']} decidable cells of other kinds is {one['balanced']:.2f}, the AUC {one['area']:.2f}."
    )
    rows = {f"`{name}`": one for name, one in found["kinds_decided"].items()}
    summed = {"**all decidable**": found["decided"], "**all, decidable or not**": found["all"]}
    return f"{words}\n\n{_of_kinds(rows | summed, 'decidable cells of')}\n{more}\n"


def forecast_slow() -> str:
    """How well slow starts are told."""
    found = _accuracy()
    parts = []
    for words, one in (("each kind left out", found["slow"]), ("the later cells", found["later"]["slow"])):
        parts.append(
            f"{words}: {one['slow']} of {one['cells']} cells that did not fail started slowly; AUC {one['area']:.2f}, "
            f"balanced accuracy {one['balanced']:.2f}; said to be likelier than not of {one['said']}, which was right "
            f"of {one['right']}"
        )
    return ". ".join(one[0].upper() + one[1:] for one in parts) + ".\n"


def forecast_changes() -> str:
    """What is recorded of the changes that were named."""
    parts = []
    for key, words in (("suggestions", "Tables 1 and 2 and the like"), ("suggestions_kinds", "the other kinds")):
        for what, change in (("rate", "a lower rate"), ("depth", "fewer units")):
            one = _accuracy()[key][what]
            parts.append(
                f"{change} for {one['named']} cells of {words}, of which {one['recorded']} are recorded so changed; of "
                f"these {one['did not fail']} did not fail"
            )
    return f"Where a cell failed and was said to, the rule named {'; '.join(parts)}.\n"


def forecast_reliability() -> str:
    """What share of the cells failed, by the probability that they were given."""
    found = _accuracy()
    parts = []
    for told, words in (
        (found["reliability"], "Tables 1 and 2 and the like, each variant left out"),
        (found["reliability_kinds"], "all other kinds, each left out"),
        (found["later"]["reliability"], "the later cells, asked of the rule fitted to those before"),
    ):
        rows = [
            [f"{one['from']:.0%} to {one['to']:.0%}", one["cells"], f"{one['said']:.0%}", f"{one['failed']:.0%}"]
            for one in told
        ]
        parts.append(f"{words}:\n\n{_rows(('probability of failing', 'cells', 'mean', 'failed'), rows)}")
    return "\n".join(parts)


def forecast_answers() -> str:
    """Which answers were given to which ends."""
    found, said = _accuracy(), ("trains", "starts slowly", "fails", "cannot say")
    parts = []
    for told, words in (
        (found["answers"], "Tables 1 and 2, each variant left out"),
        (found["answers_kinds"], "other kinds, each left out"),
        (found["later"]["answers"], "the later cells, asked of the rule fitted to those before"),
    ):
        rows = [[became, *(counts.get(one, 0) for one in said)] for became, counts in told.items()]
        parts.append(f"{words}:\n\n{_rows(('became', *(f'said: {one}' for one in said)), rows)}")
    return "\n".join(parts)


def forecast_wrong() -> str:
    """The later decidable cells on which an answer was wrong."""
    found = _accuracy()["later"]["wrong"]
    rows = [
        [
            f"`{r['kind']}`",
            r["variant"],
            r["depth"] or "",
            f"{r['optimizer']} {r['rate']:g}",
            f"{r['error']:.0f}",
            f"{r['said']:.0%}",
        ]
        for r in found
    ]
    head = ("kind", "network", "depth", "optimizer and rate", "training error, %", "said to fail")
    return _rows(head, rows) if rows else "None.\n"


def forecast_cost() -> str:
    """What a forecast takes, in training steps."""
    rows = [
        [one["network"], f"{1000 * one['step']:.0f} ms", f"{one['forecast']:.2f} s", f"{one['ratio']:.1f}"]
        for one in _recorded("forecast-cost")["networks"]
    ]
    return _rows(("network", "a step", "the forecast", "steps"), rows)


_SPEED = (
    *("bench", "training_speed", "step_profile", "one_layer", "many_cells"),
    *("audit_cost", "torchlens", "monitor_cost", "photo_preparation"),
)
"""Tables of speed by the names of their blocks."""

BLOCKS: dict[str, Callable[[], str]] = {
    "tables": tables,
    "choice": choice,
    "gates": gates,
    "show": lambda: command("show", "preresnet20"),
    "audit": lambda: command("audit", "resnet56", "--against", "preresnet56"),
    "finding": lambda: command("audit", "resnet56", *("--format", "md")) + command("explain", "CP201"),
    "fix": lambda: command("audit", "resnet20", "--fix", "--unsafe"),
    "measurements": measurements,
    "document": document,
    "rules": rules,
    "fixes": generate_fixes.overview,
    "fix_document": fix_document,
    **{f"fix_head_{code}": partial(generate_fixes.head, code) for code in generate_fixes.FIXED},
    **{f"fix_effect_{code}": partial(generate_fixes.effect, code) for code in generate_fixes.FIXED},
    "fix_families": partial(generate_fixes.table, "fix_families"),
    "rates": rates,
    "rates_tables": rates_tables,
    "gallery": gallery,
    "kills": kills,
    "digits": lambda: command("show", "digits"),
    "mixed": mixed,
    "thousand_layers": thousand_layers,
    "depth_memory": depth_memory,
    "combinations": combinations,
    "ranks": ranks,
    "grid_kills": grid_kills,
    "gpu": gpu,
    "gpu_layouts": gpu_layouts,
    "speed_targets": lambda: speed("benchmarks.speed_targets"),
    **{name: partial(speed, "benchmarks.speed_tables", name) for name in _SPEED},
    "claims": claims,
    "reproductions": reproductions,
    "results": results,
    "units": units,
    "recipe_settings": recipe_settings,
    "stand_ins": stand_ins,
    "quantities": quantities,
    "seeds": seeds,
    "undecidable": undecidable,
    "beyond": beyond,
    "substitutes": substitutes,
    "forecast": lambda: command("forecast", *_FORECAST),
    "forecast_rule": forecast_rule,
    "forecast_left_out": forecast_left_out,
    "forecast_seeds": forecast_seeds,
    "forecast_kinds": forecast_kinds,
    "forecast_later": forecast_later,
    "forecast_slow": forecast_slow,
    "forecast_changes": forecast_changes,
    "forecast_reliability": forecast_reliability,
    "forecast_answers": forecast_answers,
    "forecast_wrong": forecast_wrong,
    "forecast_cost": forecast_cost,
    "sweep": sweep,
    "sweep_rows": lambda: sweep("--rows"),
}


def generated(page: Path) -> str:
    """The page with its generated parts as they are now."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}{BLOCKS[match[2]]()}{match[3]}"

    return _BLOCK.sub(block, page.read_text(encoding="utf-8"))


def _as_words(page: str) -> str:
    """The page with the numbers of an audit masked: their last digits are the machine's."""

    def masked(match: re.Match[str]) -> str:
        return (
            re.sub(r"[\d.]+(?:e[-+]?\d+)?| +", "#", match[0])
            if match[2] in {"audit", "finding", "fix", "forecast"}
            else match[0]
        )

    return _BLOCK.sub(masked, page)


def main() -> None:
    """Write or check all pages."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    stale = [name for name, text in texts.items() if _as_words(generated(ROOT / name)) != _as_words(text)]
    if "--check" in sys.argv[1:]:
        sys.exit(f"out of date: {', '.join(stale)}; run python docs/generate.py" if stale else 0)
    for name in stale:
        (ROOT / name).write_text(generated(ROOT / name), encoding="utf-8")


if __name__ == "__main__":
    main()
