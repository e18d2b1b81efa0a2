"""Eyes: the robot sees pictures, the simulated person the state; all else is as before."""

import functools
import gc
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tqdm import tqdm

import bc
import dagger
import rlif_rlpd
from experts import InputError, Task, demonstrations, load_demonstrations, load_expert, policies
from experts import save_expert, vision
from tests import tiny

sys.path.insert(0, str(tiny.ROOT / "benchmark"))
import speed
import train_experts


class Watched(tiny.Shown):
    """Shown, which observes its picture, another one, and the last push."""

    parts = {"front": gym.spaces.Box(0, 255, (20, 41, 3), np.uint8)}
    parts["side"] = gym.spaces.Box(0, 255, (10, 10, 3), np.uint8)
    observation_space = gym.spaces.Dict(
        push=gym.spaces.Box(-2, 2, (1,), np.float32), views=gym.spaces.Dict(parts)
    )

    def seen(self, obs):
        views = {"front": self.render(), "side": np.full((10, 10, 3), 77, np.uint8)}
        return {"push": obs[1:], "views": views}

    def reset(self, seed=None, options=None):
        return self.seen(super().reset(seed=seed)[0]), {}

    def step(self, action):
        obs, *rest = super().step(action)
        return self.seen(obs), *rest


gym.register("Watched-v0", "tests.test_vision:Watched", max_episode_steps=50)


@pytest.fixture(autouse=True)
def forgotten():
    """No test sees by the network of another."""
    forget = vision.encoder.cache_clear
    forget()
    yield
    forget()


@pytest.fixture
def seeing(people, monkeypatch, tmp_path):
    """Pixels/Shown-v0: an expert who sees the state, a beginner, and eyes that know nothing."""
    for module in (policies, vision, demonstrations):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    for folder in ("Shown-v0", "Pixels/Shown-v0"):
        (tmp_path / folder).mkdir(parents=True)
    qf = tiny.critics(2, 1)
    top, facts = tmp_path / "Shown-v0" / "top.safetensors", {"env_id": "Shown-v0", "noise": 0.1}
    tiny.write_expert(top, [[-5.0, 0.0]], qf=qf, **facts)
    save_file(
        vision.Learned().state_dict(), tmp_path / "Pixels" / "Shown-v0" / "encoder.safetensors"
    )
    for level in ("initial", "mental"):
        actor = bc.Actor(bc.make_env("Pixels/Shown-v0"), (8,))
        path = tmp_path / "Pixels" / "Shown-v0" / f"{level}.safetensors"
        save_expert(path, actor, env_id="Pixels/Shown-v0")
    return "Pixels/Shown-v0"


def test_the_robot_sees_a_picture_and_the_person_the_state(seeing, monkeypatch):
    env = bc.make_env(seeing)
    person, robot = load_expert(seeing, "top", env), bc.Actor(env, (8,))
    obs, _ = env.reset(seed=1)
    point = env.unwrapped
    assert obs.shape == (64,) and env.get_wrapper_attr("pictures").shape == (1, 3, 84, 84)
    seen, acts = {}, {}
    picture = point.render()
    monkeypatch.setattr(type(point), "render", lambda _: picture)  # it never changes
    for x in (-0.5, 0.5):
        point.x = x
        seen[x] = env.step(np.zeros(1, np.float32))[0]
        acts[x] = person.act(seen[x][None], deterministic=True).item()
    assert np.array_equal(seen[-0.5], seen[0.5])
    assert np.array_equal(*(robot.act(o[None], deterministic=True) for o in seen.values()))
    assert acts[-0.5] > 0.5 and acts[0.5] < -0.5
    monkeypatch.undo()
    assert not np.array_equal(env.step(np.zeros(1, np.float32))[0], seen[0.5])


def test_a_task_may_observe_its_pictures_and_what_is_felt(monkeypatch):
    net = vision.Learned()
    monkeypatch.setattr(vision, "encoder", lambda _: net)
    env = Task("Pixels/Watched-v0")
    obs, _ = env.reset(seed=3)
    assert obs.shape == (2 * 64 + 1,) and obs[-1] == 0
    obs, *_ = env.step(np.ones(1, np.float32))
    assert obs[-1] == 1  # the push
    shown = env.render()  # what the robot sees: both, side by side
    assert shown.shape == (84, 168, 3) and shown.dtype == np.uint8 and (shown[:, 84:] == 77).all()
    pictures = env.get_wrapper_attr("pictures")  # (2, 3, 84, 84)
    assert np.array_equal(obs[64:128], net(pictures)[1].detach().numpy())
    white = env.unwrapped.render()[0, :, 0].argmax()  # of 41 columns
    assert abs(pictures[0, 0, 0].argmax().item() / 84 - white / 41) < 0.05


