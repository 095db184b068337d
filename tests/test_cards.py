"The facts of every card: consistent with themselves, and equal to the list of checksums they were taken from.\n\nThat list is looked for in `CATSCANS_CHECKSUMS`, and beside this project."
import json, os, re, subprocess, sys
from pathlib import Path

import numpy as np
import pytest

from catscans.core.grid import PAPER_SOURCES, PAPER_TARGETS
from catscans.datasets.cards import Card, File, GROUP_KEYS, _files
from catscans.datasets.layouts import LAYOUTS
from catscans.datasets.catalogue import CATALOGUE, DATASETS, listing, short
from catscans.datasets.loading import _odd_counts
from catscans.figures.cards import survey_table1, table1
from fakes import ROOT

CHECKSUMS = Path(os.environ.get("CATSCANS_CHECKSUMS") or ROOT.parent/"shared"/"checksums.json")
ALL = [(d, f) for d, fs in _files().items() for f in fs]
ids = lambda v: v if isinstance(v, str) else v.name


@pytest.mark.parametrize("dataset,f", ALL, ids=ids)
def test_file(dataset, f):
    assert f.bytes is None or f.bytes > 0
    assert not f.md5 or re.fullmatch("[0-9a-f]{32}", f.md5)
    assert not f.sha256 or re.fullmatch("[0-9a-f]{64}", f.sha256)
    assert f.urls or f.note, "nobody can get it and nothing says why"
    assert all(re.match(r"https?://\S+$", u) for u in f.urls) and len(set(f.urls)) == len(f.urls)
    assert f.checksum or f.login or "checksum published" in f.note, "a missing checksum is said, not passed over"
    assert not Path(f.name).is_absolute() and ".." not in f.name


def test_no_file_twice():
    assert len({(d, f.name) for d, f in ALL}) == len(ALL)
    sums = [f.sha256 or f.md5 for _, f in ALL if f.checksum]
    assert len(set(sums)) == len(sums), "two files bear one checksum"
    urls = [u for _, f in ALL for u in f.urls if not f.login]
    assert len(set(urls)) == len(urls), "two files have one address"


def test_every_file_belongs_to_a_card():
    assert set(_files()) == {c.fetch or c.name for c in CATALOGUE.values() if c.files}


@pytest.mark.parametrize("c", CATALOGUE.values(), ids=ids)
def test_card(c):
    assert CATALOGUE[c.name] is c and c.title and c.origin in ("medical", "non-medical") and c.licence and c.family and c.collection
    assert c.layout in {*LAYOUTS, "toy", "lite", "none"} and c.kind in ("single-label", "multi-label", "weights")
    assert c.group_key is None or c.group_key in GROUP_KEYS
    assert not c.group_pattern or c.group_key and re.compile(c.group_pattern).groupindex, "a pattern reads the group by named parts"
    assert c.layout in ("toy", "lite") or c.files, "where are its files?"
    assert (c.name in DATASETS) == (c.layout != "none")
    if c.name in DATASETS: assert c.kind in ("single-label", "multi-label") and c.n >= c.classes >= 2 and c.role
    if c.layout == "medmnist": assert sum(c.parts) == c.n and [f.name for f in c.files] == [f"{c.name}.npz"]


def test_sizes_of_a_medmnist_set_are_one_collection():
    "else a source could be the target in another size, unnoticed"
    for c in CATALOGUE.values():
        if c.layout == "medmnist" and c.name.endswith(("_64", "_128", "_224")):
            small = CATALOGUE[next(n for n in CATALOGUE if n.startswith(re.sub(r"_\d+$", "", c.name)))]
            assert (c.collection, c.n, c.classes, c.parts, c.licence) == (small.collection, small.n, small.classes, small.parts, small.licence)


def test_noncommercial_data_are_marked_in_every_size():
    derived = [c for c in CATALOGUE.values() if c.collection == "ham10000" and c.layout != "toy" and not c.part_of]
    assert len(derived) == 2 + 4 + 4 and all(c.noncommercial for c in derived)


def test_pcam_is_not_taken_in_by_the_swap_in_its_readme():
    pcam = {f.name: f for f in DATASETS["pcam-small"].files}
    assert pcam == {f.name: f for f in DATASETS["pcam-middle"].files}
    readme_says_valid = "d8c2d60d490dbd479f8199bdfa0cf6ec"
    assert pcam["camelyonpatch_level_2_split_test_x.h5.gz"].md5 == readme_says_valid
    assert all("README" in f.note for n, f in pcam.items() if "train" not in n)


