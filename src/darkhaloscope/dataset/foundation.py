"""Checks of what stands beside the pairs: enough look-alikes of each class, enough anchors."""

from collections import Counter

from darkhaloscope.contracts.checks import Bound, Check, Findings


def check_lookalikes(
    categories: Counter[str], anchors: int, minima: dict[str, int], min_anchors: int
) -> Findings:
    """Enough contaminants of each class and enough anchors for the figures that use them."""
    found = []
    for category, least in minima.items():
        bound = Bound(direction="above", low=least - 1)
        check = Check(
            name=f"contaminants_{category}", bound=bound, why=f"at least {least} of the class are asked for"
        )
        found.append(check.measure(categories[category], n=sum(categories.values())))
    check = Check(
        name="anchors_count",
        bound=Bound(direction="above", low=min_anchors - 1),
        why=f"at least {min_anchors} lenses are asked for",
    )
    return Findings([*found, check.measure(anchors, n=anchors)])
