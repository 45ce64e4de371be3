"""`python -m cleanpath` is the script `cleanpath`."""

from cleanpath.cli import main

if __name__ == "__main__":
    main()
