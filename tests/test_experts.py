"""Policy files, the shipped experts, and demonstrations."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
import safetensors.torch
import torch
from minari.data_collector import EpisodeBuffer

import bc
import experts
import rlif_rlpd
from experts import (
    TRAINING_TASKS,
    Checked,
    Expert,
    InputError,
    UnitActions,
    demonstrations,
    list_experts,
)
from experts import (
    load_checkpoint,
    load_demonstrations,
    load_expert,
    open_task,
    policies,
    save_expert,
)
from tests import tiny

SHIPPED = [(env_id, level) for env_id, levels in list_experts().items() for level in levels]


def make_env(env_id, max_episode_steps=None, **options):
    """As every script makes it."""
    env = open_task(env_id, max_episode_steps, **options)
    return UnitActions(Checked(gym.wrappers.FlattenObservation(env)))


def test_saved_and_loaded_policy_acts_and_values_the_same(tmp_path):
    actor = rlif_rlpd.Actor(3, 2, (16, 8))
    qf = rlif_rlpd.QEnsemble(3, 2, (16, 8), 4)
    for parameter in [*qf.norm_weights, *qf.norm_biases]:
        parameter.data += 0.3 * torch.randn_like(parameter)
    mean, std = torch.randn(3), torch.rand(3) + 0.5
    for network in (actor, qf):
        network.obs_mean.copy_(mean)
        network.obs_std.copy_(std)
    tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
    tensors |= {f"qf.{name}": value for name, value in qf.state_dict().items()}
    facts = {"env_id": "Any-v0", "score_mean": 12.5}
    save_expert(tmp_path / "a.safetensors", tensors, **facts)

    expert = Expert(tmp_path / "a.safetensors")
    found = {"obs_dim": 3, "act_dim": 2, "hidden_sizes": [16, 8], "distribution": "tanh_gaussian"}
    assert expert.facts == facts | found
    assert (expert.obs_dim, expert.act_dim, expert.has_q) == (3, 2, True)
    obs, actions = torch.randn(50, 3), torch.rand(50, 2) * 2 - 1
    for deterministic in (True, False):
        torch.manual_seed(1)
        expected = actor.act(obs.numpy(), deterministic)
        torch.manual_seed(1)
        np.testing.assert_allclose(
            expert.act(obs.numpy(), deterministic).numpy(), expected, atol=1e-6
        )
    torch.testing.assert_close(expert.q(obs, actions), qf(obs, actions).mean(0).detach())


def test_critics_without_layer_norm_value_as_well(tmp_path):
    """The file format allows them: an agent of another library may have such critics."""
    actor, qf = rlif_rlpd.Actor(3, 2, (16, 8)), rlif_rlpd.QEnsemble(3, 2, (16, 8), 4)
    tensors = {f"actor.{name}": values for name, values in actor.state_dict().items()}
    tensors |= {
        f"qf.{name}": values for name, values in qf.state_dict().items() if "norm" not in name
    }
    save_expert(tmp_path / "a.safetensors", tensors)
    obs, actions = torch.randn(50, 3), torch.rand(50, 2) * 2 - 1
    x = torch.cat([obs, actions], dim=1)
    for i in range(2):
        x = torch.relu(x @ qf.weights[i] + qf.biases[i])  # (N, B, hidden)
    values = (x @ qf.weights[2] + qf.biases[2]).squeeze(-1).mean(0)
    torch.testing.assert_close(Expert(tmp_path / "a.safetensors").q(obs, actions), values.detach())


def test_the_kind_and_the_sizes_in_the_header_are_those_of_the_tensors():
    for actor, kind in ((bc.Actor, "tanh_gaussian"), (bc.CategoricalActor, "categorical")):
        tensors = {
            f"actor.{name}": values for name, values in actor(5, 3, (4, 7, 6)).state_dict().items()
        }
        save_expert("a.safetensors", tensors)
        facts = {"obs_dim": 5, "act_dim": 3, "hidden_sizes": [4, 7, 6], "distribution": kind}
        assert Expert("a.safetensors").facts == facts


def test_an_expert_acts_by_sampling_unless_told_otherwise():
    expert, obs = (
        Expert(tiny.write_expert("a.safetensors", [[0.0, 0.0]], noise=0.5)),
        torch.zeros(2_000, 2),
    )
    assert expert.act(obs).atanh().std().item() == pytest.approx(0.5, rel=0.1)
    assert not expert.act(obs, deterministic=True).any()
    switch = Expert(
        tiny.write_expert("b.safetensors", [[0.0, 0.0]] * 2, bias=[0.0, 1.0], discrete=True)
    )
    likelier = 1 / (1 + np.exp(-1))
    assert switch.act(obs).mean(0).numpy() == pytest.approx([1 - likelier, likelier], abs=0.05)


def test_the_reference_that_judges_samples_its_actions(monkeypatch):
    path = tiny.write_expert("a.safetensors", [[0.0, 0.0]], noise=0.5, qf=tiny.critics(2, 1))
    reference, compared = Expert(path), []
    value = reference.q

    def watched(obs, actions):
        compared.append(actions[1, 0])  # the first one is the proposal
        return value(obs, actions)

    monkeypatch.setattr(reference, "q", watched)
    human = rlif_rlpd.ValueHuman(rlif_rlpd.Args(), reference, np.random.default_rng(0))
    obs, proposal = np.zeros(2, dtype=np.float32), np.full(1, 0.123, dtype=np.float32)
    for _ in range(1_000):
        human.check(obs, proposal)
    assert len(compared) == 1_000 and np.arctanh(compared).std() == pytest.approx(0.5, rel=0.2)
    assert abs(np.arctanh(compared).mean()) < 0.15


def test_the_expert_in_control_samples_its_actions():
    expert = tiny.write_expert("expert.safetensors", [[0.0, 0.0]], noise=0.5)
    options = (
        "--env-id",
        "Walled-v0",
        "--expert",
        expert,
        "--intervention",
        "random",
        "--random-rate",
        99,
    )
    steps = (
        "--total-timesteps",
        400,
        "--eval-episodes",
        1,
        "--hidden-sizes",
        8,
        "--demo-episodes",
        0,
    )
    rb = load_checkpoint(tiny.run("a", *options, *steps, "--batch-size", 1_000) / "checkpoint.pt")[
        "kept"
    ]["rb"]
    actions = rb["actions"][:, 0].atanh()
    assert len(actions) == 400 and actions.std().item() == pytest.approx(0.5, rel=0.2)
    assert abs(actions.mean().item()) < 0.15


def test_a_pickle_is_no_policy_and_is_not_run():
    class Run:
        def __reduce__(self):
            return Path.touch, (Path("it_was_run"),)

    Path("a.safetensors").write_bytes(pickle.dumps(Run()))
    torch.save({"a": Run()}, "b.safetensors")
    for path in ("a.safetensors", "b.safetensors"):
        with pytest.raises(InputError, match=f"{path} is damaged or not an expert file"):
            load_expert("Point-v0", path)
    assert not Path("it_was_run").exists()


def test_a_header_with_other_sizes_than_the_tensors_is_refused():
    expert = Expert(tiny.write_expert("right.safetensors", [[0.0, 0.0]]))
    tensors = {f"actor.{name}": tensor for name, tensor in expert.state.items()}
    facts = expert.facts | {"hidden_sizes": [16]}  # save_expert would put in the tensors' own
    header = {"facts": json.dumps(facts), "sha256": policies._digest(tensors, facts)}
    Path("wrong.safetensors").write_bytes(safetensors.torch.save(tensors, header))
    with pytest.raises(
        InputError, match="wrong.safetensors: its tensors are not those of its header"
    ):
        Expert("wrong.safetensors")
    tensors["actor.obs_mean"] = tensors["actor.obs_mean"][None]
    policies.save_expert("wrong.safetensors", tensors)
    with pytest.raises(InputError, match="its tensors are not those of its header"):
        Expert("wrong.safetensors")


def test_what_else_is_in_a_file_is_left_alone():
    expert = Expert(tiny.write_expert("right.safetensors", [[0.0, 0.0]]))
    tensors = {f"actor.{name}": tensor for name, tensor in expert.state.items()}
    more = tensors | {"actor.value.weight": torch.zeros(1), "vf.weight": torch.zeros(1)}
    policies.save_expert("more.safetensors", more)
    assert Expert("more.safetensors").state.keys() == expert.state.keys()


def test_an_expert_stays_off_the_edges():
    tiny.write_expert("edge.safetensors", [[0.0, 0.0]], bias=100.0)
    assert Expert("edge.safetensors").act(np.zeros((1, 2), np.float32)).item() == pytest.approx(
        0.999
    )


def test_a_file_of_another_environment_is_taken_with_a_warning(capsys):
    path, env = "mine.safetensors", make_env("Point-v0")
    for facts, said in (
        (
            {"env_id": "Walled-v0"},
            f"warning: {path} was trained for Walled-v0, and is used for Point-v0\n",
        ),
        ({"env_id": "Point-v0"}, ""),
        ({}, ""),  # it does not say
    ):
        tiny.write_expert(path, [[0.0, 0.0]], **facts)
        assert load_expert("Point-v0", path, env).obs_dim == 2
        assert capsys.readouterr() == ("", said)
    # one that does not fit is refused, in one line
    tiny.write_expert(path, [[0.0]], env_id="Walled-v0")
    with pytest.raises(InputError):
        load_expert("Point-v0", path, env)
    assert capsys.readouterr() == ("", "")


def test_a_policy_without_critics_does_not_value():
    tiny.write_expert("blind.safetensors", [[0.0, 0.0]])
    expert = Expert("blind.safetensors")
    assert not expert.has_q
    with pytest.raises(InputError):
        expert.q(torch.zeros(1, 2), torch.zeros(1, 1))


def test_the_model_of_a_run_is_a_policy_file():
    options = (
        "--env-id",
        "Point-v0",
        "--reward",
        "task",
        "--intervention",
        "none",
        "--demo-episodes",
        0,
        "--num-qs",
        2,
    )
    steps = "--total-timesteps", 60, "--eval-episodes", 3, "--batch-size", 16, "--num-threads", 1
    steps = *steps, "--hidden-sizes", 32, 16
    folder = tiny.run("a", *options, *steps)
    trained = load_checkpoint(folder / "checkpoint.pt")["kept"]["agent"]
    actor, qf = rlif_rlpd.Actor(2, 1, (32, 16)), rlif_rlpd.QEnsemble(2, 1, (32, 16), 2)
    for part, name in ((actor, "actor."), (qf, "qf.")):
        part.load_state_dict(
            {key[len(name) :]: value for key, value in trained.items() if key.startswith(name)}
        )
    expert = load_expert("Point-v0", str(folder / "model.safetensors"), make_env("Point-v0"))
    obs, actions = torch.randn(20, 2), torch.rand(20, 1)
    np.testing.assert_allclose(
        expert.act(obs, True).numpy(), actor.act(obs.numpy(), True), atol=1e-6
    )
    torch.testing.assert_close(expert.q(obs, actions), qf(obs, actions).mean(0).detach())
    again = tiny.run(
        "b", *options[:2], *options[6:], *steps, "--expert", expert.path, "--reference", expert.path
    )
    assert (again / "model.safetensors").exists()


# --- the recipe for an agent of Stable-Baselines3 --------------------------------------------------------------------


class Stable(torch.nn.Module):
    """The policy of an SAC agent of Stable-Baselines3: layers by their names there."""

    def __init__(self, activation, sizes=(16, 8)):
        super().__init__()
        layers = []
        for size_in, size in zip((11, *sizes), sizes):
            layers += [torch.nn.Linear(size_in, size), activation()]
        self.latent_pi = torch.nn.Sequential(*layers)
        self.mu, self.log_std = torch.nn.Linear(sizes[-1], 3), torch.nn.Linear(sizes[-1], 3)

    def forward(self, obs):
        return self.mu(self.latent_pi(obs)).tanh()


@pytest.fixture
def follow_recipe(monkeypatch):
    """follow_recipe(policy, statistics) runs the README's code for an agent with this policy."""
    code = (
        (policies.FOLDER / "README.md")
        .read_text()
        .split("## Your own policy")[1]
        .split("```python")[1]
    )
    code = code.split("```")[0]

    def follow(policy, statistics=None):
        agent, library = (
            SimpleNamespace(policy=SimpleNamespace(actor=policy)),
            ModuleType("stable_baselines3"),
        )
        library.SAC = SimpleNamespace(load=lambda path: agent)
        monkeypatch.setitem(sys.modules, "stable_baselines3", library)
        assert code.count("statistics = None  #") == 1
        given = code.replace("statistics = None  #", "statistics = given  #")
        exec(given, {"given": statistics})
        return load_expert("Hopper-v5", "my_agent.safetensors", make_env("Hopper-v5"))

    return follow


