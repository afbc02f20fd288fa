"""``python -m pmtlib`` and ``pmt``: the command of :mod:`pmtlib.cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; Ctrl-C while it is still being loaded is one line too."""
    try:
        from pmtlib import memory

        memory.keep()
        from pmtlib.cli import main as command

        command()
    except (KeyboardInterrupt, ImportError) as error:
        from pmtlib.errors import interrupted

        if not interrupted(error):
            raise
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
