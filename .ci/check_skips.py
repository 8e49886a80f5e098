"""Fail on a skipped test that the list of allowed skips does not name, and on a list entry without a reason.

Usage: check_skips.py JUNIT_XML ALLOWED. A line of ALLOWED reads ``test name | reason``; # starts a comment.
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def allowed_skips(path: str) -> set[str]:
    """Names that may be skipped; exits with a sentence when one has no reason."""
    names = set()
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        name, _, reason = (part.strip() for part in text.partition("|"))
        if not reason:
            sys.exit(f"{path}: '{name}' has no reason")
        names.add(name)
    return names


def main(junit: str, allowed: str) -> None:
    """Compare the skips of a test run with the list."""
    cases = list(ET.parse(junit).getroot().iter("testcase"))  # noqa: S314 - written by our own test run
    if not cases:
        sys.exit(f"{junit}: no test ran")
    permitted = allowed_skips(allowed)
    skipped = [c for c in cases if c.find("skipped") is not None]
    wrong = [c for c in skipped if c.get("name", "").split("[")[0] not in permitted]
    for case in wrong:
        message = case.find("skipped").get("message", "")  # type: ignore[union-attr]
        sys.stderr.write(f"skipped without leave: {case.get('classname')}::{case.get('name')}: {message}\n")
    sys.stdout.write(f"{len(cases)} tests, {len(skipped)} skipped, {len(wrong)} of them without leave\n")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:3])
