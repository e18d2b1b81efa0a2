"""benchmark/person.py: what it takes to take over, and what robot and person do."""

import json
import math
import sys

import pytest
import torch

import iwr
from experts import InputError, load_expert
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import person

pytestmark = pytest.mark.usefixtures("people")


@pytest.fixture
def walled(monkeypatch, tmp_path):
    """Walled's policies in the place of the shipped ones, and an empty folder of results."""

    def load(env_id, level, env, robot=False):
        path = f"../{level.replace('top', 'expert')}.safetensors"
        return load_expert(env_id, path, env, robot=robot)

    monkeypatch.setattr(person, "load_expert", load)
    monkeypatch.setattr(person, "EPISODES", 2)
    monkeypatch.setattr(person, "MOST", 0.6)
    monkeypatch.setattr(person, "RESULTS", tmp_path / "results")
    return tmp_path / "results" / "persons" / "walled.json"


@pytest.mark.parametrize(("successes", "score"), [((math.nan,) * 2, 4), ((math.nan, 1.0), 50)])
def test_success_counts_if_anybody_tells_of_it(successes, score, monkeypatch):
    found = [{"nu": torch.ones(1), "success": successes[0], "return": 3}]
    found.append({"nu": torch.zeros(4), "success": successes[1], "return": 5})
    monkeypatch.setattr(iwr, "rollout", lambda *_: found.pop(0))
    assert person.watched(None, None, None, (1,), (2,)) == (pytest.approx(0.2), score)


@pytest.fixture
def rates(monkeypatch):
    """A function that lets calibrate() measure the rates script[cost], one after the other."""

    def scripted(script):
        asked = []

        def watched(env, actor, human, *keys):
            asked.append((human.cost, keys))
            return script[human.cost].pop(0), 70.0

        monkeypatch.setattr(person, "watched", watched)
        return asked

    return scripted


def test_calibration_takes_the_first_cost_below_the_target_that_holds_on_others(rates):
    script = {0.0: [0.5], 1.0: [0.2, 0.35], 2.0: [0.3], 3.0: [0.1, 0.29]}
    asked, human = rates(script), iwr.ProbitHuman(iwr.Args(), None, None)
    tried = person.calibrate(None, None, human)
    assert human.cost == 3.0 and not any(script.values())
    assert [one["intervention_rate"] for one in tried] == [0.5, 0.2, 0.35, 0.3, 0.1, 0.29]
    first, others = ([(0, 3, e) for e in range(start, start + 15)] for start in (0, 15))
    costs = [(0.0, first), (1.0, first), (1.0, others), (2.0, first), (3.0, first), (3.0, others)]
    assert asked == [(cost, tuple(keys)) for cost, keys in costs]


def test_a_target_that_no_cost_reaches_is_refused(rates):
    asked = rates({cost: [0.5 - cost / 1_000] for cost in person.COSTS})
    with pytest.raises(InputError, match="the lowest rate of all c is 0.37") as caught:
        person.calibrate(None, None, iwr.ProbitHuman(iwr.Args(), None, None))
    assert "\n" not in str(caught.value) and [cost for cost, _ in asked] == list(person.COSTS)


def test_what_robot_and_person_do_is_found_and_written(walled):
    person.main("walled", "Walled-v0", 3.0)
    found = json.loads(walled.read_text())
    assert found["intervention_cost"] == found["calibration"][-1]["cost"] > 0
    assert 0 < found["intervention_rate"] < 0.75
    scores = [found[f"{name}_score"] for name in ("initial", "assisted", "expert")]
    assert scores[0] < 10 < 20 < scores[1] < scores[2] and scores[2] > 45  # of 50
    assert found["args"] == {"env_id": "Walled-v0", "intervention_scale": 3.0}
