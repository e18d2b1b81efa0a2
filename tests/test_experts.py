"""Policy files, the shipped experts, and demonstrations."""

import re
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch

import experts
import rlif_rlpd
from experts import Expert, list_experts, load_checkpoint, load_demonstrations, load_expert, save_expert
from tests import tiny

SHIPPED = [(env_id, level) for env_id, levels in list_experts().items() for level in levels]


@pytest.mark.parametrize("layer_norm", [True, False])
def test_saved_and_loaded_policy_acts_and_values_the_same(tmp_path, layer_norm):
    actor = rlif_rlpd.Actor(3, 2, (16, 8))
    qf = rlif_rlpd.QEnsemble(3, 2, (16, 8), 4, layer_norm)
    for parameter in [*qf.norm_weights, *qf.norm_biases]:
        parameter.data += 0.3 * torch.randn_like(parameter)
    mean, std = torch.randn(3), torch.rand(3) + 0.5
    for network in (actor, qf):
        network.obs_mean.copy_(mean)
        network.obs_std.copy_(std)
    tensors = {f"actor.{name}": value for name, value in actor.state_dict().items()}
    tensors |= {f"qf.{name}": value for name, value in qf.state_dict().items()}
    facts = {"env_id": "Any-v0", "obs_dim": 3, "act_dim": 2, "hidden_sizes": (16, 8), "score_mean": 12.5}
    save_expert(tmp_path / "a.safetensors", tensors, distribution="tanh_gaussian", **facts)

    expert = Expert(tmp_path / "a.safetensors")
    assert expert.facts == facts | {"distribution": "tanh_gaussian", "hidden_sizes": [16, 8]}
    assert (expert.obs_dim, expert.act_dim, expert.has_q) == (3, 2, True)
    obs, actions = torch.randn(50, 3), torch.rand(50, 2) * 2 - 1
    for deterministic in (True, False):
        torch.manual_seed(1)
        expected = actor.act(obs.numpy(), deterministic)
        torch.manual_seed(1)
        np.testing.assert_allclose(expert.act(obs.numpy(), deterministic).numpy(), expected, atol=1e-6)
    torch.testing.assert_close(expert.q(obs, actions), qf(obs, actions).mean(0).detach())


def test_a_header_with_other_sizes_than_the_tensors_is_refused():
    expert = Expert(tiny.write_expert("right.safetensors", [[0.0, 0.0]]))
    tensors = {f"actor.{name}": tensor for name, tensor in expert.state.items()}
    save_expert("wrong.safetensors", tensors, **expert.facts | {"hidden_sizes": [16]})
    with pytest.raises(experts.InputError, match="wrong.safetensors: its tensors are not those of its header"):
        Expert("wrong.safetensors")


def test_an_expert_stays_off_the_edges():
    tiny.write_expert("edge.safetensors", [[0.0, 0.0]], bias=100.0)
    assert Expert("edge.safetensors").act(np.zeros((1, 2), np.float32)).item() == pytest.approx(0.999)


def test_a_file_of_another_environment_is_taken_with_a_warning(capsys):
    path, env = "mine.safetensors", rlif_rlpd.make_env("Point-v0")
    for facts, said in (
        ({"env_id": "Walled-v0"}, f"warning: {path} was trained for Walled-v0, and is used for Point-v0\n"),
        ({"env_id": "Point-v0"}, ""),
        ({}, ""),  # it does not say
    ):
        tiny.write_expert(path, [[0.0, 0.0]], **facts)
        assert load_expert("Point-v0", path, env).obs_dim == 2
        assert capsys.readouterr() == ("", said)
    tiny.write_expert(path, [[0.0]], env_id="Walled-v0")  # one that does not fit is refused, in one line
    with pytest.raises(experts.InputError):
        load_expert("Point-v0", path, env)
    assert capsys.readouterr() == ("", "")


def test_a_policy_without_critics_does_not_value():
    tiny.write_expert("blind.safetensors", [[0.0, 0.0]])
    expert = Expert("blind.safetensors")
    assert not expert.has_q
    with pytest.raises(experts.InputError):
        expert.q(torch.zeros(1, 2), torch.zeros(1, 1))