def test_the_recipe_for_stable_baselines_makes_the_same_policy(follow_recipe):
    policy, obs = Stable(torch.nn.ReLU), torch.randn(50, 11) * 3 + 1
    expert = follow_recipe(policy)
    torch.testing.assert_close(expert.act(obs, deterministic=True), policy(obs).detach())
    log_std = policy.log_std(policy.latent_pi(obs)).detach()
    torch.testing.assert_close(expert(obs)[1], log_std)
    assert expert.facts["env_id"] == "Hopper-v5" and expert.facts["hidden_sizes"] == [16, 8]


def test_the_recipe_for_stable_baselines_takes_the_statistics_of_its_observations_along(
    follow_recipe,
):
    policy, obs = Stable(torch.nn.ReLU), torch.randn(50, 11) * 3 + 1
    moments = SimpleNamespace(mean=np.linspace(-1, 3, 11), var=np.linspace(0, 9, 11))
    expert = follow_recipe(policy, SimpleNamespace(obs_rms=moments, epsilon=0.01, clip_obs=10.0))
    normalised = (obs - torch.tensor(moments.mean)) / torch.tensor(moments.var + 0.01).sqrt()
    torch.testing.assert_close(
        expert.act(obs, deterministic=True), policy(normalised.float()).detach()
    )


