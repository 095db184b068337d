"""Which tests a worker takes together, and in which order.

A worker takes a whole file, because its tests share fixtures and caches, or one notebook. What takes longest begins first: two workers then end together.
How long that is, in seconds, say the marks `slow(seconds)`; they need not be exact.
"""
import os
from collections import Counter

import pytest

import processes  # noqa: F401  it keeps the environment as it is now

# xdist says 80 to its workers, and files of tests keep copies of the environment for commands of their own
if "PYTEST_XDIST_WORKER" in os.environ: os.environ["COLUMNS"] = "9999"


@pytest.fixture(autouse=True)
def as_wide_as_it_takes(request, monkeypatch):
    "What commands say stands in one line each, so that a test can look for a sentence; tests marked `wrapped` see what a person sees."
    if request.node.get_closest_marker("wrapped"): monkeypatch.delenv("COLUMNS", raising=False)
    else: monkeypatch.setenv("COLUMNS", "9999")


def unit(nodeid): return nodeid if "::test_notebook[" in nodeid else nodeid.split("::")[0]


def seconds(item): return next((m.args[0] for m in item.iter_markers("slow") if m.args), 0)


def pytest_collection_modifyitems(items):
    length = Counter()
    for i in items: length[unit(i.nodeid)] += seconds(i)
    items.sort(key=lambda i: -length[unit(i.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Units(LoadScopeScheduling):       # the groups of `--dist loadgroup` are lost with pytest 9.2 (pytest-xdist issue 1386)
        def _split_scope(self, nodeid): return unit(nodeid)
    return Units(config, log)