def test_the_model_of_a_run_is_a_policy_file():
    options = "--env-id", "Point-v0", "--reward", "task", "--intervention", "none", "--demo-episodes", 0, "--num-qs", 2
    steps = "--total-timesteps", 60, "--eval-episodes", 3, "--batch-size", 16, "--num-threads", 1
    steps = *steps, "--hidden-sizes", 32, 16
    folder = tiny.run("a", *options, *steps)
    trained = load_checkpoint(folder / "checkpoint.pt")["agent"]
    actor, qf = rlif_rlpd.Actor(2, 1, (32, 16)), rlif_rlpd.QEnsemble(2, 1, (32, 16), 2, True)
    for part, name in ((actor, "actor."), (qf, "qf.")):
        part.load_state_dict({key[len(name) :]: value for key, value in trained.items() if key.startswith(name)})
    expert = load_expert("Point-v0", str(folder / "model.safetensors"), rlif_rlpd.make_env("Point-v0"))
    obs, actions = torch.randn(20, 2), torch.rand(20, 1)
    np.testing.assert_allclose(expert.act(obs, True).numpy(), actor.act(obs.numpy(), True), atol=1e-6)
    torch.testing.assert_close(expert.q(obs, actions), qf(obs, actions).mean(0).detach())
    again = tiny.run("b", *options[:2], *options[6:], *steps, "--expert", expert.path, "--reference", expert.path)
    assert (again / "model.safetensors").exists()


def test_without_save_model_there_is_none():
    options = "--env-id", "Point-v0", "--reward", "task", "--intervention", "none", "--demo-episodes", 0
    assert not (tiny.run("a", *options, "--total-timesteps", 5, "--no-save-model") / "model.safetensors").exists()


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
    with pytest.raises(experts.InputError, match=f"^{re.escape(said)}"):
        load_expert(env_id, level)


def test_what_is_expected_of_a_beginner_has_next_to_no_noise_where_the_beginner_goes():
    env_id = "Meta-World/drawer-open-v3"
    initial, mental = (load_expert(env_id, level) for level in ("initial", "mental"))
    env, states = rlif_rlpd.make_env(env_id), []
    obs, _ = env.reset(seed=0)
    for _ in range(100):
        states.append(obs)
        obs, *_ = env.step(initial.act(obs[None], deterministic=True)[0].numpy())
    noise = [policy(np.array(states))[1].exp().median() for policy in (initial, mental)]
    assert noise[0] > 0.2 and noise[1] < 0.01


def test_facts_of_the_shipped_files_are_in_the_table_of_the_format():
    table = (experts.FOLDER / "README.md").read_text().split("Facts (in the header")[1].split("Tensors (float32)")[0]
    for env_id, level in SHIPPED:
        assert set(load_expert(env_id, level).facts) <= set(re.findall(r"`(\w+)`", table)), (env_id, level)


@pytest.mark.parametrize(("env_id", "level"), SHIPPED or [("none", "is shipped")])
def test_shipped_expert_scores_what_its_header_says(env_id, level):
    expert = load_expert(env_id, level)
    assert (expert.facts["env_id"], expert.facts["level"]) == (env_id, level)
    actor = SimpleNamespace(act=lambda obs, deterministic: expert.act(obs, deterministic).numpy())
    envs = [rlif_rlpd.make_env(env_id) for _ in range(10)]
    stats = rlif_rlpd.evaluate(env_id, actor, envs, len(envs), seed=7, deterministic=False)
    mean, std = expert.facts["score_mean"], expert.facts["score_std"]
    assert stats[rlif_rlpd.headline(stats)] == pytest.approx(mean, abs=4 * std / 10**0.5 + 1)


@pytest.mark.parametrize("env_id", tiny.RLIF_TASKS)
def test_levels_are_what_they_are_called(env_id):
    scores = {level: load_expert(env_id, level).facts["score_mean"] for level in list_experts()[env_id]}
    assert scores["top"] > 85 and scores["top"] > scores["middle"] + 20 and scores["middle"] > scores["low"] + 10
    assert scores["low"] < 25
    assert load_expert(env_id, "top").has_q


def test_the_table_of_experts_agrees_with_their_headers():
    table = (experts.FOLDER / "README.md").read_text()
    rows = re.findall(r"^\| *(\S+-v\d+) *\| *(\w+) *\| *(-?[\d.]+) ± ([\d.]+) *\| *(.*?) *\|$", table, re.M)
    assert sorted((env_id, level) for env_id, level, *_ in rows) == sorted(SHIPPED)
    for env_id, level, mean, std, trained in rows:
        facts = load_expert(env_id, level).facts
        assert (mean, std) == (f"{facts['score_mean']:.1f}", f"{facts['score_std']:.1f}"), level
        note = facts["trained_by"].replace(",", "")
        for transitions in re.findall(r"from ([\d,]+) transitions", trained):
            assert f"from {transitions.replace(',', '')} transitions" in note, level