@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.ELU])
def test_the_recipe_for_stable_baselines_refuses_layers_that_the_format_does_not_have(
    activation, follow_recipe
):
    with pytest.raises(SystemExit, match=activation.__name__):
        follow_recipe(Stable(activation))
    assert not Path("my_agent.safetensors").exists()


# --- the shipped experts ---------------------------------------------------------------------------------------------


def test_experts_are_shipped():
    assert {"low", "middle", "top"} <= set(list_experts()["Hopper-v5"])


@pytest.mark.parametrize(("env_id", "level", "said"), [
    ("Hopper-v5", "best", "no expert 'best' for Hopper-v5 (known: low, middle, top); give a level or the path of "),
    ("Hopper-v5", "poor", "no expert 'poor' for Hopper-v5 (known: low, middle, top; 'poor' is there for Walker2d-v5); "
                          "give a level or the path of a .safetensors file"),
    ("Hopper-v4", "low", "no expert 'low' for Hopper-v4 (none are shipped for it; 'low' is there for AdroitHandPen-v1, "
                         "Hopper-v5, Walker2d-v5); give the path of a .safetensors file"),
    ("Point-v0", "best", "no expert 'best' for Point-v0 (none are shipped for it); give the path of a .safetensors"),
])  # fmt: skip
def test_a_level_that_is_not_there_is_answered_with_what_is(env_id, level, said):
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        load_expert(env_id, level)


def test_what_is_expected_of_a_beginner_has_next_to_no_noise_where_the_beginner_goes():
    env_id = "Meta-World/drawer-open-v3"
    initial, mental = (load_expert(env_id, level) for level in ("initial", "mental"))
    env, states = make_env(env_id), []
    obs, _ = env.reset(seed=0)
    for _ in range(100):
        states.append(obs)
        obs, *_ = env.step(initial.act(obs[None], deterministic=True)[0].numpy())
    noise = [policy(np.array(states))[1].exp().median() for policy in (initial, mental)]
    assert noise[0] > 0.2 and noise[1] < 0.01


def test_facts_of_the_shipped_files_are_in_the_table_of_the_format():
    table = (
        (experts.FOLDER / "README.md")
        .read_text()
        .split("Facts (in the header")[1]
        .split("Tensors (float32)")[0]
    )
    for env_id, level in SHIPPED:
        assert set(load_expert(env_id, level).facts) <= set(re.findall(r"`(\w+)`", table)), (
            env_id,
            level,
        )


@pytest.mark.parametrize(("env_id", "level"), SHIPPED or [("none", "is shipped")])
def test_shipped_expert_scores_what_its_header_says(env_id, level):
    expert = load_expert(env_id, level)
    assert (expert.facts["env_id"], expert.facts["level"]) == (env_id, level)

    class Actor:
        @staticmethod
        def act(obs, deterministic):
            return expert.act(obs, deterministic).numpy()

    envs = [make_env(env_id) for _ in range(10)]
    row = experts.evaluate(env_id, Actor, envs, len(envs), seed=7)
    score = row[f"stochastic_{experts.main_metric([row])}"]
    mean, std = expert.facts["score_mean"], expert.facts["score_std"]
    assert score == pytest.approx(mean, abs=4 * std / 10**0.5 + 1)


@pytest.mark.parametrize("env_id", tiny.RLIF_TASKS)
def test_levels_are_what_they_are_called(env_id):
    scores = {
        level: load_expert(env_id, level).facts["score_mean"] for level in list_experts()[env_id]
    }
    assert (
        scores["top"] > 85
        and scores["top"] > scores["middle"] + 20
        and scores["middle"] > scores["low"] + 10
    )
    assert scores["low"] < 25
    assert load_expert(env_id, "top").has_q


def test_the_table_of_experts_agrees_with_their_headers():
    table = (experts.FOLDER / "README.md").read_text()
    rows = re.findall(
        r"^\| *(\S+-v\d+) *\| *(\w+) *\| *(-?[\d.]+) ± ([\d.]+) *\| *(.*?) *\|$", table, re.M
    )
    assert sorted((env_id, level) for env_id, level, *_ in rows) == sorted(SHIPPED)
    for env_id, level, mean, std, trained in rows:
        facts = load_expert(env_id, level).facts
        assert (mean, std) == (f"{facts['score_mean']:.1f}", f"{facts['score_std']:.1f}"), level
        note = facts["trained_by"].replace(",", "")
        for transitions in re.findall(r"from ([\d,]+) transitions", trained):
            assert f"from {transitions.replace(',', '')} transitions" in note, level


