"""What was recorded of speed and memory, as Markdown. Never imports torch.

python -m benchmarks.speed_tables NAME    a table of benchmarks/README.md
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.recorded import Row, lines, numbered, on, read, table

NOTHING = "Not measured yet."


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TABLES)
    print(TABLES[parser.parse_args().name](), end="")


def bench() -> str:
    """What `make bench` came to, figure by figure."""
    data = read("bench")
    places, told = numbered(on(one) for one in data.values())
    rows = list[Row]()
    for script, one in data.items():
        mark = f" [{places.index(on(one)) + 1}]"
        for row in one["figures"]:
            value = f"{row['value']:.3g} ({row['low']:.3g} to {row['high']:.3g}) {row['unit']}"
            rows.append((f"{row['what']} (`{script}`){mark}", value, row["n"], row["more"] or "–"))
    seconds = {script: one["seconds"] for script, one in data.items() if "seconds" in one}
    took = f"\nSeconds of the scripts: {', '.join(f'{script} {n}' for script, n in seconds.items())}" if seconds else ""
    together = f"; all together {sum(seconds.values()) / 60:.0f} min.\n" if len(seconds) == len(data) else ".\n"
    found = table(("figure", "median (least to most)", "n", "each side"), rows, numbers=(1, 2))
    return f"{told}.\n\n{found}{took + together if took else ''}"


def training_speed() -> str:
    """A training step of each network on each way, the newest record of each."""
    if not (newest := {one["network"]: one for one in lines("training-speed")}):
        return f"{NOTHING}\n"
    places, told = numbered(on(one) for one in newest.values())
    rows = list[Row]()
    for name, one in newest.items():
        mark = f" [{places.index(on(one)) + 1}]"
        for row in one["rows"]:
            low, middle, high = row["times the plain one"]
            rows.append(
                (
                    f"{name}, {one['side']}×{one['side']}, {one['environment']['threads']}{mark}",
                    {"plain": "ours on torch's kernels", "eager NCHW": "plain, eager NCHW"}.get(row["way"], row["way"]),
                    f"{row['images_per_second']:.0f}",
                    "1" if row["way"] == "eager NCHW" else f"{middle:.2f} ({low:.2f} to {high:.2f})",
                    len(row["seconds"]),
                    f"{row['memory'] / 1e9:.2f} GB ({row['share of its memory']:.2f})",
                )
            )
    head = (
        "network, images, threads",
        "way",
        "images/s",
        "times the plain (least to most)",
        "n",
        "memory above import",
    )
    return f"{told}. A batch of 128.\n\n{table(head, rows, numbers=range(2, 6))}"


def step_profile() -> str:
    """Where a step's time goes, beside the machine's limit, and a step by depth."""
    if not (data := read("step-profile")):
        return f"{NOTHING}\n"
    limits = data["limits"]
    speed, copy = max(limits["matrix product"], limits["3×3 convolution"]), limits["copy"]
    ways = list(next(iter(data["networks"].values()))["ways"])
    measured = (
        f"{on(data)}. Measured of the machine: matrix product {limits['matrix product'] / 1e9:.0f} GFLOP/s, "
        f"convolution of 3×3 {limits['3×3 convolution'] / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.0f} GB/s.\n"
    )
    rows = list[Row]()
    for name, one in data["networks"].items():
        work = one["work"]
        least = max(work["operations"] / speed, work["bytes"] / copy)
        told = f"{work['operations'] / 1e9:.0f} GFLOP, {work['bytes'] / 1e9:.1f} GB that cannot be avoided"
        times = f"{work['operations'] / speed:.2f} for the arithmetic, {work['bytes'] / copy:.2f} for the bytes"
        rows.append((f"{name}, the limit: {told}", times, 1, "", ""))
        for way in ways:
            row = one["ways"][way]
            shares = sorted(row["shares"].items(), key=lambda each: -each[1])
            told = ", ".join(f"{part} {100 * share:.0f}%" for part, share in shares if share >= 0.02)
            rows.append(
                (way, f"{row['seconds']:.2f}", f"{row['seconds'] / least:.1f}", f"{row['page faults']:.0f}", told)
            )
    head = ("a step, batch 128", "seconds", "times the limit", "page faults", "shares of its time")
    growth = [
        (
            row["network"],
            *(f"{row['seconds'][way]:.3f} s ({1000 * row['seconds'][way] / row['units']:.2f})" for way in ways),
        )
        for row in data["growth"]
    ]
    depths = f"A step by depth, batch {data['few']}, one thread; in brackets milliseconds for each unit:\n"
    by_depth = table(("network", *ways), growth, numbers=range(1, len(ways) + 1))
    return f"{measured}\n{table(head, rows, numbers=(1, 2, 3))}\n{depths}\n{by_depth}"


def one_layer() -> str:
    """A layer on our kernels beside torch's, and where ours end."""
    if not (data := read("one-layer")):
        return f"{NOTHING}\n"
    parts = list[str]()
    for key, words in (("usual", "Layers of the paper's networks"), ("large", "Where ours end (`fast/joined.py`)")):
        rows = list[Row]()
        for one in data[key]:
            (inputs, outputs), (side, window) = one["channels"], (one["side"], one["window"])
            shape = f"{one['images']}, {inputs} → {outputs}, {side}×{side}, {window}×{window}"
            times = (f"{one[way][0]:.2f}, {one[way][1]:.2f}" for way in ("torch", "ours"))
            rows.append((shape, *times, f"{sum(one['torch']) / sum(one['ours']):.2f}"))
        head = ("images, channels, map, window", "torch, ms forward and backward", "ours", "ratio")
        threads = data[key][0]["threads"]
        number = f"{threads} thread{'s' if threads > 1 else ''}"
        parts.append(f"{words}, {number}, {on(data)}:\n\n{table(head, rows, numbers=(1, 2, 3))}")
    return "\n".join(parts)


