"""Eyes: the robot sees pictures, the simulated person the state; all else is as before."""

import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from safetensors.torch import save_file

import bc
from experts import InputError, Task, load_expert, policies, save_expert, vision
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


@pytest.fixture
def seeing(people, monkeypatch, tmp_path):
    """Pixels/Shown-v0: an expert who sees the state, a beginner, and eyes that know nothing."""
    for module in (policies, vision):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    for folder in ("Shown-v0", "Pixels/Shown-v0"):
        (tmp_path / folder).mkdir(parents=True)
    qf = tiny.critics(2, 1)
    tiny.write_expert(tmp_path / "Shown-v0" / "top.safetensors", [[-5.0, 0.0]], noise=0.1, qf=qf)
    save_file(
        vision.Learned().state_dict(), tmp_path / "Pixels" / "Shown-v0" / "encoder.safetensors"
    )
    for level in ("initial", "mental"):
        actor = bc.Actor(bc.make_env("Pixels/Shown-v0"), (8,))
        save_expert(tmp_path / "Pixels" / "Shown-v0" / f"{level}.safetensors", actor)
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


def test_a_picture_alone_asks_for_eyes(ending, people):
    code, line = ending(bc, "--env-id Picture-v0")
    assert code == 2 and "--env-id Pixels/Picture-v0" in line


def test_scripts_learn_from_pictures_the_same_to_the_bit(script, seeing):
    options = f"--env-id {seeing}"
    if script is not bc:
        options += " --expert top"
    if hasattr(script.Args, "reference"):
        options += " --reference top"
    if hasattr(script.Args, "human_model"):
        options += " --initial-policy initial --human-model mental"
    tiny.assert_same_run(*(tiny.short_run(script, options) for _ in range(2)))


def test_a_beginner_that_sees_the_state_is_no_robot_here(seeing, tmp_path, people):
    (tmp_path / "Pixels" / "Shown-v0" / "initial.safetensors").rename("seeing.safetensors")
    tiny.write_expert(tmp_path / "Shown-v0" / "initial.safetensors", [[0.0, 0.0]])
    with pytest.raises(InputError, match="no expert 'initial' for Pixels/Shown-v0"):
        load_expert(seeing, "initial", bc.make_env(seeing))


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


def test_an_encoder_is_learned_by_cloning(seeing, capsys):
    args = SimpleNamespace(env_id=seeing)
    facts = {"seed": 1, "source": "expert", "lessons": 4, "disturbances": [0.0, 0.6]}
    recipe = SimpleNamespace(**facts, label_noise=0, updates=40)
    state = train_experts.learn_to_see(args, recipe)
    assert float(capsys.readouterr().out.split()[-4]) < 0.1
    vision.Learned().load_state_dict(state)


def test_what_a_step_with_pictures_takes_is_measured(seeing):
    row = speed.of_pictures("Shown-v0", steps=3)
    assert row.pop("pictures of") == "Shown-v0"
    assert list(row) == ["simulation", "picture", "network"] and float(row["network"]) > 0
