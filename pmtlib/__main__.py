"""``python -m pmtlib``: the command ``pmt``."""

from pmtlib.cli import main

if __name__ == "__main__":
    main()