def many_cells() -> str:
    """What a grid adds to a cell, and what many runs take to list, report and plan."""
    rows = list[Row]()
    if grid := read("grid-overhead"):
        what = f"a cell of {grid['cells']:,} that train nothing, on {grid['workers']} workers (`grid_overhead`)"
        rows.append((what, f"{grid['milliseconds']:.1f} ms", f"{grid['driver']:.1f} ms of the driver"))
    if many := read("many-runs"):
        driver, plan = many["driver"], many["plan"]
        what = f"a driver of {driver['cells']:,} simulated cells (`many_runs`)"
        held = f"{driver['bytes'] / 1e6:.0f} MB, {driver['bytes'] / driver['cells']:,.0f} bytes a cell"
        rows.append((what, f"{driver['seconds']:.1f} s", held))
        for at, one in enumerate(many["commands"]):
            times = sum(other["command"] == one["command"] for other in many["commands"][: at + 1])
            what = f"`{one['command']}`, {plan['runs']:,} runs{', again' if times > 1 else ''}"
            rows.append((what, f"{one['seconds']:.1f} s", f"{one['processor']:.1f} s of a processor"))
        what = f"a plan of {plan['runs']:,} runs, {plan['to do']:,} of them to do"
        rows.append((what, f"{plan['seconds']:.1f} s", f"{plan['processor']:.1f} s of a processor"))
    told = "; ".join(dict.fromkeys(on(one) for one in (grid, many) if one))
    return (
        f"{told}.\n\n{table(('what', 'took', 'of that, or beside it'), rows, numbers=(1,))}" if rows else f"{NOTHING}\n"
    )


def audit_cost() -> str:
    """An audit beside a training step, network by network."""
    if not (data := read("audit-cost")):
        return f"{NOTHING}\n"
    rows, times, memories = list[Row](), list[float](), list[float]()
    for one in data["rows"]:
        ratios = [a / b for a, b in zip(one["audit"], one["step"], strict=True)]
        times.append(statistics.median(ratios))
        memories.append(one["memory"]["audit"] / one["memory"]["step"])
        spread = f"{times[-1]:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        step = 1000 * statistics.median(one["step"]), one["memory"]["step"] / 2**20
        rows.append((one["network"], f"{step[0]:.1f}", spread, f"{step[1]:.0f}", f"{memories[-1]:.2f}"))
    rows.append(("**median**", "", f"**{statistics.median(times):.2f}**", "", f"**{statistics.median(memories):.2f}**"))
    head = ("network", "a step, ms", "times a step's time", "its memory, MiB", "times its memory")
    return f"{on(data)}, one thread.\n\n{table(head, rows, numbers=range(1, 5))}"


def torchlens() -> str:
    """An audit and torchlens beside a training step."""
    if not (data := read("torchlens")):
        return f"{NOTHING}\n"
    ways = ("audit", "torchlens", "torchlens with gradients")

    def cell(row: dict[str, Any], way: str) -> str:
        if way in row["refused"]:
            return "refuses"
        one, step = row["ways"][way], row["ways"]["training step"]
        return f"{one['ratio']:.1f}, {one['memory'] / max(step['memory'], 1):.1f}"

    rows = [(row["network"], *(cell(row, way) for way in ways)) for row in data["rows"]]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    words = f"{on(data)}, {versions}, one thread, {data['rounds']} rounds: times a step's time, times its memory."
    return f"{words}\n\n{table(('network', *ways), rows, numbers=range(1, 4))}"


def monitor_cost() -> str:
    """Steps that are recorded, and steps that are not, beside plain ones."""
    if not (data := read("monitor-cost")):
        return f"{NOTHING}\n"

    def spread(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    rows = list[Row]()
    for one in data["rows"]:
        of = {kind: [each[kind] for each in one["rounds"]] for kind in ("step", "first", "recorded", "unrecorded")}
        kinds = (spread(of[kind]) for kind in ("first", "recorded", "unrecorded"))
        times = zip(of["recorded"], of["step"], strict=True)
        share = statistics.median(recorded - 1 + 99 * one["passing"] / step for recorded, step in times)
        name, _, batch = one["target"].rpartition(":")
        rows.append((f"{name}, {batch}", f"{1000 * statistics.median(of['step']):.0f} ms", *kinds, f"{share:.2f} %"))
    head = ("network, batch", "plain step", "first", "recorded", "unrecorded", "cost at every=100")
    words = f"{on(data)}, {data['machine']['threads']} threads, {len(data['rows'][0]['rounds'])} rounds."
    return f"{words}\n\n{table(head, rows, numbers=range(1, 6))}"


def photo_preparation() -> str:
    """Photographs a second with and without JPEG's scaled decoding."""
    if not (data := read("photo-preparation")):
        return f"{NOTHING}\n"
    rows = [(r["size"], r["way"], f"{r['speed']:.0f}", f"{r['whole']:.0f}", f"{r['ratio']:.2f}") for r in data["rows"]]
    head = ("size", "way", "images/s", "decoded whole", "ratio")
    words = f"{on(data)}, one thread, JPEG to 224×224, medians of {data['rounds']} rounds."
    return f"{words}\n\n{table(head, rows, numbers=(2, 3, 4))}"


TABLES: dict[str, Callable[[], str]] = {
    each.__name__: each
    for each in (
        *(bench, training_speed, step_profile, one_layer, many_cells),
        *(audit_cost, torchlens, monitor_cost, photo_preparation),
    )
}

if __name__ == "__main__":
    main()
