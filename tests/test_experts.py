"The form without a browser: what is clicked is on disk, nothing is lost, nothing is overwritten, and what comes out is what was clicked."
import io, os, sys

import numpy as np
import pytest

from catscans.core.basics import UserError
from catscans.records.authors import record
from catscans.metrics.agreement import krippendorff_interval
from catscans.similarity import annotate
from catscans.similarity import experts


class Pictures:
    "a dataset of one colour, so that its sheet tells which it is"
    size = 8
    def __init__(self, name, colour, n=60):
        self.name, self.paths, self.x = name, [f"{name}/{i}" for i in range(n)], np.full((n, 8, 8, 3), colour, np.uint8)


DATA = [Pictures("scans", 10), Pictures("pets", 90), Pictures("walls", 170)]
TRUE = dict(scans=("yes", "grey", "multiple", "yes", "yes", "both"), pets=("no", "rich", "one", "yes", "yes", "object"), walls=("no", "same tone", "none", "no", "no", "texture"))
says = lambda d: dict(zip(experts.PROPERTIES, TRUE[d]))


@pytest.fixture
def widgets(): return pytest.importorskip("ipywidgets", reason="SKIPPED: ipywidgets is not installed, the form was not tested")


def fill(form, change=None):
    while True:
        for p, a in (says(form.survey.dataset) | (change or {}).get(form.survey.dataset, {})).items(): form.questions[p].value = a
        if form.forward.disabled: return form
        form.forward.click()


def test_five_observers_fill_the_form(widgets, tmp_path):
    odd = {1: dict(scans=dict(texture="object")), 2: dict(scans=dict(texture="object"))}
    for o in range(1, 6): assert fill(annotate.annotate(DATA, o, tmp_path), odd.get(o)).survey.left == 0
    answers = experts.read_answers(tmp_path)
    assert len(answers) == 5*3*6 and sorted(f.name for f in tmp_path.iterdir()) == [f"observer-{o}.csv" for o in range(1, 6)]
    vote = experts.majority_vote(answers)
    assert experts.profiles(vote).T.to_dict() == {d: says(d) for d in vote.dataset.unique()}
    r = experts.reliability(answers)
    assert r.krippendorff_alpha["medical"] == 1 and r.krippendorff_alpha["texture"] < 1 and r.alpha_lo.isna().all()      # three datasets: no interval
    m = experts.distance_matrix(vote)
    assert (m.loc["scans", "pets"], m.loc["pets", "walls"]) == (4, 5)
    assert len({tuple(annotate.order_for([d.name for d in DATA], o)) for o in range(1, 6)}) > 1


def test_the_picture_belongs_to_the_dataset(widgets, tmp_path):
    from PIL import Image
    form = annotate.annotate(DATA, 3, tmp_path)
    colour = {d.name: d.x[0, 0, 0, 0] for d in DATA}
    for _ in DATA:
        assert np.asarray(Image.open(io.BytesIO(form.picture.value)))[0, 0, 0] == colour[form.survey.dataset]
        assert form.survey.dataset not in form.title.value + form.status.value        # its name would answer the first question
        form.turn(1)


def test_it_goes_on_after_a_break_at_any_click(widgets, tmp_path):
    "a new form after every single click ends with the same file as one without breaks"
    fill(annotate.annotate(DATA, 1, tmp_path/"whole"))
    done = False
    while not done:
        form = annotate.annotate(DATA, 1, tmp_path/"broken")
        open_ = next((p for p, b in form.questions.items() if b.value is None), None)
        if open_ is None: done = True
        else: form.questions[open_].value = says(form.survey.dataset)[open_]
    assert (tmp_path/"broken"/"observer-1.csv").read_text() == (tmp_path/"whole"/"observer-1.csv").read_text()