@pytest.mark.parametrize("env_id", tiny.RLIF_TASKS)
def test_the_value_rule_flags_a_random_policy_often_and_the_top_expert_hardly_ever(env_id):
    top, env, rng = load_expert(env_id, "top"), rlif_rlpd.make_training_env(env_id), np.random.default_rng(0)
    human, rates = rlif_rlpd.SimulatedHuman(rlif_rlpd.Args(env_id=env_id), top, top, rng), {}
    for name, act in {
        "random": lambda obs: rng.uniform(-1, 1, top.act_dim).astype(np.float32),
        "top": lambda obs: top.act(obs[None])[0].numpy(),
    }.items():
        obs, flagged = env.reset(seed=0)[0], []
        for step in range(400):
            action = act(obs)
            flagged.append(human.flags(obs, action))
            obs, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                obs, _ = env.reset(seed=step)
        rates[name] = np.mean(flagged)
    assert rates["top"] < 0.1 and rates["random"] > 0.25  # measured: 0 to 0.05, and 0.4 to 0.8


# --- demonstrations --------------------------------------------------------------------------------------------------


@pytest.fixture
def point():
    return rlif_rlpd.make_env("Point-v0")


def test_without_a_top_expert_the_hint_is_true_for_every_script(point):
    with pytest.raises(experts.InputError, match=r"give --dataset-id, or --demo-episodes 0 \(bc.py cannot"):
        load_demonstrations(point, "Point-v0", 3)


def test_default_demonstrations_are_recorded_once(tmp_path, monkeypatch, point):
    monkeypatch.setattr(experts, "FOLDER", tmp_path / "experts")
    (tmp_path / "experts" / "Point-v0").mkdir(parents=True)
    tiny.write_expert(tmp_path / "experts" / "Point-v0" / "top.safetensors", [[-1.0, 0.0]], noise=0.5)
    state, steps = torch.get_rng_state(), tiny.Point.total_steps
    first = load_demonstrations(point, "Point-v0", 3)
    assert tiny.Point.total_steps - steps == len(first["obs"]) > 10
    assert torch.equal(torch.get_rng_state(), state)  # a run draws the same numbers whether it recorded them or not
    steps = tiny.Point.total_steps
    second = load_demonstrations(point, "Point-v0", 3)
    assert tiny.Point.total_steps == steps
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert len(minari.list_local_datasets()) == 1

    assert first["ends"].sum() == 3 and not first["rewards"].any()
    inside = first["ends"][:-1] == 0
    assert np.array_equal(first["next_obs"][:-1][inside], first["obs"][1:][inside])
    np.testing.assert_allclose(first["next_obs"][:, 1], 2 * first["actions"][:, 0], atol=1e-5)  # the push it observed
    # another expert is another dataset
    tiny.write_expert(tmp_path / "experts" / "Point-v0" / "top.safetensors", [[-2.0, 0.0]], noise=0.5)
    third = load_demonstrations(point, "Point-v0", 3)
    assert not np.array_equal(first["obs"][:20], third["obs"][:20])
    # and so is another noise
    fourth = load_demonstrations(point, "Point-v0", 3, noise=0.1)
    assert not np.array_equal(third["obs"][:20], fourth["obs"][:20])


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_recorded_demonstrations_are_the_top_experts_actions_with_noise(noise, tmp_path, monkeypatch, point):
    monkeypatch.setattr(experts, "FOLDER", tmp_path / "experts")
    (tmp_path / "experts" / "Point-v0").mkdir(parents=True)
    path = tiny.write_expert(tmp_path / "experts" / "Point-v0" / "top.safetensors", [[-2.0, 0.0]], noise=0.1)
    data = load_demonstrations(point, "Point-v0", 5, noise=noise)
    mean = Expert(path).act(data["obs"], deterministic=True).numpy()
    residual = (data["actions"] - mean)[np.abs(mean) < 0.3]  # where neither tanh nor the edges matter much
    assert residual.std() == pytest.approx((noise**2 + 0.1**2) ** 0.5, rel=0.15) and abs(residual.mean()) < 0.03


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
        np.testing.assert_allclose(data["actions"][rows], (buffer.actions / 2).clip(-0.999, 0.999), atol=1e-6)
    assert not data["rewards"].any()
    assert data["ends"].nonzero()[0].tolist() == [5, 11, 17]
    assert data["terminations"].nonzero()[0].tolist() == [5, 17]  # the second episode ran out of time


