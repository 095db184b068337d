"Files of few but long tests begin first: two workers then end together (xdist itself begins with the files of most tests)."
LONG = ("test_modules", "test_workflow", "test_learnable", "test_slices", "test_training", "test_task2vec", "test_audit")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda i: LONG.index(i.path.stem) if i.path.stem in LONG else len(LONG))