def test_next_waits_for_six_answers_and_answers_can_be_changed(widgets, tmp_path):
    form = annotate.annotate(DATA, 1, tmp_path)
    first = form.survey.dataset
    for p, a in list(says(first).items())[:5]: form.questions[p].value = a
    assert form.forward.disabled and form.back.disabled
    form.questions["texture"].value = "both"
    assert not form.forward.disabled
    form.forward.click(); form.back.click()
    assert form.questions["texture"].value == "both"
    form.questions["texture"].value = "texture"
    a = experts.read_answers(tmp_path, gaps=True)
    assert len(a) == 6 and a[a.property == "texture"].answer.tolist() == ["texture"]


def test_what_cannot_be_saved_is_said_and_taken_back(widgets, tmp_path):
    form, twin = (annotate.annotate(DATA, 1, tmp_path) for _ in range(2))
    form.questions["medical"].value = "yes"
    twin.questions["medical"].value = "no"
    assert "NOT SAVED" in twin.status.value and "at work twice" in twin.status.value and twin.questions["medical"].value is None
    assert experts.read_answers(tmp_path, gaps=True).answer.tolist() == ["yes"]


def test_a_death_while_saving_leaves_the_old_answers(tmp_path, monkeypatch):
    s = annotate.Survey(["pets", "scans"], 1, tmp_path)
    s.answer("medical", "no")
    before = s.path.read_text()
    def die(*_): raise KeyboardInterrupt
    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt): s.answer("colour", "rich")
    monkeypatch.undo()
    assert s.path.read_text() == before and [f.name for f in tmp_path.iterdir()] == ["observer-1.csv"]
    s.answer("colour", "rich")
    assert len(experts.read_answers(tmp_path, gaps=True)) == 2


def test_mistakes_are_named_before_the_form_opens(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="allowed are whole numbers from 1 to 7: scans has 60 images"): annotate.contact_sheet(DATA[0], 8)
    with pytest.raises(UserError, match="received no dataset"): annotate.Survey([], 1, tmp_path)
    with pytest.raises(UserError, match="received 0, allowed"): annotate.Survey(["pets"], 0, tmp_path)
    (tmp_path/"observer-1.csv").write_text("dataset,observer,property,answer\npets,2,medical,yes\n")
    with pytest.raises(UserError, match="holds answers of observer 2"): annotate.Survey(["pets"], 1, tmp_path)
    (tmp_path/"observer-1.csv").write_text("dataset,observer,property,answer\npets,1,medical,perhaps\n")
    with pytest.raises(UserError, match="received 'perhaps', allowed are yes, no"): annotate.Survey(["pets"], 1, tmp_path)
    (tmp_path/"observer-1.csv").write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(UserError, match="observer-1.csv"): annotate.Survey(["pets"], 1, tmp_path)
    with pytest.raises(UserError, match="holds no file observer-1.csv"): (tmp_path/"empty").mkdir(); experts.read_answers(tmp_path/"empty")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(UserError, match="ipywidgets is not installed; the form needs the extra `paper`"): annotate.annotate(DATA, 1, tmp_path/"none")
    assert not (tmp_path/"none").exists()


def test_any_name_on_one_line_is_kept(tmp_path):
    "begun again, a survey knows its answers, whatever signs the names hold; a file of the first version, which did not quote, goes on"
    names = ["a,b", "NA", "nan", "set#2", "#1", 'say "x"', '"whole"', " spaced ", "x;y", "\u00fc\u2028"]
    for _ in names:
        for p, q in experts.PROPERTIES.items(): annotate.Survey(names, 1, tmp_path).answer(p, q.answers[0])
    assert annotate.Survey(names, np.int64(1), tmp_path).left == 0
    answers = experts.read_answers(tmp_path)
    assert set(answers.dataset) == set(names) and answers.observer.tolist() == [1]*60
    for bad in ("two\nlines", "two\rlines", 7):
        with pytest.raises(UserError, match="allowed are names of one line"): annotate.Survey(["pets", bad], 2, tmp_path)
    old = tmp_path/"old"; old.mkdir()
    (old/"observer-2.csv").write_text("# observer 2, order of datasets drawn with seed 1\ndataset,observer,property,answer\nNA,2,medical,no\na,b,2,medical,yes\na,b,2,colour,grey\n")
    s = annotate.Survey(["a,b", "NA"], 2, old)
    assert s.of("a,b") == dict(medical="yes", colour="grey") and s.of("NA") == dict(medical="no") and s.left == 9
    s.answer("texture", "both")
    again = annotate.Survey(["a,b", "NA"], 2, old)
    assert again.left == 8 and again.of("a,b")["colour"] == "grey" and '"a,b",2,medical,yes' in again.path.read_text()


