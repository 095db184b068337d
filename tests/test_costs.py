"What a study will take, said before it starts: from records where there are any, and quick for a large one."
import json, time
from dataclasses import replace

import pytest

from catscans.core import grid
from catscans.core.basics import UserError
from catscans.records import examples
from catscans.records.store import write
from catscans.study import costs, status
from catscans.study.cli import main
from catscans.study.done import expected_settings
from catscans.study.plan import plan

SECONDS = dict(pretrain=(12., 30.), finetune=(20., 90.))     # of a made-up machine: outside training, and in it


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path/"nbs"/"paper").mkdir(parents=True)
    for name in ("results", "audit"): (tmp_path/"nbs"/"paper"/f"{name}.ipynb").write_text(json.dumps(dict(cells=[])))
    monkeypatch.setenv("CATSCANS_PROJECT", str(tmp_path))
    monkeypatch.setenv("CATSCANS_WORK", str(tmp_path/"work"))
    monkeypatch.delenv("CATSCANS_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def ran(run, factor=1.):
    "the record of a run on a made-up machine"
    rec, (fixed, trained) = examples.example_record(run), SECONDS[run.kind]
    rec["settings"] |= expected_settings(run)
    rec["env"]["device"] = "cpu"
    rec["timing"] |= dict(started="2026-12-01T00:00:00", wall_s=fixed + factor*trained, train_s=factor*trained, energy_wh=1., energy_mode="measured: processor package counters")
    return rec


def test_a_figure_is_measured_where_there_are_records_and_assumed_elsewhere(project):
    first, *_ = steps = [s for s in plan("toy") if s.run]
    before = costs.costs_of(steps)
    assert all(f.assumed for c in before.values() for f in vars(c).values())
    write(ran(first.run))
    after = costs.costs_of(steps)
    assert after[first.slug].energy_wh.how == "measured: 1 run like it" and not after[first.slug].hours.assumed
    assert after[steps[1].slug].hours.how == "measured: 1 run like it, by images"        # another source of the same kind
    tuned = next(s for s in steps if s.notebook == "finetune")
    assert after[tuned.slug].hours.assumed and "1 run of other networks or sizes" in after[tuned.slug].hours.how


def test_time_grows_with_the_images_but_not_what_stands_around_them(project):
    steps = [s for s in plan("toy") if s.notebook == "pretrain"]
    write(ran(steps[0].run))
    history = costs.History(costs.past_runs())
    w = history.past[0].work
    seconds = lambda n: 3600*history.rate(w).of(replace(w, passes=n*w.passes)).value
    assert [round(seconds(n), 6) for n in (1, 2, 10)] == [42, 72, 312]


def test_a_planned_study_is_said_with_its_sum_and_its_jobs(project, capsys):
    assert main(["plan", "--profile", "toy", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["left"] == len(said["each"]) == said["steps"] == 38
    assert said["all"]["hours"]["value"] == pytest.approx(sum(c["hours"]["value"] for c in said["each"]))
    assert all(f["how"].split(":")[0] in ("measured", "assumed") for c in said["each"] for k, f in c.items() if k in vars(costs.Cost(*[costs.Figure(1, "assumed")]*4)))
    assert main(["plan", "--profile", "toy", "--engine", "slurm", "--part", "x"]) == 2
    assert main(["plan", "--profile", "toy", "--engine", "slurm"]) == 0
    page = capsys.readouterr().out
    assert "each job asks for" in page and "1 GPU where it trains" in page and not (project/"work").exists()


def test_a_cluster_without_gpus_says_so(project, monkeypatch):
    monkeypatch.setenv("CATSCANS_GPUS", "0")
    assert costs.work_of(plan("toy")[0], "cpu") == costs.work_of(plan("toy")[0]) and costs.gpus_asked() == 0
    monkeypatch.setenv("CATSCANS_GPUS", "many")
    with pytest.raises(UserError, match="received 'many', allowed are 0"): costs.gpus_asked()


def test_memory_is_what_the_last_process_of_a_step_held(project):
    step = plan("toy")[0]
    step.marker.write_text(json.dumps(dict(slug=step.slug, state="done", seconds=3., peak_mb=1234., time=0.)))
    c = costs.costs_of([step])[step.slug]
    assert (c.memory_mb.value, c.memory_mb.how) == (1234, "measured: by its last process")
    assert costs.asked(c)["mem_mb"] >= 1.3*1234


@pytest.mark.slow(20)
def test_cut_networks_cost_what_their_card_is_scaled_to():
    from catscans.models.networks import multiply_adds
    from catscans.models.resnet import resnet50
    for cut in ("conv2", "conv3", "conv4"):
        model = resnet50(2, 224, arch=f"resnet50-{cut}")
        head = model.layers[-1]
        own = (model.count_params() - head.count_params(), multiply_adds(model) - head.kernel.shape[0]*head.kernel.shape[1])
        assert own == costs.network_cost(f"resnet50-{cut}")


@pytest.mark.slow(30)
def test_two_thousand_steps_are_planned_and_looked_at_in_ten_seconds(project, monkeypatch):
    p = grid.PROFILES["toy"]
    many = replace(p, name="many", seeds=tuple(range(1, 56)))
    monkeypatch.setitem(grid.PROFILES, "many", many)
    steps = [s for s in plan("many") if s.run]
    assert len(steps) >= 1900
    for s in steps[:len(steps)//2]: write(ran(s.run))
    for what in (lambda: costs.plan_text(costs.planned("many")), lambda: status.status("many")):
        start = time.process_time()
        what()
        assert time.process_time() - start < 10
