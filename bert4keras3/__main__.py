"""python -m bert4keras3: the command line."""

import sys

from bert4keras3.cli import main

if __name__ == "__main__":
    sys.exit(main())
