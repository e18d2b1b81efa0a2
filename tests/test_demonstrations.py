"""Demonstrations: the shipped ones, any Minari dataset, and which of its episodes a run draws."""

import json
import os
import re
import shutil
import zlib
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

import bc
from experts import TRAINING_TASKS, InputError, load_demonstrations, record
from experts.demonstrations import write_dataset
from tests import tiny


def refusal(env_id, episodes, dataset_id=None):
    """The one line with which load_demonstrations refuses."""
    with pytest.raises(InputError) as caught:
        load_demonstrations(env_id, bc.make_env(env_id), episodes, 1, dataset_id)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def load(env_id, episodes, seed=1, dataset_id="test/a-v0"):
    return load_demonstrations(env_id, bc.make_env(env_id), episodes, seed, dataset_id)


def write(observations, space, actions=None, action_space=tiny.Point.action_space):
    """test/a-v0, a Minari dataset of one episode of two steps, of no environment."""
    actions = np.zeros((2, 1), dtype=np.float32) if actions is None else actions
    ends = {"terminations": [False, False], "truncations": [False, True]}
    episode = EpisodeBuffer(0, 0, None, observations, actions, [0.0, 0.0], infos={}, **ends)
    spaces = {"observation_space": space, "action_space": action_space}
    facts = {"algorithm_name": "none", "author": "test"}
    minari.create_dataset_from_buffers("test/a-v0", [episode], **spaces, **facts)


# --- the shipped ones -----------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", tiny.list_experts())
def test_shipped_demonstrations_are_small_and_fit_their_task(env_id):
    tiny.skip_without(env_id)
    folder = tiny.EXPERTS / env_id / "demonstrations"
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 5e6
    with h5py.File(folder / "data" / "main_data.hdf5") as file:
        kinds = set()
        file.visititems(lambda _, x: kinds.add(str(getattr(x, "dtype", ""))))
        assert "float32" in kinds and "float64" not in kinds
        found = [len(file), sum(len(episode["rewards"]) for episode in file.values())]
    page = (tiny.EXPERTS / "README.md").read_text()
    (numbers,) = re.findall(rf"^\| {env_id}[^|]*\| (\d+) \| ([\d,]+) \|", page, re.M)
    assert found == [int(number.replace(",", "")) for number in numbers] and found[0] >= 40
    data = load(env_id, 10, dataset_id=None)
    assert data["ends"].sum() == 10 and len(data["obs"]) > 150
    inside = data["ends"][:-1] == 0  # an episode's steps follow each other
    assert np.array_equal(data["next_obs"][:-1][inside], data["obs"][1:][inside])
    assert not np.array_equal(data["next_obs"][:-1][~inside], data["obs"][1:][~inside])
    if env_id in TRAINING_TASKS:  # what it learns in takes them, too
        env = bc.make_env(TRAINING_TASKS[env_id])
        assert np.array_equal(load_demonstrations(env_id, env, 10, 1)["obs"], data["obs"])


def test_what_write_dataset_has_flattened_is_taken_back():
    env, n = bc.make_env("Parts-v0"), 5
    rng, (size,) = np.random.default_rng(0), env.observation_space.shape
    ends = np.zeros(n, bool)
    arrays = rng.random((n + 1, size), np.float32), rng.random((n, 1), np.float32), np.zeros(n)
    episode = dict(zip(record.ARRAYS, (*arrays, ends, ends)))
    path = minari.storage.get_dataset_path("flat/parts-v0")
    write_dataset(path, env, [episode], "flat/parts-v0", "test")
    data = load_demonstrations("Parts-v0", env, 1, 1, "flat/parts-v0")
    assert np.array_equal(data["obs"], arrays[0][:-1])
    assert np.array_equal(data["next_obs"], arrays[0][1:])


def test_without_shipped_ones_there_is_a_hint():
    said = refusal("Point-v0", 3)
    assert "--dataset-id" in said and "Point-v0" in said


# --- which episodes -------------------------------------------------------------------------------