def test_pictures_ask_for_eyes_wherever_they_are(ending, people):
    for env_id in ("Picture-v0", "Watched-v0"):
        code, line = ending(bc, f"--env-id {env_id}")
        assert code == 2 and f"--env-id Pixels/{env_id}" in line


def test_what_is_no_picture_is_refused_in_one_line(ending, people, monkeypatch):
    monkeypatch.setattr(vision, "encoder", lambda _: vision.Learned())
    for env_id, wrong in (
        ("Walled-v0", "there is no picture of Walled-v0"),
        ("Text-v0", "vectors or pictures"),
        ("Grey-v0", "(height, width, 3), not (8, 8)"),
    ):
        code, line = ending(bc, f"--env-id Pixels/{env_id}")
        assert code == 2 and wrong in line


def test_floats_are_seen_as_bytes_are_and_a_robot_is_switched_off(monkeypatch):
    monkeypatch.setattr(vision, "encoder", lambda _: vision.Learned())
    robot = Task("Pixels/Robot-v0", 10)  # its pictures are 0 to 1
    robot.reset(seed=1)
    assert robot.get_wrapper_attr("pictures").max() == 1
    monkeypatch.setattr(tiny.Robot, "render", lambda _: None)
    closed = []
    monkeypatch.setattr(tiny.Robot, "close", lambda _: closed.append(1))
    monkeypatch.setattr(tiny.Robot, "in_use", False)
    with pytest.raises(InputError, match="no picture"):
        Task("Pixels/Robot-v0", 10)
    gc.collect()
    assert closed


def test_scripts_learn_from_pictures_the_same_to_the_bit(script, seeing):
    options = f"--env-id {seeing}"
    if script is not bc:
        options += " --expert top"
    if hasattr(script.Args, "reference"):
        options += " --reference top"
    if hasattr(script.Args, "human_model"):
        options += " --initial-policy initial --human-model mental"
    tiny.assert_same_run(*(tiny.short_run(script, options) for _ in range(2)))


def test_a_policy_that_sees_the_state_is_no_robot_here(seeing):
    env = bc.make_env(seeing)
    for robot in (True, False):  # a file that sees pictures, either way
        assert load_expert(seeing, "initial", env, robot=robot).facts["obs_dim"] == 64
    with pytest.raises(InputError, match="top has"):
        load_expert(seeing, "top", env, robot=True)
    with pytest.raises(
        InputError, match="has .* 2, False., but Pixels/Shown-v0 needs .* 1, False."
    ):
        load_expert(seeing, tiny.write_expert("a.safetensors", [[1.0]] * 2, env_id="Shown-v0"), env)
    with pytest.raises(InputError, match="there are initial, mental, top;"):
        load_expert(seeing, "encoder", env)


@pytest.mark.parametrize("script", [bc, dagger, rlif_rlpd])
def test_the_expert_demonstrates_in_pictures_and_a_run_goes_on(script, seeing, ending):
    own = f"--env-id {seeing} --demo-episodes 2" + " --reference top" * (script is rlif_rlpd)
    own = own if script is bc else f"{own} --expert top"
    whole, half = (tiny.short_run(script, own) for _ in range(2))
    assert int(tiny.rows(whole)[0]["demo_transitions"]) == 20
    longer = "--total-timesteps 120"
    assert ending(script, "--resume", half, longer)[0] == 0
    assert ending(script, "--resume", whole, longer)[0] == 0
    tiny.assert_same_run(whole, half)


def test_what_the_expert_fails_at_is_not_demonstrated(seeing, monkeypatch):
    env, tries = bc.make_env(seeing), iter([0, 0, 1, np.nan])
    step, silent = type(env).step, functools.partial(tqdm, disable=True)
    monkeypatch.setattr(demonstrations, "tqdm", silent)  # a bar that is not shown counts nothing

    def ending(self, action):
        *rest, truncated, info = step(self, action)
        return *rest, truncated, {"success": next(tries)} if truncated else info

    monkeypatch.setattr(type(env), "step", ending)
    data = load_demonstrations(seeing, env, 2, 7)
    assert data["ends"].sum() == 2 and next(tries, None) is None
    monkeypatch.setattr(type(env), "step", lambda *x: (*step(*x)[:4], {"success": 0}))
    with pytest.raises(InputError, match="its expert succeeds 0 times in 20"):
        load_demonstrations(seeing, env, 2, 7)
    monkeypatch.undo()
    keys = np.random.SeedSequence((7, 5)).generate_state(4)
    starts = np.flatnonzero(np.r_[1, data["ends"][:-1]])
    first = [env.reset(seed=int(key))[0] for key in keys[2:]]
    assert np.array_equal(data["obs"][starts], first)


