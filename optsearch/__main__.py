"""`python -m optsearch` is the same as `optsearch`."""

from optsearch.cli import main

if __name__ == "__main__":
    main()
