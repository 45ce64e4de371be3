"""Install the newest wheel of a folder in an empty environment, with what it declares and no more, and start it."""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path


def main(folder: Path) -> None:
    """Build the environment, run every verb's help and one network, and check that help is free of torch."""
    wheel = max(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        python = Path(place) / "bin" / "python"

        def run(*command: str) -> str:
            return subprocess.run(
                [python, *command], check=True, capture_output=True, text=True, cwd=place, env=_bare()
            ).stdout

        run(
            "-m",
            "pip",
            "install",
            "--quiet",
            "--constraint",
            str(Path("constraints.txt").resolve()),
            str(wheel.resolve()),
        )
        verbs = run("-c", "import typer, cleanpath.cli as c; print(*typer.main.get_command(c.app).commands)").split()
        for words in ([], *([verb] for verb in verbs)):
            run("-m", "cleanpath", *words, "--help")
        run("-c", "import sys, cleanpath.cli; assert 'torch' not in sys.modules")
        assert "269,722 parameters" in run("-m", "cleanpath", "show", "resnet20")
        assert "9 residual units" in run("-m", "cleanpath", "audit", "preresnet20")
        assert "error" in run("-m", "cleanpath", "train", "preresnet8", "--set", "training.epochs=1")
    print(f"{wheel.name} starts in an empty environment")


def _bare() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
