"""How the shipped experts are trained: what is refused before any work, that no file is lost, and what is in it."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rlif_rlpd
from experts import InputError, load_expert, policies, train
from tests import tiny

ROW = {
    "return_mean": 1.0, "return_std": 2.0, "normalized_score": np.nan, "success_rate": np.nan,
    "stochastic_return_mean": 3.0, "stochastic_return_std": 4.0, "stochastic_normalized_score": np.nan,
    "stochastic_success_rate": np.nan,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with nothing but a top expert for Walled-v0; rollouts, cloning and evaluation that cost no time."""
    for module in (policies, train):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "experts")

    def untrained(obs, actions):
        return rlif_rlpd.Actor(obs.shape[1], actions.shape[1], (256, 256))

    monkeypatch.setattr(train, "evaluate", lambda *args: dict(ROW))
    monkeypatch.setattr(train, "POOL", 1_000)
    monkeypatch.setattr(train, "clone", untrained)
    (tmp_path / "experts" / "Walled-v0").mkdir(parents=True)
    tiny.write_expert(
        tmp_path / "experts" / "Walled-v0" / "top.safetensors", [[-5.0, 0.0]], noise=0.3
    )
    return tmp_path / "experts"


def run(options):
    train.main(train.parse_args(options.split()))


def contents(folder):
    """Every file and folder below, with what is in it."""
    return {path: path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")}


LANDER, ARM = "--env-id LunarLanderContinuous-v3", "--env-id Meta-World/drawer-open-v3"


@pytest.mark.parametrize(("options", "said"), [
    ("--level lwo", "--level must be one of top, high, middle, low, poor for Hopper-v5, not lwo"),
    (f"{LANDER} --level low", "--level must be one of top, initial, mental for LunarLanderContinuous-v3, not low"),
    ("--seed -1", "--seed must be zero or more, not -1"),
    ("--transitions 1", "--transitions must be from 2 to 50000, not 1"),
    ("--transitions -5", "--transitions must be from 2 to 50000, not -5"),
    ("--transitions 50001", "--transitions must be from 2 to 50000, not 50001"),
    (f"{LANDER} --level initial --updates 0", "--updates must be positive, not 0"),
    (f"{LANDER} --level initial --lessons 0", "--lessons must be positive, not 0"),
    (f"{LANDER} --level initial --lessons -1", "--lessons must be positive, not -1"),
    (f"{LANDER} --level initial --disturbances", "--disturbances needs numbers of zero or more, at least one"),
    (f"{LANDER} --level initial --disturbances nan", "--disturbances needs numbers"),
    (f"{LANDER} --level initial --label-noise -1", "--label-noise must be zero or more, not -1"),
    (f"{LANDER} --level top --label-noise 0", "--label-noise must be positive for --level top"),
    (f"{LANDER} --level initial --improve-steps 10", "--improve-steps: .* leave it out"),
    (f"{LANDER} --level initial --critics", "--critics: there are none for LunarLanderContinuous-v3"),
    (f"{ARM} --level top --critics", "--critics: there are none for Meta-World/drawer-open-v3"),
    (f"{ARM} --level top --dataset-id any/set-v0", "--dataset-id: .* leave it out"),
    ("--level low --dataset-id any/set-v0", "--dataset-id: --level low of Hopper-v5 is not cloned from demonstrations"),
    ("--level low --improve-steps 10", "--improve-steps: --level low of Hopper-v5"),
    ("--level low --min-score 10", "--min-score: --level low of Hopper-v5"),
    ("--level top", "--level top needs --dataset-id"),
    ("--level top --dataset-id a/b-v0 --improve-steps 10 --num-qs 1", "--improve-steps needs --num-qs 2"),
    ("--level top --dataset-id a/b-v0 --min-score nan", "--min-score must be a number, not nan"),
    ("--env-id Walled-v0 --level top --dataset-id a/b-v0 --min-score 5", "--min-score: there are no scores"),
    ("--critics --critic-steps 0", "--critic-steps must be positive, not 0"),
    ("--critics --weak-clones 5 1", "--weak-clones needs sizes of 2 or more"),
    ("--reward-scale 0", "--reward-scale must be positive"),
    ("--env-id Switched-v0 --level top --dataset-id a/b-v0", "--env-id Switched-v0: needs continuous actions"),
    ("--env-id NoSuch-v0 --level low", "--env-id NoSuch-v0"),
    ("--output a_folder", "--output must be the path of a .safetensors file, not a_folder"),
    ("--output a_folder.safetensors", "--output must be the path of a .safetensors file, not a_folder.safetensors"),
    ("--output a_file/a.safetensors", "cannot write a_file/a.safetensors: Not a directory; give another --output"),
    ("--env-id Point-v0 --level low", "from the top expert of Point-v0, which is not there: train .* with --level top"),
    (f"{LANDER} --level mental", "from the initial expert of LunarLander.*: train it first, with --level initial"),
])  # fmt: skip
def test_refused_in_one_line_before_any_work(options, said, own_folder, monkeypatch):
    monkeypatch.setattr(train, "trange", None)  # there is no training without it
    monkeypatch.setattr(train, "tqdm", None)  # nor rollouts without that
    for module in (policies, train):
        monkeypatch.setattr(module, "FOLDER", own_folder / "experts")
    (own_folder / "a_folder.safetensors").mkdir()
    (own_folder / "a_file").touch()
    before = contents(own_folder)
    with pytest.raises(InputError, match=said) as caught:
        run(options)
    assert "\n" not in str(caught.value) and contents(own_folder) == before


def test_a_file_is_replaced_only_where_output_names_it(folder, monkeypatch):
    options = "--env-id Walled-v0 --level low --transitions 20"
    run(options)
    path = folder / "Walled-v0" / "low.safetensors"
    before = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
        patch.setattr(train, "tqdm", None)  # no rollouts
        run(options)
    assert (
        str(caught.value)
        == f"{path} is there: give --output and a new path, or --output {path} to replace it"
    )
    assert path.read_bytes() == before
    run(f"{options} --output new/folder/low.safetensors")
    assert path.read_bytes() == before and Path("new/folder/low.safetensors").exists()
    run(f"{options} --output {path} --seed 2")
    assert load_expert("Walled-v0", "low").facts["trained_by"].endswith("seed 2")
    assert path.read_bytes() != before


def test_with_no_options_a_shipped_file_would_be_replaced_which_is_refused():
    with pytest.raises(InputError, match="Hopper-v5/low.safetensors is there: give --output"):
        run("")


@pytest.mark.parametrize("level", ["high", "top"])
def test_a_policy_is_trained_on_what_its_level_says(level, folder, monkeypatch):
    tiny.write_demonstrations("test/walled-v0", episodes=3, steps=6, env_id="Walled-v0")
    seen, clone = [], train.clone
    monkeypatch.setattr(
        train, "clone", lambda obs, actions: seen.append(obs) or clone(obs, actions)
    )
    source = "--dataset-id test/walled-v0" if level == "top" else "--transitions 20"
    run(f"--env-id Walled-v0 --level {level} {source} --output a.safetensors")
    assert [len(obs) for obs in seen] == [18 if level == "top" else 20]
    facts = load_expert("Walled-v0", "a.safetensors").facts
    said = (
        "18 transitions of test/walled-v0"
        if level == "top"
        else "20 transitions of the top expert, seed 1"
    )
    assert facts["trained_by"] == f"cloned from {said}" and facts["level"] == level


def test_a_score_that_no_demonstration_has_is_refused(folder):
    tiny.write_demonstrations("test/hopper-v0", episodes=2, steps=3, env_id="Hopper-v5")
    with pytest.raises(
        InputError, match="--min-score 50.0: the best episode of test/hopper-v0 has 0.8"
    ):
        run("--level top --dataset-id test/hopper-v0 --min-score 50")


def test_episodes_of_the_score_or_better_are_cloned(folder, monkeypatch):
    demos = {
        "obs": np.arange(18.0).reshape(9, 2),
        "actions": np.zeros((9, 1)),
        "ends": [0, 1, 0, 0, 1, 0, 0, 0, 1],
    }
    demos["rewards"] = [30.0, 30, 10, 10, 10, 25, 15, 15, 5]  # the episodes have 60, 30 and 60
    demos = {name: np.array(values, dtype=np.float32) for name, values in demos.items()}
    monkeypatch.setattr(train, "load_demonstrations", lambda *args, **options: demos)
    monkeypatch.setattr(train, "normalized_score", lambda env_id, returns: returns)
    seen, clone = [], train.clone
    monkeypatch.setattr(
        train, "clone", lambda obs, actions: seen.append(obs) or clone(obs, actions)
    )
    run(
        "--env-id Walled-v0 --level top --dataset-id any/set-v0 --min-score 60 --output a.safetensors"
    )
    assert seen[0][:, 0].tolist() == [0, 2, 10, 12, 14, 16]


def test_critics_value_the_tasks_own_reward_whatever_scale_they_learn_in(folder, monkeypatch):
    learned = []

    def evaluate_policy(actor, data, args, steps):
        agent = train.learner(actor, args, num_min_qs=1)
        learned.append((copy.deepcopy(agent.qf), data["rewards"].clone()))
        return agent

    monkeypatch.setattr(train, "evaluate_policy", evaluate_policy)
    options = "--env-id Walled-v0 --level low --transitions 20 --critics --critic-transitions 100 --reward-scale 0.25"
    run(f"{options} --output a.safetensors")
    ((qf, rewards),) = learned
    assert 0.15 < rewards.max() <= 0.25  # between the walls a step is worth up to 1
    obs, actions = torch.randn(20, 2), torch.rand(20, 1) * 2 - 1
    expert = load_expert("Walled-v0", "a.safetensors")
    torch.testing.assert_close(expert.q(obs, actions), qf(obs, actions).mean(0).detach() / 0.25)
    assert expert.facts["trained_by"].endswith("; critics: policy evaluation")


@pytest.mark.parametrize(("disturb", "others"), [(False, False), (True, False), (True, True)])
def test_rollouts_are_the_policys_but_for_spells_of_disturbance(disturb, others):
    def still(obs):
        return np.zeros((1, 1), dtype=np.float32)

    def push(obs):
        return np.full((1, 1), 0.9, dtype=np.float32)

    data = train.rollouts(
        "Walled-v0", still, 3_000, seed=1, disturb=disturb, others=[push] if others else ()
    )
    assert {name: tuple(values.shape) for name, values in data.items()} == {
        "obs": (3_000, 2), "next_obs": (3_000, 2), "actions": (3_000, 1), "rewards": (3_000,), "terminations": (3_000,)
    }  # fmt: skip
    # the push that was done
    torch.testing.assert_close(data["next_obs"][:, 1], 2 * data["actions"][:, 0])
    torch.testing.assert_close(data["rewards"], 1 - data["next_obs"][:, 0].abs())
    actions = data["actions"].reshape(60, 50)  # by episode
    alone, pushed = actions == 0, actions == data["actions"].new_tensor(0.9)
    assert alone.all() == (not disturb) and pushed.any() == others
    if disturb:
        assert 0.2 < alone.float().mean() < 0.8 and actions.abs().max() <= 0.9991
        assert 0.3 < alone[:, 0].float().mean() < 0.7  # half of the episodes begin with one
        changes = (alone[:, 1:] != alone[:, :-1]).float().mean()
        assert changes < 0.1  # it comes in spells


def test_a_beginner_and_what_is_expected_of_them_are_trained_on_their_own_task(folder):
    for level in ("initial", "mental"):
        run(f"{LANDER} --level {level} --lessons 1 --updates 3")
        facts = load_expert("LunarLanderContinuous-v3", level).facts
        teacher = {"initial": "scripted", "mental": "initial"}[level]
        assert facts["trained_by"].startswith(f"cloned from 1 episodes of the {teacher} policy")


@pytest.mark.parametrize(("known", "said"), [
    ({}, {"score_mean": 3.0, "score_std": 4.0, "score_of_mean_action": 1.0}),
    ({"success_rate": 60.0, "stochastic_success_rate": 90.0},
     {"score_mean": 90.0, "score_std": 30.0, "score_of_mean_action": 60.0}),
    ({"normalized_score": 20.0, "stochastic_normalized_score": 30.0},
     {"score_mean": 30.0, "score_std": 7 - 30.0, "score_of_mean_action": 20.0}),
])  # fmt: skip
def test_a_file_says_how_good_its_policy_is_by_sampled_actions_and_by_mean_ones(
    known, said, folder, monkeypatch
):
    monkeypatch.setattr(train, "evaluate", lambda *args: ROW | known)
    monkeypatch.setattr(train, "normalized_score", lambda env_id, returns: returns)  # 3 + 4 is 7
    run("--env-id Walled-v0 --level low --transitions 20 --output a.safetensors")
    facts = load_expert("Walled-v0", "a.safetensors").facts
    assert {name: facts[name] for name in said} == said and facts["score_episodes"] == 100
    assert facts["hidden_sizes"] == [256, 256] and (facts["obs_dim"], facts["act_dim"]) == (2, 1)


def test_reinforcement_learning_begins_with_the_clone_and_keeps_the_best_of_its_evaluations(
    folder, monkeypatch
):
    tiny.write_demonstrations("test/walled-v0", episodes=3, steps=20, env_id="Walled-v0")
    rollouts, evaluate_policy, clones, seen = train.rollouts, train.evaluate_policy, [], []

    def few_rollouts(env_id, act, transitions, seed, disturb):
        data = rollouts(env_id, act, 200, seed, disturb)
        rows = torch.arange(transitions) % 200
        return {name: values[rows] for name, values in data.items()}

    def evaluate(env_id, actor, envs, episodes, seed):
        seen.append(copy.deepcopy(actor.state_dict()))
        return ROW | {"stochastic_return_mean": [5.0, 4.0, 4.0][len(seen) - 1]}

    def clone(obs, actions):
        clones.append(rlif_rlpd.Actor(2, 1, (256, 256)))
        return copy.deepcopy(clones[0])

    for name, function in (("rollouts", few_rollouts), ("evaluate", evaluate), ("clone", clone)):
        monkeypatch.setattr(train, name, function)
    monkeypatch.setattr(train, "evaluate_policy", lambda *what, steps: evaluate_policy(*what, 5))
    monkeypatch.setattr(train, "compiled", lambda function: function)
    monkeypatch.setattr(train, "EVALUATE_EVERY", 10)
    source = "--dataset-id test/walled-v0 --improve-steps 20"
    run(f"--env-id Walled-v0 --level top {source} --output a.safetensors")
    assert len(seen) == 3  # two on the way, and the file's
    begun, best, last = clones[0].state_dict(), seen[0], seen[1]
    assert torch.equal(best["log_std.bias"], begun["log_std.bias"])  # the noise is not learned
    for name in ("layers.0.weight", "mean.bias"):
        assert not torch.equal(best[name], begun[name]) and not torch.equal(best[name], last[name])
        torch.testing.assert_close(best[name], begun[name], atol=0.02, rtol=0)
    tiny.assert_same(load_expert("Walled-v0", "a.safetensors").state, dict(best))


def test_the_path_of_the_file_can_be_run_as_well_as_the_module():
    process = subprocess.run(
        [sys.executable, "experts/train.py"], cwd=tiny.ROOT, capture_output=True, text=True
    )
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert process.stderr.startswith("experts.train: ") and "--output" in process.stderr