@pytest.mark.parametrize("env_id", tiny.RLIF_TASKS)
def test_the_value_rule_flags_a_random_policy_often_and_the_top_expert_hardly_ever(env_id):
    top, rng = load_expert(env_id, "top"), np.random.default_rng(0)
    env = rlif_rlpd.make_env(TRAINING_TASKS.get(env_id, env_id))
    human = rlif_rlpd.ValueHuman(rlif_rlpd.Args(env_id=env_id), top, rng)

    def act_at_random(obs):
        return rng.uniform(-1, 1, top.act_dim).astype(np.float32)

    def act_as_the_top_expert(obs):
        return top.act(obs[None])[0].numpy()

    rates = {}
    for name, act in (("random", act_at_random), ("top", act_as_the_top_expert)):
        obs, flags = env.reset(seed=0)[0], []
        for step in range(400):
            action = act(obs)
            flagged, *_ = human.check(obs, action)
            flags.append(flagged)
            obs, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                obs, _ = env.reset(seed=step)
        rates[name] = np.mean(flags)
    assert rates["top"] < 0.1 and rates["random"] > 0.25  # measured: 0 to 0.05, and 0.4 to 0.8


# --- demonstrations --------------------------------------------------------------------------------------------------


class OfThree(gym.ActionWrapper):
    """A point that is pushed to the left, not at all or to the right, by actions 5, 6 and 7."""

    action_space = gym.spaces.Discrete(3, start=5)

    def action(self, action):
        assert self.action_space.contains(action), action
        return np.array([action - 6.0])


def make_of_three(gravity=0.0, render_mode=None):
    return OfThree(tiny.Point())


