"""One run of the fetcher in a process of its own: python -m tests.survey.fetch_alone RUN.json CACHE."""

import json
import sys
from pathlib import Path

from darkhaloscope.survey.fetch import fetch_answers
from darkhaloscope.survey.release import RELEASES
from darkhaloscope.survey.service import CutoutService
from darkhaloscope.survey.targets import make_targets

if __name__ == "__main__":
    run = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    targets = make_targets(
        run["ra"],
        run["dec"],
        release=RELEASES["dr10-south"],
        source="test",
        columns={"brickname": [run["brick"]] * len(run["ra"])},
    )
    service = CutoutService(release="dr10-south", **run["service"])
    print(fetch_answers(targets, service, Path(sys.argv[2]), first_wait_s=0.01))