def test_episodes_are_drawn_by_the_seed_and_keep_their_order(capsys):
    buffers = tiny.write_demonstrations("test/a-v0", episodes=12, steps=3)
    starts = [tuple(buffer.observations[0]) for buffer in buffers]

    def drawn(*args):
        return [starts.index(tuple(obs)) for obs in load("Point-v0", *args)["obs"][::3]]

    draws = [drawn(5, seed) for seed in range(30)]
    assert all(len(draw) == 5 and draw == sorted(set(draw)) for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 20 and drawn(5, 7) == draws[7]
    assert {number for draw in draws for number in draw} == set(range(12))
    assert capsys.readouterr().err == ""
    assert drawn(5_000, 3) == list(range(12))  # fewer than asked for are all used, and it is said
    said = capsys.readouterr().err
    assert "12" in said and said.count("\n") == 1
    load("Walled-v0", 5, 3)  # of the same shapes
    assert "dataset test/a-v0 is of Point-v0, not of Walled-v0" in capsys.readouterr().err


@pytest.mark.parametrize("cell", ["hopper/rlif", "table1/Walker2d-v5-top-rlif"])
def test_a_seed_draws_the_demonstrations_of_the_tables(cell):
    path = tiny.ROOT / "benchmark" / "results" / cell / "seed_2.csv"
    args = json.loads(path.with_suffix(".json").read_text())["args"]
    actions = load(args["env_id"], args["demo_episodes"], 2, None)["actions"]
    assert str(zlib.crc32(actions)) == path.read_text().split(",")[-2]


def test_all_methods_of_a_seed_have_the_same_draw_and_say_which(script, monkeypatch):
    if not hasattr(script.Args, "demo_episodes"):
        return
    asked, fits = [], script.load_demonstrations

    def watched(env_id, env, episodes, seed, dataset_id=None):
        asked.append((env_id, episodes, seed, dataset_id))
        return fits(env_id, env, episodes)

    monkeypatch.setattr(script, "load_demonstrations", watched)
    folder = tiny.short_run(script, "--demo-episodes 2 --seed 3 --dataset-id test/a-v0")
    rows = tiny.rows(folder)
    assert asked == [("Walled-v0", 2, 3, "test/a-v0")]
    actions = tiny.demonstrations("", bc.make_env("Walled-v0"), 2)["actions"]
    assert {(row["demo_transitions"], int(row["demo_hash"])) for row in rows} == {
        ("20", zlib.crc32(actions))
    }


def test_a_dataset_as_transitions():
    buffers = tiny.write_demonstrations("test/a-v0", episodes=4, steps=6)
    data = load("Point-v0", 4)
    shapes = {"obs": (24, 2), "next_obs": (24, 2), "actions": (24, 1)}
    shapes |= dict.fromkeys(("rewards", "terminations", "ends"), (24,))
    assert {name: values.shape for name, values in data.items()} == shapes
    assert all(values.dtype == np.float32 for values in data.values())
    for i, buffer in enumerate(buffers):
        rows = slice(6 * i, 6 * i + 6)
        np.testing.assert_array_equal(data["obs"][rows], buffer.observations[:-1])
        np.testing.assert_array_equal(data["next_obs"][rows], buffer.observations[1:])
        actions = (buffer.actions / 2).clip(-0.999, 0.999)
        np.testing.assert_allclose(data["actions"][rows], actions, atol=1e-6)
        assert data["rewards"][rows].tolist() == [1, 2, 3, 4, 5, 6]
        assert data["ends"][rows].tolist() == [0, 0, 0, 0, 0, 1]
        # the odd ones ran out of time, which is no end of the task
        assert data["terminations"][rows].tolist() == [0, 0, 0, 0, 0, i % 2 == 0]
    none = load("Point-v0", 0, dataset_id="no/such-v0")
    shapes = {name: (0, *shape[1:]) for name, shape in shapes.items()}
    assert {name: values.shape for name, values in none.items()} == shapes


# --- any Minari dataset ---------------------------------------------------------------------------


class Kinds(tiny.Point):
    """Sees a place, and two boards: which field, and two numbers; in an order of its own."""

    boards = gym.spaces.Discrete(3, start=1), gym.spaces.MultiDiscrete([2, 3])
    place = gym.spaces.Box(-10, 10, (1, 2))
    observation_space = gym.spaces.Dict([("place", place), ("boards", gym.spaces.Tuple(boards))])


gym.register("Kinds-v0", Kinds, max_episode_steps=50)


def test_observations_of_many_kinds_become_flat_as_the_environments_do():
    boards = np.array([1, 3, 2]), np.array([[0, 2], [1, 0], [1, 1]])
    places = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    write({"place": places, "boards": boards}, Kinds.observation_space)
    data = load("Kinds-v0", 1)
    assert data["obs"].tolist() == [[0, 1, 1, 0, 0, 1, 0, 0, 0, 1], [2, 3, 0, 0, 1, 0, 1, 1, 0, 0]]
    assert data["next_obs"][1].tolist() == [4, 5, 0, 1, 0, 0, 1, 0, 1, 0]
    first = {"place": places[0], "boards": (boards[0][0], boards[1][0])}
    assert data["obs"][0].tolist() == bc.make_env("Kinds-v0").env.observation(first).tolist()


NOTHING = np.zeros((3, 2), np.float32), tiny.Point.observation_space
Box, Discrete = gym.spaces.Box, gym.spaces.Discrete


def test_actions_become_one_hot_or_in_units_whatever_their_precision():
    write(*NOTHING, np.array([7, 5]), Discrete(3, start=5))
    assert load("SwitchedFrom5-v0", 1)["actions"].tolist() == [[0, 0, 1], [1, 0, 0]]
    shutil.rmtree("minari")
    write(*NOTHING, np.array([[1.0], [-3.0]]), Box(-2.0, 2.0, (1,), np.float64))
    np.testing.assert_allclose(load("Point-v0", 1)["actions"], [[0.5], [-0.999]])


OTHER = {
    "Point-v0": [Box(-1.0, 1.0, (1,)), Box(-2.0, 2.5, (1,)), Box(-2.0, 2.0, (2,)), Discrete(3)],
    "SwitchedFrom5-v0": [Discrete(3), Discrete(4, start=5), Box(0.0, 1.0, (3,))],
}


@pytest.mark.parametrize(
    ("env_id", "space"), [(env_id, space) for env_id in OTHER for space in OTHER[env_id]], ids=str
)
def test_a_dataset_with_other_actions_is_refused_with_both(env_id, space):
    write(*NOTHING, np.zeros((2, *space.shape), dtype=space.dtype), space)
    message = refusal(env_id, 1, "test/a-v0")
    assert str(space) in message and str(gym.make(env_id).action_space) in message


UNSOUND = [
    ("rewards", [1, np.nan]), ("actions", [[0], [np.nan]]), ("observations", [[0, 0], [0, 0]]),
    ("observations", [[0, 0], [0, 0], [0, np.inf]]), ("observations", [[0, 0, 0]] * 3),
    ("observations", [[0, 0], [0, 0], [0, 1e300]]),  # infinite as float32
]  # fmt: skip


@pytest.mark.parametrize(("part", "values"), UNSOUND)
@pytest.mark.filterwarnings("ignore:overflow")
def test_an_episode_that_is_not_sound_is_refused(part, values):
    tiny.write_demonstrations("test/a-v0", episodes=3, steps=2)
    with h5py.File("minari/test/a-v0/data/main_data.hdf5", "a") as file:
        del file[f"episode_1/{part}"]
        file[f"episode_1/{part}"] = np.asarray(values, dtype=np.float64)
    assert "test/a-v0" in refusal("Point-v0", 3, "test/a-v0")


@pytest.mark.parametrize("dataset_id", ["test/b-v0", "test/b", "b-v0", "no such thing"])
def test_a_dataset_that_is_not_there_is_said(dataset_id):
    said = refusal("Point-v0", 3, dataset_id)
    assert dataset_id in said and "Ids end in a version" in said


def test_a_damaged_dataset_is_refused_and_none_runs_code():
    tiny.write_demonstrations("test/a-v0", episodes=1, steps=2)
    facts = Path("minari/test/a-v0/data/metadata.json")
    metadata = json.loads(facts.read_text())
    spec = json.loads(metadata["env_spec"]) | {"entry_point": "os:mkdir"}
    spec["kwargs"] = {"path": "it_was_run"}
    del metadata["observation_space"]
    facts.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    assert "test/a-v0" in refusal("Point-v0", 1, "test/a-v0")
    assert not Path("it_was_run").exists()
    file = Path("minari/test/a-v0/data/main_data.hdf5")
    file.write_bytes(file.read_bytes()[:1_000])
    assert "test/a-v0" in refusal("Point-v0", 1, "test/a-v0")


# --- writing one ----------------------------------------------------------------------------------


def test_what_is_written_is_what_is_loaded_and_a_minari_dataset(monkeypatch):
    env, rng, last = bc.make_env("SwitchedFrom5-v0"), np.random.default_rng(0), np.arange(4) == 3
    episodes = [
        {
            "observations": rng.normal(size=(5, 2)), "actions": rng.integers(5, 8, size=4),
            "rewards": rng.normal(size=4), "terminations": last & (i == 1),
            "truncations": last & (i != 1),
        }
        for i in range(3)
    ]  # fmt: skip
    folder = Path("minari/test/a-v0")
    folder.parent.mkdir(parents=True)
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(os, "replace", None)
        write_dataset(folder, env, episodes, "test/a-v0", "a test")
    assert not folder.exists()  # as a whole, or not at all
    write_dataset(folder, env, episodes, "test/a-v0", "a test")
    data = load("SwitchedFrom5-v0", 3)
    for name in ("rewards", "terminations"):
        expected = np.concatenate([episode[name] for episode in episodes])
        np.testing.assert_array_equal(data[name], expected.astype(np.float32))
    actions = np.concatenate([episode["actions"] for episode in episodes])
    assert (data["actions"].argmax(1) + 5).tolist() == actions.tolist()
    read = minari.load_dataset("test/a-v0")
    assert (read.total_episodes, read.total_steps) == (3, 12)
    np.testing.assert_allclose(read[1].observations, episodes[1]["observations"], rtol=1e-6)
    assert read[1].terminations.tolist() == episodes[1]["terminations"].tolist()