class Goal(tiny.Point):
    """A point that sees where it is and where it should be, in an order that is not the alphabet's."""

    observation_space = gym.spaces.Dict(
        [("place", gym.spaces.Box(-10, 10, (2,))), ("goal", gym.spaces.Box(-10, 10, (1, 2)))]
    )

    def reset(self, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return {"place": obs, "goal": np.array([[7.0, 8.0]], dtype=np.float32)}, info


class Board(tiny.Point):
    """A point on two boards: which field, and two numbers for each."""

    observation_space = gym.spaces.Tuple(
        (gym.spaces.Discrete(3, start=1), gym.spaces.MultiDiscrete([2, 3]))
    )


class Grid(tiny.Point):
    observation_space = gym.spaces.Box(-10, 10, (2, 3), np.float32)


# a constructor that returns a wrapped environment; and, registered with a function, a spec that cannot be written down
gym.register("OfThree-v0", make_of_three, max_episode_steps=50)
gym.register("Goal-v0", Goal, max_episode_steps=50)
gym.register("Board-v0", Board, max_episode_steps=50)
gym.register("Grid-v0", Grid, max_episode_steps=50)


@pytest.fixture
def point():
    return make_env("Point-v0")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Ships an expert, and none but such: shipped(env_id, weight, ...) as in tiny.write_expert; returns its path."""
    monkeypatch.setattr(policies, "FOLDER", tmp_path / "experts")

    def ship(env_id, *args, **options):
        (tmp_path / "experts" / env_id).mkdir(parents=True, exist_ok=True)
        return tiny.write_expert(
            tmp_path / "experts" / env_id / "top.safetensors", *args, **options
        )

    return ship


@pytest.fixture
def root(own_folder):
    """Where datasets are kept, in this test."""
    return own_folder / "minari"


def refusal(env, env_id, *options):
    """The one line with which load_demonstrations refuses."""
    with pytest.raises(InputError) as caught:
        load_demonstrations(env, env_id, *options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_top_expert_the_hint_is_true_for_every_script(point):
    assert "give --dataset-id, or --demo-episodes 0 (bc.py cannot" in refusal(point, "Point-v0", 3)


def test_no_demonstrations_are_empty_arrays(point):
    data = load_demonstrations(point, "Point-v0", 0, "no/such-v0")
    one = ("rewards", "terminations", "ends")
    sizes = {"obs": (0, 2), "next_obs": (0, 2), "actions": (0, 1)} | dict.fromkeys(one, (0,))
    assert {name: values.shape for name, values in data.items()} == sizes
    assert all(values.dtype == np.float32 for values in data.values())


def test_default_demonstrations_are_recorded_once(shipped, point):
    shipped("Point-v0", [[-1.0, 0.0]], noise=0.5)
    state, steps = torch.get_rng_state(), tiny.Point.total_steps
    first = load_demonstrations(point, "Point-v0", 3)
    assert tiny.Point.total_steps - steps == len(first["obs"]) > 10
    # a run draws the same numbers whether it recorded them or not
    assert torch.equal(torch.get_rng_state(), state)
    steps = tiny.Point.total_steps
    second = load_demonstrations(point, "Point-v0", 3)
    assert tiny.Point.total_steps == steps
    assert all(np.array_equal(first[name], second[name]) for name in first)

    assert first["ends"].sum() == 3 and not first["rewards"].any()
    inside = first["ends"][:-1] == 0
    assert np.array_equal(first["next_obs"][:-1][inside], first["obs"][1:][inside])
    # the push it observed
    np.testing.assert_allclose(first["next_obs"][:, 1], 2 * first["actions"][:, 0], atol=1e-5)
    # another expert is another dataset
    shipped("Point-v0", [[-2.0, 0.0]], noise=0.5)
    third = load_demonstrations(point, "Point-v0", 3)
    assert not np.array_equal(first["obs"][:20], third["obs"][:20])
    # and so is another noise
    fourth = load_demonstrations(point, "Point-v0", 3, noise=0.1)
    assert not np.array_equal(third["obs"][:20], fourth["obs"][:20])
    assert len(minari.list_local_datasets()) == 3


@pytest.mark.parametrize(("env_id", "max_episode_steps", "options", "recorded"), [
    ("Point-v0", None, {}, False),
    ("Point-v0", None, {"render_mode": "rgb_array"}, False),  # a window changes nothing
    ("Point-v0", 30, {}, True),
    ("Point-v0", None, {"nan_after": 1_000}, True),
    ("Walled-v0", None, {}, True),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*render_mode")
def test_what_is_recorded_belongs_to_one_environment(
    env_id, max_episode_steps, options, recorded, shipped, point
):
    shipped("Point-v0", [[-2.0, 0.0]], noise=0.5)
    load_demonstrations(point, "Point-v0", 2)
    steps = tiny.Point.total_steps
    data = load_demonstrations(make_env(env_id, max_episode_steps, **options), "Point-v0", 2)
    assert tiny.Point.total_steps - steps == recorded * len(data["obs"])
    assert len(minari.list_local_datasets()) == 1 + recorded


def test_the_pen_has_demonstrations_with_and_without_its_limits_in_training():
    lengths = []
    for env_id in ("AdroitHandPen-v1", "D4RL/AdroitHandPen-v1"):
        data = load_demonstrations(make_env(env_id), "AdroitHandPen-v1", 1)
        lengths.append(len(data["obs"]))
    assert lengths[0] == 200 and lengths[1] <= 100


def test_a_time_limit_is_that_of_the_pen_in_training_too():
    env = make_env("D4RL/AdroitHandPen-v1", 230)
    env.unwrapped.step = lambda action: (np.ones(45), 0.0, False, False, {})  # it is never dropped
    env.reset(seed=0)
    steps, over = 0, False
    while not over:
        *_, truncated, _ = env.step(np.zeros(24, np.float32))
        steps, over = steps + 1, truncated
    assert steps == 230


@pytest.mark.parametrize("noise", [None, 0.2])
def test_recorded_demonstrations_are_the_top_experts_actions_with_noise(noise, shipped, point):
    path = shipped("Point-v0", [[-2.0, 0.0]], noise=0.1)
    data = load_demonstrations(point, "Point-v0", 5, noise=noise)
    mean = Expert(path).act(data["obs"], deterministic=True).numpy()
    # where neither tanh nor the edges matter much
    residual = (data["actions"] - mean)[np.abs(mean) < 0.3]
    assert residual.std() == pytest.approx(((noise or 0.0) ** 2 + 0.1**2) ** 0.5, rel=0.15)
    assert abs(residual.mean()) < 0.03


def test_actions_are_those_of_the_outermost_environment_wherever_they_begin(shipped, capsys):
    path = shipped(
        "OfThree-v0", [[40.0, 0.0], [0.0, 0.0], [-40.0, 0.0]], bias=[-3.0, 0.0, -3.0], discrete=True
    )
    env = make_env("OfThree-v0")
    assert load_expert("OfThree-v0", path, env).discrete
    data = load_demonstrations(env, "OfThree-v0", 3)
    np.testing.assert_array_equal(data["next_obs"][:, 1], data["actions"] @ [-1.0, 0.0, 1.0])
    assert set(data["actions"].flat) == {0.0, 1.0} and (data["actions"].sum(1) == 1).all()
    (dataset_id,) = minari.list_local_datasets()
    stored = np.concatenate([episode.actions for episode in minari.load_dataset(dataset_id)])
    np.testing.assert_array_equal(stored - 5, data["actions"].argmax(1))
    again = load_demonstrations(env, "OfThree-v0", 3, dataset_id)
    assert all(np.array_equal(data[name], again[name]) for name in data)
    # there is no noise on discrete actions, which is said and changes nothing
    assert capsys.readouterr().err.count("no noise") == 0
    again = load_demonstrations(env, "OfThree-v0", 3, noise=0.09)
    assert all(np.array_equal(data[name], again[name]) for name in data)
    assert (
        capsys.readouterr().err
        == "demonstrations of OfThree-v0 have no noise, for its actions are discrete\n"
    )
    assert len(minari.list_local_datasets()) == 1


# --- recording that goes wrong ---------------------------------------------------------------------------------------

RECORD = """
import resource
from pathlib import Path
from gymnasium.wrappers import FlattenObservation
from experts import Checked, UnitActions, exit_codes, load_demonstrations, open_task, policies
policies.FOLDER = Path("experts").absolute()
env = UnitActions(Checked(FlattenObservation(open_task("tests.tiny:Point-v0"))))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # bytes
with exit_codes():
    load_demonstrations(env, "Point-v0", 3)
"""


def test_a_full_disk_is_said_in_one_line(shipped, root):
    shipped("Point-v0", [[-2.0, 0.0]], noise=0.5)
    process = subprocess.run(
        [sys.executable, "-c", RECORD], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tiny.ROOT)}
    )  # fmt: skip
    bar, line = process.stderr.splitlines()[-2:]
    assert process.returncode == 1 and "100%" in bar
    assert f"cannot write the demonstrations of Point-v0 in {root}: File too large" in line
    assert not list(root.iterdir())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_heard_while_it_records_and_leaves_nothing_behind(
    signum, shipped, root, point, monkeypatch
):
    shipped("Point-v0", [[-2.0, 0.0]], noise=0.5)
    step, steps = tiny.Point.step, []

    def stop(env, action):
        steps.append(action)
        if len(steps) == 60:
            assert len(list(root.iterdir())) == 1  # the folder that it is written in
            os.kill(os.getpid(), signum)
        return step(env, action)

    monkeypatch.setattr(tiny.Point, "step", stop)
    with pytest.raises(SystemExit) as caught, experts.exit_codes():
        load_demonstrations(point, "Point-v0", 100)
    assert caught.value.code == 128 + signum and len(steps) < 70
    assert not list(root.iterdir())


def test_an_environment_that_fails_while_it_records_leaves_nothing_behind(shipped, root):
    shipped("Nan-v0", [[-2.0, 0.0]])
    with pytest.raises(
        experts.RunError,
        match="Nan-v0: step 20 of an episode gives an observation that is not finite",
    ):
        load_demonstrations(make_env("Nan-v0", nan_after=19), "Nan-v0", 3)
    assert not list(root.iterdir())


def test_datasets_can_be_kept_in_a_relative_path(shipped, point, monkeypatch):
    shipped("Point-v0", [[-2.0, 0.0]], noise=0.5)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "here/and there")
    first = load_demonstrations(point, "Point-v0", 2)
    (dataset_id,) = minari.list_local_datasets()
    assert (Path("here/and there") / dataset_id / "data").is_dir()
    assert os.environ["MINARI_DATASETS_PATH"] == "here/and there"
    assert np.array_equal(load_demonstrations(point, "Point-v0", 2)["obs"], first["obs"])


def test_of_two_that_record_at_once_one_wins(shipped, point, root, monkeypatch):
    shipped("Point-v0", [[-2.0, 0.0]], noise=0.5)
    play, results = demonstrations._play, []

    def play_twice(*args):
        monkeypatch.setattr(demonstrations, "_play", play)
        # another process, with the same number perhaps
        results.append(load_demonstrations(point, "Point-v0", 2))
        return play(*args)

    monkeypatch.setattr(demonstrations, "_play", play_twice)
    results.append(load_demonstrations(point, "Point-v0", 2))
    assert np.array_equal(results[0]["obs"], results[1]["obs"])
    assert len(minari.list_local_datasets()) == 1 and [path.name for path in root.iterdir()] == [
        "interventions"
    ]


# --- datasets --------------------------------------------------------------------------------------------------------


def test_a_local_dataset_is_loaded_and_its_actions_rescaled(point):
    buffers = tiny.write_demonstrations("test/point-v0", episodes=4, steps=6)
    data = load_demonstrations(point, "Point-v0", 3, "test/point-v0")  # the first three of four
    assert {name: values.shape for name, values in data.items()} == {
        "obs": (18, 2), "next_obs": (18, 2), "actions": (18, 1), "rewards": (18,), "terminations": (18,), "ends": (18,)
    }  # fmt: skip
    assert all(values.dtype == np.float32 for values in data.values())
    for i, buffer in enumerate(buffers[:3]):
        rows = slice(6 * i, 6 * i + 6)
        np.testing.assert_array_equal(data["obs"][rows], buffer.observations[:-1])
        np.testing.assert_array_equal(data["next_obs"][rows], buffer.observations[1:])
        np.testing.assert_allclose(
            data["actions"][rows], (buffer.actions / 2).clip(-0.999, 0.999), atol=1e-6
        )
    assert not data["rewards"].any()
    assert data["ends"].nonzero()[0].tolist() == [5, 11, 17]
    # the second episode ran out of time
    assert data["terminations"].nonzero()[0].tolist() == [
        5,
        17,
    ]


def test_rewards_are_kept_only_when_asked_for(point):
    tiny.write_demonstrations("test/point-v0", episodes=2, steps=3)
    data = load_demonstrations(point, "Point-v0", 2, "test/point-v0", keep_rewards=True)
    assert data["rewards"].tolist() == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("episodes", [4, 5_000, None])
def test_fewer_episodes_than_asked_for_are_all_used_and_said(episodes, point, capsys):
    tiny.write_demonstrations("test/point-v0", episodes=4, steps=6)
    data = load_demonstrations(point, "Point-v0", episodes, "test/point-v0")
    assert data["ends"].sum() == 4 and len(data["obs"]) == 24
    said = (
        "dataset test/point-v0 has 4 episodes, not 5000: all of them are used\n"
        if episodes == 5_000
        else ""
    )
    assert capsys.readouterr() == ("", said)


def write_dataset(
    dataset_id, observations, observation_space, action_space=tiny.Point.action_space, actions=None
):
    """A Minari dataset of one episode of two steps, of no environment."""
    actions = np.zeros((2, 1), dtype=np.float32) if actions is None else actions
    episode = EpisodeBuffer(
        0,
        0,
        None,
        observations,
        actions,
        [0.0, 0.0],
        terminations=[False, False],
        truncations=[False, True],
        infos={},
    )
    minari.create_dataset_from_buffers(
        dataset_id, [episode], observation_space=observation_space, action_space=action_space,
        algorithm_name="none", author="test",
    )  # fmt: skip


def change(root, dataset_id, part, values):
    """Put other values in the place of a part of a dataset, such as episode_1/rewards."""
    with h5py.File(root / dataset_id / "data" / "main_data.hdf5", "a") as file:
        del file[part]
        file[part] = np.asarray(values, dtype=np.float64)


@pytest.mark.parametrize(("part", "values", "said"), [
    ("rewards", [], "has no transitions"),
    ("rewards", [1, np.nan], "has rewards that are not finite"),
    ("actions", [[0], [np.nan]], "has actions that are not finite"),
    ("observations", [[0, 0], [0, 0], [0, np.inf]], "has observations that are not finite"),
    ("observations", [[0, 0], [0, 0], [0, 1e300]], "has observations that are not finite"),  # as float32
    ("observations", [[0, 0], [0, 0]], "has observations of shape (2, 2), not (3, 2)"),
    ("observations", [[0, 0, 0]] * 3, "has observations of shape (3, 3), not (3, 2)"),
    ("actions", [[0]], "has actions of shape (1, 1), not (2, 1)"),
    ("terminations", [0, 0, 1], "has terminations of shape (3,), not (2,)"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:overflow")
def test_an_episode_that_is_not_sound_is_named(part, values, said, point, root):
    tiny.write_demonstrations("test/point-v0", episodes=3, steps=2)
    change(root, "test/point-v0", f"episode_1/{part}", values)
    assert (
        refusal(point, "Point-v0", 3, "test/point-v0") == f"dataset test/point-v0, episode 1 {said}"
    )
    # the first one is sound
    assert load_demonstrations(point, "Point-v0", 1, "test/point-v0")["ends"].sum() == 1


def test_a_dataset_without_episodes_is_refused(point):
    minari.create_dataset_from_buffers(
        "test/none-v0", [], env="Point-v0", algorithm_name="none", author="test"
    )
    assert refusal(point, "Point-v0", 3, "test/none-v0") == "dataset test/none-v0 has no episodes"


def test_a_single_transition_is_refused_for_it_has_no_standard_deviation(point):
    tiny.write_demonstrations("test/point-v0", episodes=1, steps=1)
    said = "dataset test/point-v0 has a single transition, which is too little to learn from"
    assert refusal(point, "Point-v0", 1, "test/point-v0") == said


def test_a_damaged_dataset_is_not_said_to_be_missing(point, root):
    tiny.write_demonstrations("test/point-v0", episodes=3, steps=2)
    file = root / "test/point-v0/data/main_data.hdf5"
    file.write_bytes(file.read_bytes()[:1_000])
    assert refusal(point, "Point-v0", 3, "test/point-v0").startswith(
        "cannot read dataset test/point-v0: "
    )
    (root / "test/point-v0/data/metadata.json").write_text("{")
    assert f"cannot read dataset test/point-v0 in {root}" in refusal(
        point, "Point-v0", 3, "test/point-v0"
    )
    assert refusal(point, "Point-v0", 3, "test/other-v0").startswith(
        "no Minari dataset 'test/other-v0' here"
    )


def test_a_dataset_runs_no_code(point, root):
    tiny.write_demonstrations("test/point-v0", episodes=1, steps=2)
    facts = root / "test/point-v0/data/metadata.json"
    metadata = json.loads(facts.read_text())
    spec = json.loads(metadata["env_spec"]) | {
        "entry_point": "os:mkdir",
        "kwargs": {"path": "it_was_run"},
    }
    del metadata["observation_space"]
    facts.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    message = refusal(point, "Point-v0", 1, "test/point-v0")
    assert message == "dataset test/point-v0 does not say what its spaces are"
    assert not Path("it_was_run").exists()


@pytest.mark.parametrize(("space", "said"), [
    (gym.spaces.Box(-1.0, 1.0, (1,), np.float32), "Box(-1.0, 1.0, (1,), float32)"),
    (gym.spaces.Box(-2.0, 2.5, (1,), np.float32), "Box(-2.0, 2.5, (1,), float32)"),
    (gym.spaces.Box(-2.0, 2.0, (2,), np.float32), "Box(-2.0, 2.0, (2,), float32)"),
    (gym.spaces.Discrete(3), "Discrete(3)"),
])  # fmt: skip
def test_a_dataset_with_other_actions_is_refused_with_both(space, said, point):
    write_dataset(
        "test/other-v0", np.zeros((3, 2), np.float32), tiny.Point.observation_space, space
    )
    message = refusal(point, "Point-v0", 1, "test/other-v0")
    assert (
        message
        == f"dataset test/other-v0 has actions {said}, Point-v0 has Box(-2.0, 2.0, (1,), float32)"
    )


def test_a_range_of_another_precision_is_the_same_range(point):
    observations = np.zeros((3, 2), np.float32), tiny.Point.observation_space
    space = gym.spaces.Box(-2.0, 2.0, (1,), np.float64)
    write_dataset("test/double-v0", *observations, space, np.array([[1.0], [-3.0]]))
    actions = load_demonstrations(point, "Point-v0", 1, "test/double-v0")["actions"]
    np.testing.assert_allclose(actions, [[0.5], [-0.999]])


@pytest.mark.parametrize(("space", "said"), [
    (gym.spaces.Discrete(3), "Discrete(3)"),
    (gym.spaces.Discrete(4, start=5), "Discrete(4, start=5)"),
    (gym.spaces.Box(0.0, 1.0, (3,), np.float32), "Box(0.0, 1.0, (3,), float32)"),
])  # fmt: skip
def test_a_dataset_with_other_discrete_actions_is_refused_with_both(space, said):
    actions = np.zeros((2, *space.shape), dtype=space.dtype)
    write_dataset(
        "test/other-v0", np.zeros((3, 2), np.float32), tiny.Point.observation_space, space, actions
    )
    message = refusal(make_env("OfThree-v0"), "OfThree-v0", 1, "test/other-v0")
    assert (
        message == f"dataset test/other-v0 has actions {said}, OfThree-v0 has Discrete(3, start=5)"
    )


@pytest.mark.parametrize("actions", [[5, 8], [4, 7], [5.0, 6.0]])
def test_a_discrete_action_that_there_is_not_is_refused(actions):
    observations = np.zeros((3, 2), np.float32), tiny.Point.observation_space
    write_dataset(
        "test/other-v0", *observations, gym.spaces.Discrete(3, start=5), np.array(actions)
    )
    message = refusal(make_env("OfThree-v0"), "OfThree-v0", 1, "test/other-v0")
    assert message == "dataset test/other-v0, episode 0 has actions outside Discrete(3, start=5)"


@pytest.mark.parametrize(("made", "env_id", "warned"), [
    ("Point-v0", "Point-v0", True),
    ("Walled-v0", "Point-v0", False),  # what is learned in another task than it is judged in
    ("Point-v0", "Walled-v0", False),  # takes the demonstrations of either
    ("tests.tiny:Walled-v0", "tests.tiny:Walled-v0", False),
])  # fmt: skip
def test_a_dataset_of_another_environment_is_taken_with_a_warning(made, env_id, warned, capsys):
    tiny.write_demonstrations("test/walled-v0", episodes=1, steps=2, env_id="Walled-v0")
    assert len(load_demonstrations(make_env(made), env_id, 1, "test/walled-v0")["obs"]) == 2
    said = f"warning: dataset test/walled-v0 was recorded in Walled-v0, and is used for {env_id}\n"
    assert capsys.readouterr() == ("", said if warned else "")


def test_observations_of_many_parts_become_flat_as_the_environments_do(capsys):
    places, goals = np.arange(6.0).reshape(3, 2), np.array([[[7.0, 8.0]]] * 3)
    observations = {"place": places.astype(np.float32), "goal": goals.astype(np.float32)}
    write_dataset("test/goal-v0", observations, Goal.observation_space)
    # another order
    assert list(minari.load_dataset("test/goal-v0").observation_space) == [
        "goal",
        "place",
    ]
    env = make_env("Goal-v0")
    data = load_demonstrations(env, "Goal-v0", 1, "test/goal-v0")
    assert data["obs"].tolist() == [[0, 1, 7, 8], [2, 3, 7, 8]] and data["next_obs"][
        1
    ].tolist() == [4, 5, 7, 8]
    assert env.reset(seed=0)[0][2:].tolist() == [7, 8]
    other = gym.spaces.Dict(
        {"place": Goal.observation_space["place"], "wind": gym.spaces.Box(-10, 10, (1, 2))}
    )
    write_dataset(
        "test/wind-v0", {"place": observations["place"], "wind": observations["goal"]}, other
    )
    message = refusal(env, "Goal-v0", 1, "test/wind-v0")
    assert (
        "dataset test/wind-v0 has observations Dict(" in message
        and "'wind'" in message
        and "'goal'" in message
    )


def test_observations_in_numbers_and_in_rows_become_flat():
    fields = np.array([1, 3, 2]), np.array([[0, 2], [1, 0], [1, 1]])
    write_dataset("test/board-v0", fields, Board.observation_space)
    data = load_demonstrations(make_env("Board-v0"), "Board-v0", 1, "test/board-v0")
    assert data["obs"].tolist() == [[1, 0, 0, 1, 0, 0, 0, 1], [0, 0, 1, 0, 1, 1, 0, 0]]
    assert data["next_obs"][1].tolist() == [0, 1, 0, 0, 1, 0, 1, 0]
    env, grid = make_env("Grid-v0"), np.arange(18.0, dtype=np.float32).reshape(3, 2, 3)
    write_dataset("test/grid-v0", grid, Grid.observation_space)
    write_dataset("test/flat-v0", grid.reshape(3, 6), env.observation_space)
    for dataset_id in ("test/grid-v0", "test/flat-v0"):
        data = load_demonstrations(env, "Grid-v0", 1, dataset_id)
        assert data["next_obs"].tolist() == [list(range(6, 12)), list(range(12, 18))]
    write_dataset(
        "test/turned-v0", grid.reshape(3, 3, 2), gym.spaces.Box(-10, 10, (3, 2), np.float32)
    )
    message = refusal(env, "Grid-v0", 1, "test/turned-v0")
    assert (
        message
        == "dataset test/turned-v0 has observations of shape (3, 2), Grid-v0 of shape (2, 3)"
    )


def demonstrations_in_the_buffer(*options):
    """Two demonstrated episodes of three steps, a fall and a time limit, and the rows that a run makes of them."""
    buffers = tiny.write_demonstrations("test/point-v0", episodes=2, steps=3)
    expert = tiny.write_expert("expert.safetensors", [[0.0, 0.0]], qf=tiny.critics(2, 1))
    people = () if "none" in options else ("--expert", expert, "--reference", expert)
    folder = tiny.run(
        "a", "--env-id", "Point-v0", *people, "--dataset-id", "test/point-v0",
        "--total-timesteps", 4, "--eval-episodes", 1, "--hidden-sizes", 8, *options,
    )  # fmt: skip
    rb = load_checkpoint(folder / "checkpoint.pt")["kept"]["rb"]
    return buffers, {name: values[:6] for name, values in rb.items()}


@pytest.mark.parametrize("offline_ratio", [0.0, 0.5])
def test_demonstrations_come_first_and_are_drawn_by_themselves_if_they_have_a_share(
    offline_ratio, monkeypatch
):
    buffers_made, make = [], rlif_rlpd.ReplayBuffer

    def watched(*sizes):
        buffers_made.append(make(*sizes))
        return buffers_made[-1]

    monkeypatch.setattr(rlif_rlpd, "ReplayBuffer", watched)
    buffers, rows = demonstrations_in_the_buffer("--offline-ratio", offline_ratio)
    (rb,) = buffers_made
    assert rb.apart == (6 if offline_ratio else 0) and rb.size == 6 + 4
    np.testing.assert_array_equal(
        rows["obs"], np.concatenate([buffer.observations[:3] for buffer in buffers])
    )


@pytest.mark.parametrize("termination", ["bootstrap", "mask"])
def test_demonstrations_get_the_rewards_and_ends_of_intervention(termination):
    buffers, rows = demonstrations_in_the_buffer("--termination", termination)
    assert not rows["rewards"].any()
    fall = [0, 0, termination == "mask", 0, 0, 0]  # running out of time is none
    assert rows["terminations"].tolist() == fall
    np.testing.assert_array_equal(rows["next_obs"][2], buffers[0].observations[3])
    np.testing.assert_array_equal(rows["next_obs"][5], buffers[1].observations[3])


def test_a_demonstrated_fall_costs_as_much_as_one_of_the_novice():
    buffers, rows = demonstrations_in_the_buffer()
    for_ever = pytest.approx(-1 / (1 - 0.99**5))  # takeovers of four steps and one of grace
    assert rows["rewards"].tolist() == [0, 0, for_ever, 0, 0, 0]
    assert rows["terminations"].tolist() == [0, 0, 1, 0, 0, 0]  # running out of time is no fall
    np.testing.assert_array_equal(rows["next_obs"][2], buffers[0].observations[3])


def test_demonstrations_of_plain_rlpd_keep_their_rewards():
    buffers, rows = demonstrations_in_the_buffer("--reward", "task", "--intervention", "none")
    assert rows["rewards"].tolist() == [1, 2, 3, 1, 2, 3]
    assert rows["terminations"].tolist() == [0, 0, 1, 0, 0, 0]
    np.testing.assert_array_equal(rows["next_obs"][2], buffers[0].observations[3])


@pytest.mark.parametrize("standardize", [True, False])
def test_networks_standardise_by_the_demonstrations(standardize):
    _, rows = demonstrations_in_the_buffer(
        "--standardize-obs" if standardize else "--no-standardize-obs"
    )
    model = Expert(next(Path("runs").glob("*/model.safetensors")))
    obs = rows["obs"]
    torch.testing.assert_close(model.obs_mean, obs.mean(0) if standardize else torch.zeros(2))
    torch.testing.assert_close(model.obs_std, obs.std(0) if standardize else torch.ones(2))


def test_actions_span_the_environments_range_and_are_stored_in_their_own():
    # all the way, either way
    expert = tiny.write_expert("expert.safetensors", [[30.0, 0.0]], qf=tiny.critics(2, 1))
    options = "--env-id", "Point-v0", "--expert", expert, "--demo-episodes", 0
    steps = (
        "--total-timesteps",
        100,
        "--eval-episodes",
        1,
        "--hidden-sizes",
        8,
        "--termination",
        "bootstrap",
    )
    rb = load_checkpoint(
        tiny.run("a", *options, *steps, "--intervention", "random") / "checkpoint.pt"
    )["kept"]["rb"]
    stored, executed = rb["actions"][:, -1], rb["next_obs"][:, -1]
    assert len(stored) == 100
    torch.testing.assert_close(executed, 2 * stored)
    assert stored.abs().max() <= 0.9991 and executed.min() < -1.9 and executed.max() > 1.9
    assert gym.make("Point-v0").action_space.high == 2
