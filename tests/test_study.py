"""The scripted person: it can do the tasks late and by keys alone, and a study of it is counted right."""

import json
import sys

import numpy as np
import pytest

import rlif_rlpd
from experts import human
from experts.record import read_record
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import report_mile
import scripted_person

LANDER, BUTTON = "LunarLanderContinuous-v3", "Meta-World/button-press-v3"


def drive(env_id, seed, tmp_path, monkeypatch):
    """An episode that the person drives alone: its return, whether it succeeds, and its actions."""
    monkeypatch.setattr(human, "Window", scripted_person.Hands)
    monkeypatch.setitem(human.this_run, "folder", tmp_path)
    args = type("Args", (), {"env_id": env_id, "keys": None})
    env = scripted_person.ScriptedPerson(rlif_rlpd.make_env(env_id), args, demonstrates=True)
    obs, _ = env.reset(seed=seed)
    score, actions, ended = 0.0, [], False
    while not ended:
        env.check(obs, None)
        actions.append(env.act(obs)[0].numpy())
        obs, reward, terminated, truncated, info = env.step(actions[-1])
        score, ended = score + reward, terminated or truncated
    return score, info.get("success"), np.array(actions)


def test_the_pilot_lands_by_full_thrust_or_none(tmp_path, monkeypatch):
    scores = []
    for seed in range(5):
        score, _, actions = drive(LANDER, seed, tmp_path, monkeypatch)
        scores.append(score)
        assert set(np.unique(actions)) <= {np.float32(-0.999), 0, np.float32(0.999)}
        assert (actions[:5, 1] == 0).all() or len(set(actions[:5, 1].tolist())) == 1  # late
    assert np.mean(scores) > 220 and min(scores) > 100


def test_the_button_is_pressed(tmp_path, monkeypatch):
    found = [drive(BUTTON, seed, tmp_path, monkeypatch) for seed in range(3)]
    assert all(success for _, success, _ in found)
    assert all(len(actions) < 250 for *_, actions in found)


def test_the_person_takes_over_from_a_robot_that_falls_and_a_replay_needs_nobody(
    tmp_path, monkeypatch
):
    options = [
        "rlif_rlpd", "--env-id", LANDER, "--demo-episodes", "0", "--batch-size", "16", "--hidden-sizes", "8",
        "--total-timesteps", "300", "--eval-frequency", "300", "--eval-episodes", "1", "--num-threads", "1",
        "--no-compile",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["scripted_person.py", *options])
    for module in (human, rlif_rlpd):
        monkeypatch.setattr(module, "Person", human.Person)  # and back, when the test ends
    monkeypatch.setattr(human, "Window", human.Window)
    scripted_person.main()
    (folder,) = tiny.Path("runs").iterdir()
    lines = [line for episode in read_record(folder).values() for line in episode]
    control = np.array([line["control"] for line in lines])
    assert 0.2 < control.mean() < 0.98 and not control[:5].any()
    assert any(line["started"] for line in lines)
    assert sum(line["updates"] for line in lines) == 300 - 16 - 1  # one a step, whatever the clock
    # interrupted in a takeover, the person goes on with it
    (folder / "checkpoint.pt").unlink()
    text = (folder / "person.csv").read_text().splitlines(keepends=True)
    cut = 1 + next(t for t in range(150, 300) if control[t - 3 : t + 3].all())
    (folder / "person.csv").write_text("".join(text[:cut]))
    monkeypatch.setattr(sys, "argv", ["scripted_person.py", "rlif_rlpd", "--resume", str(folder)])
    scripted_person.main()
    again = [line for episode in read_record(folder).values() for line in episode]
    assert [line["control"] for line in again] == control.tolist()
    assert np.array_equal([line["action"] for line in again], [line["action"] for line in lines])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, "--replay", folder, "--exp-name", "again"))
    (again,) = tiny.Path("runs").glob("*again*")
    assert tiny.evaluations(again) == tiny.evaluations(folder)


def test_other_tasks_and_scripts_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripted_person.py", "dagger"])
    with pytest.raises(scripted_person.InputError, match="give a script"):
        scripted_person.main()
    args = type("Args", (), {"env_id": "Hopper-v5", "keys": None})
    with pytest.raises(scripted_person.InputError, match="nobody knows what to do in Hopper-v5"):
        scripted_person.ScriptedPerson(rlif_rlpd.make_env("Hopper-v5"), args)


def test_a_study_is_read_at_the_evaluation_nearest_to_the_minute(tmp_path):
    columns = "global_step,return_mean,normalized_score,success_rate,stochastic_return_mean,"
    columns += "stochastic_normalized_score,stochastic_success_rate\n"

    def put(name, seed, scores, **summary):
        folder = tmp_path / "study" / name
        folder.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{step},{score},,,{score},,\n" for step, score in scores.items())
        (folder / f"seed_{seed}.csv").write_text(columns + rows)
        (folder / f"seed_{seed}.json").write_text(json.dumps(summary))

    for seed in (1, 2):
        put("lander-demonstrations", seed, {500: 0, 2000: 10 * seed})
        put(
            "lander-rlif", seed, {6000: 100, 12000: 200, 18000: 300 + seed},
            minutes=15, interventions=7, minutes_of_control=2.0,
        )  # fmt: skip
        put(
            "lander-mile", seed, {4100: 1, 7800: 2, 11900: 3, 16900: 4, 19000: 5},
            minutes=15.8, interventions=9, minutes_of_control=3.0,
        )  # fmt: skip
    lines = report_mile.study_table(tmp_path).splitlines()
    rlif = next(line for line in lines if line.startswith("| lander | rlif |"))
    cells = [cell.strip().split(" ")[0] for cell in rlif.strip("|").split("|")]
    assert cells[2:] == ["15", "100", "200", "302", "286", "-", "15", "7", "2"]
    mile = next(line for line in lines if line.startswith("| lander | mile |"))
    cells = [cell.strip().split(" ")[0] for cell in mile.strip("|").split("|")]
    assert cells[3:8] == ["2", "3", "5", "-10", "-296"]
