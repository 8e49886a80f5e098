"""`dhs` as a file: ``python -m darkhaloscope …``, and what spark-submit is handed (docs/scale.md)."""

import sys

if not __package__:
    # Run by its path: rooms of the house must not answer to names such as `report` or `stats`.
    sys.path.pop(0)

from darkhaloscope.cli import main

if __name__ == "__main__":
    main()
