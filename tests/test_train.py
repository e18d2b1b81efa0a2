"""benchmark/train_experts.py: what is refused, that no file is lost, and what is in it."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import bc
import rlif_rlpd
from experts import InputError, demonstrations, load_demonstrations, load_expert, policies
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import train_experts

RECIPES = """
[defaults]
seed = 1
critics = false
critic_steps = 3
critic_transitions = 100
weak_clones = []
reward_scale = 0.25
precision = "float32"
lessons = 1
updates = 3
disturbances = [0.0]
label_noise = 0.2
episodes = 2
successes = false
score_episodes = 100
noise = 0.1
[Walled-v0]
high = { source = "demonstrations", min_score = 50, critics = true, weak_clones = [5] }
low = { source = "top", transitions = 20, critics = true }
demonstrations = {}
[LunarLanderContinuous-v3]
initial = { source = "scripted" }
mental = { source = "initial", label_noise = 0 }
top = { source = "scripted" }
[LunarLander-v3]
initial = { source = "scripted", label_noise = 0.5 }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository with nothing but recipes and a top expert for Walled-v0; short evaluations."""
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "recipes.toml").write_text(RECIPES)
    monkeypatch.setattr(train_experts, "ROOT", tmp_path)
    monkeypatch.setattr(policies, "FOLDER", tmp_path / "experts")
    monkeypatch.setattr(train_experts, "POOL", 200)
    monkeypatch.setattr(train_experts, "compiled", lambda function: function)
    fit = train_experts.fit
    monkeypatch.setattr(train_experts, "fit", lambda *what: fit(*what[:3], 3, *what[4:]))
    row = {"success_rate": np.nan, "normalized_score": np.nan, "return_mean": 5.0}
    row |= {"stochastic_return_mean": 3.0}
    monkeypatch.setattr(bc, "evaluate", lambda *_: row)
    (tmp_path / "experts" / "Walled-v0").mkdir(parents=True)
    path = tmp_path / "experts" / "Walled-v0" / "top.safetensors"
    tiny.write_expert(path, [[-5.0, 0.0]], noise=0.3)
    return tmp_path / "experts"


def run(level, env_id="Walled-v0", **options):
    train_experts.main(train_experts.Args(env_id, level, **options))


def test_there_is_a_recipe_for_every_shipped_file():
    recipes = tomllib.loads((tiny.ROOT / "benchmark" / "recipes.toml").read_text())
    del recipes["defaults"]
    there = {path.relative_to(tiny.EXPERTS) for path in tiny.EXPERTS.rglob("*.safetensors")}
    levels = [(env_id, x) for env_id in recipes for x in recipes[env_id] if x != "demonstrations"]
    assert {Path(env_id, f"{level}.safetensors") for env_id, level in levels} == there
    for env_id, levels in tiny.list_experts().items():
        demonstrated = (tiny.ROOT / "experts" / env_id / "demonstrations").exists()
        assert demonstrated == ("demonstrations" in recipes[env_id])
        for level in levels:
            critics = "qf.weights.0" in load_expert(env_id, level).tensors
            assert critics == recipes[env_id][level].get("critics", False)


@pytest.mark.parametrize(("level", "options", "said"), [
    ("lwo", {}, "no recipe for Walled-v0 lwo; there are Walled-v0 high, Walled-v0 low"),
    ("low", {"env_id": "Point-v0"}, "no recipe for Point-v0 low"),
    ("high", {}, "--level high needs --dataset-id"),
    ("mental", {"env_id": "LunarLanderContinuous-v3"}, "no expert 'initial'"),
])  # fmt: skip
def test_refused_in_one_line_before_any_work(level, options, said, folder, monkeypatch):
    monkeypatch.setattr(train_experts, "trange", None)  # there is no training without it
    with pytest.raises(InputError, match=said) as caught:
        run(level, **options)
    assert "\n" not in str(caught.value) and len(list(folder.rglob("*.safetensors"))) == 1


def test_a_file_is_replaced_only_where_output_names_it(folder, monkeypatch):
    run("low")
    path = folder / "Walled-v0" / "low.safetensors"
    before = path.read_bytes()
    with pytest.raises(InputError, match="low.safetensors is there; give --output"):
        run("low")
    run("low", output="new/folder/low.safetensors")
    assert path.read_bytes() == before == tiny.Path("new/folder/low.safetensors").read_bytes()


def test_critics_value_the_tasks_own_reward_whatever_scale_they_learn_in(folder, monkeypatch):
    learned, evaluate_policy = [], train_experts.evaluate_policy

    def keep(actor, data, recipe):
        qf = evaluate_policy(actor, data, recipe)
        obs, actions = torch.randn(20, 2), torch.rand(20, 1) * 2 - 1
        learned.append((data["rewards"].max(), obs, actions, qf(obs, actions).mean(0)))
        return qf

    monkeypatch.setattr(train_experts, "evaluate_policy", keep)
    run("low")
    ((highest, obs, actions, q),) = learned
    assert 0.15 < highest <= 0.25  # between the walls a step is worth up to 1
    expert = load_expert("Walled-v0", "low")
    torch.testing.assert_close(expert.q(obs, actions), q / 0.25)
    said = "cloned from 20 transitions of the top expert, seed 1; critics: policy evaluation"
    assert expert.facts["trained_by"] == said and expert.facts["level"] == "low"
    scores = [expert.facts[f"score_{name}"] for name in ("mean", "std", "of_mean_action")]
    assert scores == [3, 0, 5]


def test_a_policy_that_is_there_gets_critics_and_stays_as_it_is(folder):
    plain = tiny.write_expert("plain.safetensors", [[-5.0, 0.0]], noise=0.3, trained_by="hand")
    run("low", policy=plain, output="judge.safetensors")
    before, after = (load_expert("Walled-v0", x) for x in (plain, "judge.safetensors"))
    tiny.assert_same(before.state, after.state)
    assert "qf.weights.0" in after.tensors and "qf.weights.0" not in before.tensors
    assert after.facts["trained_by"] == "hand; critics: policy evaluation"


def test_a_success_that_ends_an_episode_is_worth_its_reward_for_ever(monkeypatch):
    def step(env, action):
        obs, reward, terminated, *others = tiny.Point.step(env, action)
        return obs, reward, terminated, False, {"success": obs[0] > 0}

    monkeypatch.setattr(tiny.Walled, "step", step)

    def push(obs):
        return np.where(obs[:, :1] > 0, 0.9, -0.9).astype(np.float32)

    data = train_experts.rollouts("Walled-v0", push, 200, 1, False)
    ends, up = data["terminations"] > 0, data["next_obs"][:, 0] > 0
    paid = ends & up
    assert data["rewards"].tolist() == pytest.approx([100.0 if x else 1.0 for x in paid], rel=1e-5)
    assert paid.any() and (ends & ~up).any()


def test_episodes_of_the_score_or_better_are_cloned_and_a_worse_set_refused(folder, monkeypatch):
    tiny.write_demonstrations("test/walled-v0", episodes=3, steps=6, env_id="Walled-v0")
    scores = {"found": [60.0, 40.0, 50.0]}
    monkeypatch.setattr(train_experts, "normalized_score", lambda *_: np.array(scores["found"]))
    seen, clone = [], train_experts.clone

    def keep(data, size=None):
        seen.append((len(data["obs"]), size))
        return clone(data, size)

    monkeypatch.setattr(train_experts, "clone", keep)
    run("high", dataset_id="test/walled-v0")
    assert seen == [(12, None), (12, 5)]  # two episodes; and who disturbs
    facts = load_expert("Walled-v0", "high").facts
    assert facts["trained_by"].startswith("cloned from 12 transitions of test/walled-v0; critics")
    scores["found"] = [1.0, 2.0, 3.0]
    with pytest.raises(InputError, match="the best episode of test/walled-v0 has only 3.0"):
        run("high", dataset_id="test/walled-v0", output="a.safetensors")


@pytest.mark.parametrize(("disturb", "others"), [(False, False), (True, False), (True, True)])
def test_rollouts_are_the_policys_but_for_spells_of_disturbance(disturb, others):
    def still(obs):
        return np.zeros((1, 1), dtype=np.float32)

    def push(obs):
        return np.full((1, 1), 0.9, dtype=np.float32)

    others = [push] if others else ()
    data = train_experts.rollouts("Walled-v0", still, 3_000, 1, disturb, others)
    # the push that was done
    torch.testing.assert_close(data["next_obs"][:, 1], 2 * data["actions"][:, 0])
    torch.testing.assert_close(data["rewards"], 1 - data["next_obs"][:, 0].abs())
    assert not data["terminations"].any()  # a time limit is not an end
    falls = train_experts.rollouts("Falls-v0", still, 8, 1, disturb)
    assert falls["terminations"].tolist() == [0, 0, 0, 1] * 2
    actions = data["actions"].reshape(60, 50)  # by episode
    alone, pushed = actions == 0, actions == data["actions"].new_tensor(0.9)
    assert alone.all() == (not disturb) and pushed.any() == bool(others)
    if disturb:
        assert 0.2 < alone.float().mean() < 0.8 and actions.abs().max() <= 0.9991
        assert 0.3 < alone[:, 0].float().mean() < 0.7  # half of the episodes begin with one
        changes = (alone[:, 1:] != alone[:, :-1]).float().mean()
        assert changes < 0.1  # it comes in spells


def test_miles_policies_are_cloned_from_their_teachers(folder):
    lander = "LunarLanderContinuous-v3"
    for level, teacher in {"initial": "scripted", "mental": "initial", "top": "scripted"}.items():
        run(level, lander)
        facts = load_expert(lander, level).facts
        assert facts["trained_by"] == f"cloned from 1 episodes of the {teacher} policy, seed 1"
        assert facts["min_log_std"] == pytest.approx(np.log(0.2) if level == "top" else -20)
    run("initial", "LunarLander-v3")
    assert load_expert("LunarLander-v3", "initial").discrete


def test_demonstrations_are_the_top_experts_with_noise(folder, monkeypatch):
    monkeypatch.setattr(demonstrations, "FOLDER", folder)
    run("demonstrations")
    data = load_demonstrations("Walled-v0", rlif_rlpd.make_env("Walled-v0"), 9, 1)
    assert data["ends"].sum() == 2 and len(data["obs"]) == 100
    expected = load_expert("Walled-v0", "top").act(data["obs"], deterministic=True).numpy()
    error = data["actions"] - expected
    assert 0.1 < error.std() < 0.4 and np.abs(data["next_obs"][:, 0]).mean() < 0.3


def test_on_meta_world_nobody_shows_how_to_fail(folder, monkeypatch):
    monkeypatch.setattr(demonstrations, "FOLDER", folder)
    recipes = folder.parent / "benchmark" / "recipes.toml"
    recipes.write_text(RECIPES.replace("successes = false", "successes = true"))
    play = train_experts.record.play

    def every_third_succeeds(env, driver, seed):
        episode = play(env, driver, seed)
        episode["terminations"][-1] = seed % 3 == 2
        return episode

    monkeypatch.setattr(train_experts.record, "play", every_third_succeeds)
    run("demonstrations")
    env = rlif_rlpd.make_env("Walled-v0")
    data = load_demonstrations("Walled-v0", env, 9, 1)
    ends = np.flatnonzero(data["ends"])
    assert len(ends) == 2 and data["terminations"][ends].all()
    starts = [data["obs"][0, 0], data["obs"][ends[0] + 1, 0]]
    assert starts == [env.reset(seed=seed)[0][0] for seed in (2, 5)]
