"""What a process counts while it answers: plain numbers, added up in place and read when somebody asks.

The hot routes answer tens of thousands of requests a second, so nothing is allocated, locked or looked up by a label
here. One event loop writes and reads.
"""

from bisect import bisect_left
from collections import defaultdict

BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The upper ends of the histogram's buckets; what took longer is in one more."""


class Counts:
    def __init__(self) -> None:
        self.answers: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        """How many answers had which status, by class of route."""
        self.refusals: defaultdict[str, int] = defaultdict(int)
        """How often each refusal was said, by its code."""
        self.buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        """How many answers to a reservation took how long, from the last byte of the request to the answer."""
        self.seconds = 0.0
        self.waits = [0, 0]
        """Of those who were let in and had been told how long they would wait: whose wait was not as told, and whose
        was (`core.wait_estimate.came_true`)."""

    def took(self, seconds: float) -> None:
        """An attempt to reserve was answered."""
        self.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.seconds += seconds