def test_rewards_are_kept_only_when_asked_for(point):
    tiny.write_demonstrations("test/point-v0", episodes=2, steps=3)
    data = load_demonstrations(point, "Point-v0", 2, "test/point-v0", keep_rewards=True)
    assert data["rewards"].tolist() == [1, 2, 3, 1, 2, 3]


def demonstrations_in_the_buffer(*options):
    """Two demonstrated episodes of three steps, a fall and a time limit, and the rows that a run makes of them."""
    buffers = tiny.write_demonstrations("test/point-v0", episodes=2, steps=3)
    expert = tiny.write_expert("expert.safetensors", [[0.0, 0.0]], qf=tiny.critics(2, 1))
    folder = tiny.run(
        "a", "--env-id", "Point-v0", "--expert", expert, "--reference", expert, "--dataset-id", "test/point-v0",
        "--total-timesteps", 4, "--eval-episodes", 1, "--hidden-sizes", 8, *options,
    )  # fmt: skip
    rb = load_checkpoint(folder / "checkpoint.pt")["rb"]
    return buffers, rb, {name: values[:6] for name, values in rb["data"].items()}


@pytest.mark.parametrize("offline_ratio", [0.0, 0.5])
def test_demonstrations_get_the_rewards_and_ends_of_intervention(offline_ratio):
    buffers, rb, rows = demonstrations_in_the_buffer("--offline-ratio", offline_ratio, "--termination", "reset")
    assert rb["first"] == (6 if offline_ratio else 0)
    assert rows["rewards"].tolist() == [0, 0, -1, 0, 0, 0]  # the fall
    assert not rows["terminations"].any()
    np.testing.assert_array_equal(rows["next_obs"][2], buffers[1].observations[0])  # up again, in the next episode
    np.testing.assert_array_equal(rows["next_obs"][5], buffers[1].observations[3])


def test_a_demonstrated_fall_costs_as_much_as_one_of_the_novice():
    buffers, _, rows = demonstrations_in_the_buffer()
    for_ever = pytest.approx(-1 / (1 - 0.99**5))  # takeovers of four steps and one of grace
    assert rows["rewards"].tolist() == [0, 0, for_ever, 0, 0, 0]
    assert rows["terminations"].tolist() == [0, 0, 1, 0, 0, 0]  # running out of time is no fall
    np.testing.assert_array_equal(rows["next_obs"][2], buffers[0].observations[3])


def test_demonstrations_of_plain_rlpd_keep_their_rewards():
    buffers, _, rows = demonstrations_in_the_buffer("--reward", "task", "--intervention", "none")
    assert rows["rewards"].tolist() == [1, 2, 3, 1, 2, 3]
    assert rows["terminations"].tolist() == [0, 0, 1, 0, 0, 0]
    np.testing.assert_array_equal(rows["next_obs"][2], buffers[0].observations[3])


@pytest.mark.parametrize("standardize", [True, False])
def test_networks_standardise_by_the_demonstrations(standardize):
    buffers, _, rows = demonstrations_in_the_buffer("--standardize-obs" if standardize else "--no-standardize-obs")
    model = Expert(next(Path("runs").glob("*/model.safetensors")))
    obs = rows["obs"]
    torch.testing.assert_close(model.obs_mean, obs.mean(0) if standardize else torch.zeros(2))
    torch.testing.assert_close(model.obs_std, obs.std(0) if standardize else torch.ones(2))


def test_actions_span_the_environments_range_and_are_stored_in_their_own():
    expert = tiny.write_expert("expert.safetensors", [[30.0, 0.0]], qf=tiny.critics(2, 1))  # all the way, either way
    options = "--env-id", "Point-v0", "--expert", expert, "--reference", expert, "--demo-episodes", 0
    steps = "--total-timesteps", 100, "--eval-episodes", 1, "--hidden-sizes", 8, "--termination", "bootstrap"
    rb = load_checkpoint(tiny.run("a", *options, *steps, "--intervention", "random") / "checkpoint.pt")["rb"]
    stored, executed = (rb["data"][name][: rb["size"], -1] for name in ("actions", "next_obs"))
    torch.testing.assert_close(executed, 2 * stored)
    assert stored.abs().max() <= 0.9991 and executed.min() < -1.9 and executed.max() > 1.9
    assert gym.make("Point-v0").action_space.high == 2