def test_a_table_by_hand_is_read_or_named(tmp_path):
    path = tmp_path/"answers.csv"
    head = "# who\n# when\ndataset,observer,property,answer,by\n"
    path.write_text(head + "pets,1,medical,no,a model\npets,1,colour,rich\n\n", encoding="utf-8-sig")     # a spreadsheet's first bytes; no value in the last column
    assert experts.read_answers(path, gaps=True).by.tolist() == ["a model", ""]
    for rows, says in [("pets,1,medical,no,a,b", "pets,1,medical,no,a,b has more values than columns"), ("# later", "property .*# later"), ('"pets,1,medical,no,x', "cannot be read as a table")]:
        path.write_text(head + rows + "\n")
        with pytest.raises(UserError, match=says): experts.read_answers(path)
    path.write_text("")
    with pytest.raises(UserError, match="columns dataset, observer, property, answer are missing"): experts.read_answers(path)


def test_interval_of_alpha_covers():
    "the bootstrap over units covers the known alpha about as often as it says"
    rng, hit = np.random.default_rng(1), 0
    for i in range(100):
        a = rng.integers(0, 3, 60)
        _, lo, hi = krippendorff_interval([a, np.where(rng.random(60) < .7, a, rng.integers(0, 3, 60))], n_boot=300, seed=i)
        hit += lo <= .7 <= hi
    assert 85 <= hit <= 100, hit


def test_other_questions_go_all_the_way(widgets, tmp_path):
    "a form of one's own: asked in the notebook's form, kept beside the answers, voted on and measured; never mixed with the pilot's"
    mine = tmp_path/"questions.csv"
    mine.write_text("key,question,answers\nsharp,Are the images sharp?,yes|no\ncount,How many things are in one?,one|few|many\n")
    for o in (1, 2, 3):
        form = annotate.annotate(DATA, o, tmp_path/"mine", form=mine)
        assert list(form.questions) == ["sharp", "count"] and form.survey.left == 6
        while True:
            for k, q in form.questions.items(): q.value = q.options[(len(form.survey.dataset) + (k == "count")*(o == 3)) % len(q.options)]
            if form.forward.disabled: break
            form.forward.click()
    answers = experts.read_answers(tmp_path/"mine")
    assert (tmp_path/"mine"/experts.FORM).exists() and list(experts.asked(answers)) == ["sharp", "count"] and len(answers) == 3*3*2
    m = experts.distance_matrix(experts.majority_vote(experts.answers_for([d.name for d in DATA], tmp_path/"mine")))
    assert m.loc["scans", "walls"] == 0 and m.loc["scans", "pets"] == 2 and experts.reliability(answers).index.tolist() == ["sharp", "count"]
    with pytest.raises(UserError, match="answers to other questions"): annotate.annotate(DATA, 1, tmp_path/"mine")
    with pytest.raises(UserError, match="the package's answers are to the pilot's questions"): experts.answers_for(["pets", "dtd10"], tmp_path/"mine")
    fill(annotate.annotate(DATA, 1, tmp_path/"pilot"))
    assert not (tmp_path/"pilot"/experts.FORM).exists()                                     # the pilot's answers are as they always were
    with pytest.raises(UserError, match="answers to other questions"): annotate.annotate(DATA, 2, tmp_path/"pilot", form=mine)


def test_the_papers_own_questions_are_not_invented(tmp_path):
    with pytest.raises(UserError, match="section IV.B is not in the authors' record; copy its six questions from the paper"): experts.form_of("paper")
    assert experts.form_of() == experts.PROPERTIES and {p.pilot for p in experts.PROPERTIES.values()} <= set(record().pilot_questions.question)
