"""The scripted person can do the tasks late and by keys alone; a study starts what it should."""

import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import rlif_rlpd
from experts import human, record
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import scripted_person

LANDER, BUTTON = "LunarLanderContinuous-v3", "Meta-World/button-press-v3"


@pytest.fixture(autouse=True)
def usual_person(monkeypatch):
    """Everybody else's window and person are back when a test ends."""
    for name in ("Window", "Person", "HYSTERESIS"):
        monkeypatch.setattr(human, name, getattr(human, name))


def drive(env_id, seed):
    """An episode that the person drives alone, as record.play returns it."""
    env, args = record.make_env(env_id, None), SimpleNamespace(env_id=env_id, keys=None)
    return record.play(env, scripted_person.ScriptedPerson(env, args), seed)


def test_the_pilot_lands_by_full_thrust_or_none():
    returns = []
    for seed in range(4):
        episode = drive(LANDER, seed)
        actions = np.array(episode["actions"]).round(2)  # (T, 2)
        assert set(np.unique(actions)) <= {-1, 0, 1}
        assert len(set(actions[:5, 0])) == 1  # late
        returns.append(sum(episode["rewards"]))
    assert np.mean(returns) > 200 and min(returns) > 100


def test_the_button_is_pressed():
    for seed in range(2):
        episode = drive(BUTTON, seed)
        assert episode["terminations"][-1] and len(episode["rewards"]) < 250


def script(monkeypatch, *words):
    """Run scripted_person.py with these words."""
    monkeypatch.setattr(sys, "argv", ["scripted_person.py", *tiny.words(*words)])
    scripted_person.main()


def test_the_person_takes_over_from_a_robot_that_falls_and_a_replay_needs_nobody(monkeypatch):
    options = f"--env-id {LANDER} --demo-episodes 0 --batch-size 16 --hidden-sizes 8 --no-compile"
    options += " --total-timesteps 300 --eval-frequency 300 --eval-episodes 1"
    script(monkeypatch, "rlif_rlpd", options)
    (folder,) = tiny.Path("runs").iterdir()
    lines = list(human.read_record(folder).values())
    control = np.array([line["control"] for line in lines])
    assert 0.2 < control.mean() < 0.98 and not control[:5].any()
    assert any(line["started"] for line in lines)
    before = tiny.evaluations(folder)
    # interrupted in a takeover, the person goes on with it
    (folder / "checkpoint.pt").unlink()
    text = (folder / "person.csv").read_text().splitlines(keepends=True)
    cut = 1 + next(t for t in range(150, 300) if control[t - 3 : t + 3].all())
    (folder / "person.csv").write_text("".join(text[:cut]))
    script(monkeypatch, "rlif_rlpd --resume", folder)
    again = list(human.read_record(folder).values())
    assert [line["control"] for line in again] == control.tolist()
    assert np.array_equal([line["action"] for line in again], [line["action"] for line in lines])
    assert tiny.evaluations(folder) == before
    options += f" --intervention human --replay {folder} --exp-name again"
    rlif_rlpd.main(tiny.parsed(rlif_rlpd, options))
    assert tiny.evaluations(tiny.folder_of("again")) == before


def test_other_tasks_and_scripts_are_refused(monkeypatch):
    with pytest.raises(SystemExit, match="give study, or a script with its options, not 'nothing'"):
        script(monkeypatch, "nothing")
    with pytest.raises(scripted_person.InputError, match="nobody is there for Hopper-v5"):
        drive("Hopper-v5", 1)


def test_a_study_starts_from_the_same_demonstrations_and_their_clone(monkeypatch, tmp_path):
    calls, kept = [], []
    monkeypatch.setattr(scripted_person.run, "RESULTS", tmp_path)

    def execute(name, command, seed, source, folder):
        calls.append((name, command, seed))
        return {"run": f"runs/{name}-{seed}"}

    monkeypatch.setattr(scripted_person.run, "execute", execute)
    monkeypatch.setattr(scripted_person.run, "keep", lambda *one: kept.append(one) or True)
    monkeypatch.setitem(scripted_person.TASKS, "lander", (LANDER, 1, "--rounds 14"))
    script(monkeypatch, "study --task lander --seeds 3")
    names = [name for name, *_ in calls]
    methods = tiny.words("demonstrations rlif hil-serl rlpd pvp pvp4real hg-dagger mile")
    assert names == [f"study/lander-{x}" for x in methods]
    assert len(kept) == 8 and {seed for *_, seed in calls} == {3}
    assert all("--dataset-id study/lander-3-v0 --demo-episodes 1" in x for _, x, _ in calls[:7])
    assert "--initial-policy runs/study/lander-demonstrations-3/model.safetensors" in calls[7][1]
    for _, command, _ in calls:  # and is understood by its script
        words = command.split()
        name = words[1] if "scripted_person" in words[0] else words[0].removesuffix(".py")
        module = runpy.run_path(str(tiny.ROOT / f"{name}.py"), run_name="script")
        tiny.tyro.cli(module["Args"], args=words[1 + ("scripted_person" in words[0]) :])
    env = rlif_rlpd.make_env(LANDER)
    demos = rlif_rlpd.load_demonstrations(LANDER, env, 1, 1, "study/lander-3-v0")
    assert demos["ends"].sum() == 1 and len(demos["obs"]) > 50
    script(monkeypatch, "study --task lander --seeds 3")  # the demonstrations are there
    assert calls[8:] == calls[:8]