def test_who_demonstrates_and_what_was_seen_has_to_be_known(seeing, tmp_path, monkeypatch):
    vision.encoder.cache_clear()
    generator = torch.get_rng_state()
    env = bc.make_env(seeing)
    assert torch.equal(torch.get_rng_state(), generator)
    eyes = env.get_wrapper_attr("eyes")()
    monkeypatch.setattr(vision, "STATES", 3)
    seen = np.array([env.reset(seed=seed)[0] for seed in range(4)])
    assert eyes(seen[1:]).shape == (3, 2)  # (B, S); the oldest is forgotten
    with pytest.raises(InputError, match="--threshold"):
        eyes(seen[:1])
    with pytest.raises(InputError, match="--threshold"):
        eyes(np.zeros((1, 64)))
    (tmp_path / "Shown-v0" / "top.safetensors").unlink()
    with pytest.raises(InputError, match="--demo-episodes 0"):
        load_demonstrations(seeing, env, 2, 1)


def test_imagenet_sees_where_nothing_was_learned():
    pytest.importorskip("efficientnet_lite_pytorch")
    env = Task("Pixels/Shown-v0")
    a, _ = env.reset(seed=1)
    assert a.shape == (448,) and np.isfinite(a).all()
    assert np.array_equal(a, env.reset(seed=1)[0])
    env.unwrapped.x = 0.9
    b = env.step(np.zeros(1, np.float32))[0]
    assert np.abs(a - b).max() > 0.1 * np.abs(a).max()


def test_without_any_network_nobody_sees(ending, people, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    code, line = ending(bc, "--env-id Pixels/Shown-v0")
    assert code == 2 and "python -m pip install -r requirements-vision.txt" in line


@pytest.mark.parametrize("cameras", [1, 2])
def test_an_encoder_is_learned_by_cloning(cameras, seeing, capsys, monkeypatch):
    render = tiny.Shown.render
    monkeypatch.setattr(tiny.Shown, "render", lambda self: [render(self)] * cameras)
    facts = {"seed": 1, "source": "expert", "lessons": 4, "disturbances": [0.0, 0.6]}
    recipe = SimpleNamespace(**facts, label_noise=0, updates=60)
    pages, lessons = [], train_experts.lessons
    monkeypatch.setattr(train_experts, "lessons", lambda *x: pages.append(lessons(*x)) or pages[0])
    state = train_experts.learn_to_see(SimpleNamespace(env_id=seeing), recipe)
    (obs, actions), error = pages[0], float(capsys.readouterr().out.split()[-4])
    assert obs.shape[1] == 64 * cameras and error < actions.var().item() / 3
    vision.Learned().load_state_dict(state)


@tiny.draws
@pytest.mark.parametrize("task", ["button-press-v3", "peg-insert-side-v3", "drawer-open-v3"])
def test_a_shipped_encoder_shows_where_the_goal_is(task):
    seen, state = Task(f"Pixels/Meta-World/{task}"), Task(f"Meta-World/{task}")
    features = np.array([[*seen.reset(seed=seed)[0][:64], 1] for seed in range(60)])  # (60, 65)
    places = np.array([state.reset(seed=seed)[0][-1, -3:] for seed in range(60)])  # (60, 3)
    x, y = features[:45], places[:45]  # a linear fit, and what it says of others
    errors = features[45:] @ np.linalg.solve(x.T @ x + 0.1 * np.eye(65), x.T @ y) - places[45:]
    assert (errors**2).sum() < 0.05 * places[45:].var(0).sum() * len(errors)


def test_what_a_step_with_pictures_takes_is_measured(seeing):
    row = speed.of_pictures("Shown-v0", steps=3)
    assert row.pop("pictures of") == "Shown-v0"
    assert list(row) == ["simulation", "picture", "network"] and float(row["network"]) > 0
