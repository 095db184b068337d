"""Which tests a worker takes together, and in which order.

A worker takes a whole file, because its tests share fixtures and caches, or one test that is marked `alone`. What takes longest begins first: two workers
then end together. How long that is, in seconds, stands in the marks `slow(seconds)`; it need not be exact.
"""
from collections import Counter

import pytest


def unit(item): return item.nodeid if item.get_closest_marker("alone") else item.path.stem


def seconds(item): return next((m.args[0] for m in item.iter_markers("slow") if m.args), 0)


def pytest_collection_modifyitems(items):
    length = Counter()
    for i in items:
        length[unit(i)] += seconds(i)
        if not i.get_closest_marker("alone"): i.add_marker(pytest.mark.xdist_group(unit(i)))
    items.sort(key=lambda i: -length[unit(i)])
