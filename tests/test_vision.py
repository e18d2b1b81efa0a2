"""Eyes: the robot sees a picture, the simulated person the state; all else is as before."""

import numpy as np
import pytest

import bc
import dagger
import hg_dagger
import rlif_rlpd
from experts import load_expert, policies, vision
from tests import tiny


@pytest.fixture
def seeing(people, monkeypatch, tmp_path):
    """Shown-v0 with a top expert and an encoder that has hardly learned."""
    monkeypatch.setattr(policies, "FOLDER", tmp_path)
    monkeypatch.setattr(vision, "FOLDER", tmp_path)
    (tmp_path / "Shown-v0").mkdir()
    tiny.write_expert(tmp_path / "Shown-v0" / "top.safetensors", [[-5.0, 0.0]], noise=0.1)
    vision.main("Shown-v0", episodes=1, updates=2)
    return "Pixels/Shown-v0"


def test_the_robot_sees_a_picture_and_the_person_the_state(seeing, monkeypatch):
    env = bc.make_env(seeing)
    person, robot = load_expert(seeing, "top", env), bc.Actor(env, (8,))
    obs, _ = env.reset(seed=1)
    point = env.unwrapped
    assert obs.shape == (64,) and env.get_wrapper_attr("picture").shape == (1, 3, 84, 84)
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


@pytest.mark.parametrize("script", [rlif_rlpd, hg_dagger, dagger])
def test_scripts_learn_from_pictures_the_same_to_the_bit(script, seeing):
    options = f"--env-id {seeing} --expert top --demo-episodes 1"
    options += " --intervention random" * (script is rlif_rlpd)
    tiny.assert_same_run(tiny.short_run(script, options), tiny.short_run(script, options))


def test_nobody_sees_without_an_encoder(ending, people):
    code, line = ending(bc, "--env-id Pixels/Shown-v0")
    assert code == 2 and "python -m experts.vision --env-id Shown-v0" in line


def test_an_encoder_is_learned_by_cloning(seeing, tmp_path, capsys):
    vision.main("Shown-v0", episodes=3, updates=40, output=str(tmp_path / "e.safetensors"))
    assert float(capsys.readouterr().out.split()[-4]) < 0.2