NAMES = dict(chestxray="chest")


@pytest.mark.skipif(not CHECKSUMS.exists(), reason=f"NOT CHECKED: no list of checksums at {CHECKSUMS}; set CATSCANS_CHECKSUMS")
def test_files_equal_the_list_of_checksums():
    want = {}
    for r in json.loads(CHECKSUMS.read_text()):
        d = r["dataset"]
        if d.endswith("3d"): continue                                    # volumes: this study is about 2D images
        d = Path(r["file"]).stem if d.startswith("medmnist:") else NAMES.get(d, d)
        url = re.sub("^kaggle:", "https://www.kaggle.com/datasets/", r["url"] or "")
        want[d, r["file"]] = (url, r["bytes"], r["md5"] or "", r["sha256"] or "", r["login"])
    have = {(d, f.name): ((f.urls or ("",))[0], f.bytes, f.md5, f.sha256, f.login) for d, f in ALL}
    assert len(want) > 90
    assert {k: have.get(k) for k in want} == want


def test_table1():
    t = table1()
    assert list(t.index) == list(PAPER_SOURCES) and t.counted.isna().all()
    assert [n for n in t.index if t.target[n]] == list(PAPER_TARGETS)
    assert (t.corrected == t["on the card"]).all(), "the cards and the audited record agree"
    assert all(DATASETS[n].n_printed == t.printed[n] for n in t.index)


def test_counted_is_counted():
    class Two(list): pass
    t = table1(["dtd", "stl10"], count={"dtd": Two(range(7))})
    assert t.counted["dtd"] == 7 and t.counted.isna()["stl10"], "never guessed from the card"


def test_survey():
    s = survey_table1()
    for name in ("imagenet", "places365", "cifar10", "caltech101", "dtd", "kth-tips2b", "alot", "fmd", "uiuc", "kylberg", "corel1000", "kaggle-dr", "inbreast", "hep2"):
        assert name in s.index
    assert s.images.isna().sum() == 0 and list(s.index[s.classes.isna()]) == ["inbreast"]


def test_the_list_shows_every_set_once():
    text = listing(CATALOGUE)
    assert len({l[58:60] for l in text.splitlines() if l.startswith("  ")}) == 1      # the rows are aligned
    sets = [l.split()[0] for l in text.splitlines() if l.startswith("  ")]
    assert sets == short(CATALOGUE) and len(sets) < 70 and "pathmnist[_64|_128|_224]" in sets


def test_cards_are_light():
    code = ("import sys, catscans.datasets.catalogue as c; c.DATASETS['dtd'].files; c.listing(); "
            "assert not {'keras', 'tensorflow', 'pandas', 'matplotlib', 'scipy', 'PIL', 'catscans.datasets.store'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_images_per_class_sum_to_the_whole():
    for c in CATALOGUE.values():
        if c.counts and c.counts[0] == "each": assert c.counts[1]*c.classes == c.n, c.name
        elif c.counts: assert sum(n for _, n in c.counts) == c.n and len(c.counts) == c.classes, c.name
    assert sum(bool(c.counts) for c in CATALOGUE.values()) >= 6 and DATASETS["pcam-small"].drawn_from == 327_680


def test_counts_are_compared():
    from types import SimpleNamespace
    im = SimpleNamespace(classes=["NORMAL", "PNEUMONIA"])
    assert _odd_counts(DATASETS["chest"], im, np.array([1_583, 4_273])) == [] and _odd_counts(DATASETS["chest"], im, np.array([1_584, 4_272])) == ["NORMAL 1584, not 1583", "PNEUMONIA 4272, not 4273"]


def test_what_stands_in_place_of_a_file_names_one():
    for d, fs in _files().items():
        for f in fs: assert not set(f.instead) - {g.name for g in fs if not g.instead}, (d, f.name)
    assert DATASETS["sti10"].access == "not known" and CATALOGUE["kylberg"].access == "by hand" and CATALOGUE["kaggle-dr"].checksum == "none published"


def test_a_card_of_ones_own():
    c = Card("mine", "Mine", "medical", 12, classes=2)
    assert (c.files, c.open, c.access, c.checksum) == ((), False, "", "no file is offered") and File("a").checksum == ""
