"""Discrete actions: one-hot vectors, categorical policies, and who learns from them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import bc
import dagger
import hg_dagger
import iwr
import mile
import rlif_rlpd
import sirius
from experts import InputError, evaluate, load_demonstrations, load_expert, policies
from tests import tiny

ENVIRONMENTS = "Switched-v0", "SwitchedFrom5-v0"  # actions 0, 1, 2 and actions 5, 6, 7
EXPERT = "../expert.safetensors"


@pytest.fixture(autouse=True)
def people(tmp_path, monkeypatch):
    """As in conftest.py, but discrete; the expert is the shipped one of these environments as well."""
    (tmp_path / "inside").mkdir()
    tiny.write_people(tmp_path, discrete=True)
    for env_id in ENVIRONMENTS:
        (tmp_path / "experts" / env_id).mkdir(parents=True)
        shutil.copy(
            tmp_path / "expert.safetensors", tmp_path / "experts" / env_id / "top.safetensors"
        )
    monkeypatch.setattr(policies, "FOLDER", tmp_path / "experts")
    monkeypatch.chdir(tmp_path / "inside")


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_actions_are_one_hot_vectors(env_id):
    env = mile.make_env(env_id)
    assert env.action_space.shape == (3,) and env.observation_space.shape == (2,)
    for choice, push in enumerate([-1.0, 0.0, 1.0]):
        env.reset(seed=0)
        one_hot = np.eye(3, dtype=np.float32)[choice]
        assert env.step(one_hot)[0][1] == push  # the last push is observed
        assert np.array_equal(env.unit(env.action(one_hot)), one_hot)


def test_a_categorical_policy_is_the_same_from_its_file():
    expert, env = load_expert("Switched-v0", EXPERT), mile.make_env("Switched-v0")
    actor = mile.make_actor(env, (32,))
    assert isinstance(actor, mile.CategoricalActor) and expert.discrete and expert.act_dim == 3
    actor.load_state_dict(expert.state)
    obs = np.array([[0.5, 0], [0.05, 0], [-0.5, 0]], dtype=np.float32)
    logits = torch.tensor([[17.0, 0, -23], [-1, 0, -5], [-23, 0, 17]])
    for policy in (expert(obs), actor(obs)):
        torch.testing.assert_close(policy, logits)
    for deterministic in (True, False):
        acts = []
        for policy in (expert, actor):
            torch.manual_seed(1)
            acts.append(np.asarray(policy.act(np.repeat(obs, 100, 0), deterministic)))
        assert (
            np.array_equal(*acts)
            and set(acts[0].flat) == {0.0, 1.0}
            and (acts[0].sum(-1) == 1).all()
        )
    assert acts[0][100:200].mean(0) == pytest.approx(logits[1].softmax(-1).numpy(), abs=0.1)


def test_likelihood_of_one_hot_actions():
    actor, actions = mile.CategoricalActor(2, 3, (8,)), torch.eye(3)[[0, 2, 2, 1]]
    policy = actor(torch.randn(4, 2))
    expected = torch.distributions.OneHotCategorical(logits=policy).log_prob(actions)
    torch.testing.assert_close(actor.log_prob(policy, actions), expected)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_demonstrations_have_one_hot_actions(env_id):
    env, expert = bc.make_env(env_id), load_expert(env_id, "top")
    data = load_demonstrations(env, env_id, 3)
    assert data["obs"].shape == (150, 2) and data["actions"].shape == (150, 3)
    pushes = data["actions"] @ np.array([-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(data["next_obs"][:, 1], pushes)
    likeliest = expert.act(data["obs"], deterministic=True).numpy()
    assert (data["actions"] == likeliest).all(-1).mean() > 0.6  # it samples


CLONING = (
    "--env-id", "SwitchedFrom5-v0", "--hidden-sizes", 16, "--eval-episodes", 5, "--num-threads", 1,
    "--demo-episodes", 10, "--learning-rate", 1e-2,
)  # fmt: skip
ROUNDS = (
    "--round-episodes",
    2,
    "--round-updates",
    150,
    "--demo-episodes",
    0,
    "--expert",
    EXPERT,
    "--eval-frequency",
    300,
)


def last_return(run_dir):
    model = load_expert(
        "Switched-v0", str(run_dir / "model.safetensors"), mile.make_env("Switched-v0")
    )
    assert model.facts["distribution"] == "categorical" and model.act_dim == 3
    return float(tiny.rows(run_dir)[-1]["return_mean"])


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (bc, ("--total-timesteps", 300, "--eval-frequency", 300)),
        (dagger, (*ROUNDS, "--labels", "all", "--total-timesteps", 300)),
        (hg_dagger, (*ROUNDS, "--threshold", 2, "--doubt-novices", 1, "--total-timesteps", 500)),
    ],
    ids=["bc", "dagger", "hg_dagger"],
)
def test_cloning_scripts_learn_discrete_actions(script, options):
    script.main(tiny.parsed(script, *CLONING, *options, "--exp-name", "a"))
    assert last_return(next(Path("runs").glob("*__a__*"))) > 40  # of 50


def test_what_the_robot_can_do_at_first_is_little():
    env = mile.make_env("SwitchedFrom5-v0")
    initial = mile.load_actor(env, load_expert("SwitchedFrom5-v0", "../initial.safetensors", env))
    assert evaluate("SwitchedFrom5-v0", initial, [env], 5, seed=0)["return_mean"] < 10


@pytest.mark.parametrize(
    ("script", "own"),
    [(mile, ()), (iwr, ()), (iwr, ("--interventions-only",)), (sirius, ())],
    ids=["mile", "iwr", "interventions_only", "sirius"],
)
def test_scripts_with_miles_person_learn_discrete_actions(script, own):
    options = "--env-id", "SwitchedFrom5-v0", "--rounds", 4, "--round-updates", 150
    run_dir = tiny.run_mile(script, "a", *options, *own)
    assert last_return(run_dir) > 35


def refusal(script, *options):
    with pytest.raises(InputError) as caught:
        script.main(tiny.parsed(script, *options))
    assert "\n" not in str(caught.value) and not list(Path().glob("runs/*"))
    return str(caught.value)


def test_rlif_refuses_discrete_actions():
    people = "--expert", EXPERT, "--reference", EXPERT
    message = refusal(rlif_rlpd, "--env-id", "Switched-v0", *people, "--termination", "penalty")
    assert message == "--env-id Switched-v0: RLPD needs continuous actions"


@pytest.mark.parametrize(
    ("script", "option", "message"),
    [
        (mile, ("--min-std", 0.2), "--min-std, --intervention-weight do nothing"),
        (mile, ("--intervention-weight", 0.3), "--min-std, --intervention-weight do nothing"),
        (iwr, ("--min-std", 0.2), "--min-std does nothing"),
        (sirius, ("--min-std", 0.2), "--min-std does nothing"),
    ],
)
def test_options_of_continuous_actions_are_refused(script, option, message):
    people = (f"--{who}" for who in ("expert", "initial-policy", "human-model"))
    files = (EXPERT, "../initial.safetensors", "../mental.safetensors")
    options = (word for pair in zip(people, files) for word in pair)
    said = refusal(script, "--env-id", "Switched-v0", *options, *option)
    assert said == f"{message} where actions are discrete"


def test_policies_of_the_other_kind_are_refused():
    tiny.write_expert("continuous.safetensors", [[0.0, 0.0]] * 3)
    message = refusal(iwr, "--env-id", "Switched-v0", "--initial-policy", "continuous.safetensors")
    assert message == "continuous.safetensors: is not for discrete actions, unlike Switched-v0"
    message = refusal(iwr, "--env-id", "Walled-v0", "--initial-policy", EXPERT)
    assert message == f"{EXPERT}: is for discrete actions, unlike Walled-v0"
