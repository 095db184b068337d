"""The interval of a difference of two starts: what the committed simulation says of it, and that the simulation gives such numbers again."""
import numpy as np, pandas as pd, pytest

from fakes import ROOT
from catscans.metrics.draws import contrast
from catscans.metrics.draws_level import DRAWS, METHODS, MINE, MOST, OVER, SETTINGS, Setting, pieces, rows_of, said, study, too_bold

TABLE = ROOT/"results"/"simulation"/"draws.csv"


@pytest.fixture(scope="module")
def table(): return pd.read_csv(TABLE)


def test_the_interval_keeps_its_level_in_every_setting_of_the_design(table):
    "three and six draws, held-out parts of 300 to 500 images, draws that vary not, less than, as much as and more than images do"
    assert tuple(dict.fromkeys(table.setting)) == tuple(s.name for s in SETTINGS)
    assert set(table.method) == {*METHODS, *OVER} and set(table.draws) == set(DRAWS)
    assert len(mine := table[table.method == MINE]) == len(SETTINGS)*len(DRAWS) and mine.studies.min() >= 1500
    assert not len(too_bold(table)) and mine.level.max() < MOST and not len(too_bold(table, "8 targets, signs"))
    ratio = mine.se_draws/mine.se_images
    assert ratio.min() < .7 and ratio.between(.85, 1.2).any() and ratio.max() > 2


def test_what_else_was_tried_is_too_bold(table):
    for method in ("both, Satterthwaite", "draws alone", "held-out images alone"): assert len(too_bold(table, method)), method
    assert said(table).count("%") > 8


def test_a_setting_gives_its_committed_numbers_again(table):
    "150 studies against 1,500: within four of their errors"
    s = SETTINGS[2]
    new = rows_of(Setting(**{**vars(s), "studies": 150}), over=False).set_index(["draws", "method"])
    old = table[table.setting == s.name].query("method in @METHODS").set_index(["draws", "method"]).loc[new.index]
    for value in ("level", "power_02", "power_05"):
        error = np.sqrt((old[value]*(1 - old[value])).clip(lower=.01)/150)
        assert ((new[value] - old[value]).abs() < 4*error).all(), (value, new[value] - old[value])
    assert np.allclose(new.half_width, old.half_width, rtol=.12)


def test_the_simulated_interval_is_the_one_that_is_used():
    first, *rest = study(Setting("one", 100), 3)
    p = pieces([[first, *rest]], 6)[0]
    assert np.isclose(METHODS[MINE](p, .025)[0], contrast([(1, rest[0]), (-1, first)])["half"])
