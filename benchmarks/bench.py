"""All figures of speed that need no GPU, one script after another; what `make bench` runs.

    python -m benchmarks.bench            all of them
    python -m benchmarks.bench grid       some

Writes results/bench.json, and what each script writes itself; from that `python docs/generate.py` makes the tables of
benchmarks/README.md. A script that is not asked for keeps its figures, each with the machine and the day that they are
of, and the seconds that the script took; so does one that fails, which is named, and the others go on.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.recorded import FOLDER

RESULTS = FOLDER / "bench.json"
SCRIPTS = (
    "startup",
    "augmentation",
    "image_folders",
    "records_cost",
    "grid",
    "imagenet50",
    "inference",
    "plain_beside_timm",
    "training_speed",
    "audit_cost",
    "monitor_cost",
    "table_time",
)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=", ".join(SCRIPTS))
    asked = parser.parse_args().scripts or SCRIPTS
    if strange := [name for name in asked if name not in SCRIPTS]:
        sys.exit(f"no benchmark '{strange[0]}'; choose of {', '.join(SCRIPTS)}")
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    failed = list[str]()
    for name in asked:
        command, began = [sys.executable, "-m", f"benchmarks.{name}", "--json"], time.monotonic()
        print("python -m", *command[2:-1], flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False, encoding="utf-8")
        if done.returncode:
            print(f"  failed with exit code {done.returncode}", flush=True)
            failed.append(name)
            continue
        took = round(time.monotonic() - began)
        found[name] = {**json.loads(done.stdout), "date": time.strftime("%Y-%m-%d"), "seconds": took}
        for one in found[name]["figures"]:
            print(f"  {one['what']}: {one['value']:.3g} {one['unit']}", flush=True)
        text = json.dumps({key: found[key] for key in SCRIPTS if key in found}, ensure_ascii=False, indent=1)
        RESULTS.write_text(f"{text}\n", encoding="utf-8")
    print(f"{sum(found[name]['seconds'] for name in asked if name not in failed) / 60:.0f} min")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; their figures are those of before")


if __name__ == "__main__":
    main()
