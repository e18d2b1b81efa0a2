"""Demonstrations: Minari datasets, and episodes of the shipped top experts, which become such datasets."""

import copy
import hashlib
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.spaces.utils import flatten
from gymnasium.wrappers import FlattenObservation

from experts.files import InputError, write_file
from experts.options import unused
from experts.policies import MAX_ACTION, list_experts, load_expert
from experts.tasks import in_one_line, reason


def load_demonstrations(env, env_id, episodes, dataset_id=None, noise=None, keep_rewards=False):
    """The first episodes of a Minari dataset as arrays of transitions, in the order they happened.

    env: as every script makes it, with FlattenObservation, Checked and, outermost, UnitActions.
    episodes: how many; None takes all of a given dataset. Where there are fewer, a line on stderr says so.
    dataset_id: that dataset, downloaded if it is not there. Without one, the shipped top expert acts in env with
    sampled actions: recorded once for every expert, environment (its id, time limit and options), noise and number of
    episodes, and kept as a local Minari dataset.
    noise: standard deviation of Gaussian noise on the recorded actions, which are in [-1, 1]; None is 0. Discrete
    actions get none, which a line on stderr says.
    keep_rewards: otherwise they are zero, for only plain reinforcement learning (`--reward task`) looks at them.

    Returns a dict of float32 arrays: obs, next_obs (n, obs_dim), actions (n, act_dim) in [-1, 1] or one-hot,
    rewards (n,), terminations (n,), 1 where the task ended, and ends (n,), 1 at the last transition of every episode:
    its sum is the number of episodes. Raises InputError if the dataset is not to be had, is not sound or does not fit
    env, RunError if env fails while it is recorded, and OSError if the recorded dataset cannot be written.
    """
    if episodes == 0:
        (obs_dim,), (act_dim,) = env.observation_space.shape, env.action_space.shape
        shapes = {"obs": (0, obs_dim), "next_obs": (0, obs_dim), "actions": (0, act_dim)}
        shapes |= {"rewards": (0,), "terminations": (0,), "ends": (0,)}
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    if dataset_id is None:
        dataset_id = _record_demonstrations(env, env_id, episodes, noise or 0.0)
    dataset = _open_dataset(dataset_id)
    _check_spaces(dataset, dataset_id, env, env_id)
    recorded_in = dataset.env_spec.id if dataset.env_spec else None
    if recorded_in not in (None, env.spec.id, env_id):
        print(
            f"warning: dataset {dataset_id} was recorded in {recorded_in}, and is used for {env_id}",
            file=sys.stderr,
        )
    there = dataset.total_episodes
    if there == 0:
        raise InputError(f"dataset {dataset_id} has no episodes")
    if episodes is None:
        episodes = there
    if there < episodes:
        print(
            f"dataset {dataset_id} has {there} episodes, not {episodes}: all of them are used",
            file=sys.stderr,
        )
    try:
        chosen = list(dataset.iterate_episodes(range(min(episodes, there))))
    except Exception as error:  # whatever the storage raises
        raise InputError(f"cannot read dataset {dataset_id}: {reason(error)[:160]}") from None
    space = dataset.observation_space
    # the same but for the order of its parts, which is to be the environment's
    if not isinstance(space, Box):
        space = _own_observations(env)
    parts = [
        _transitions(f"dataset {dataset_id}, episode {i}", chosen[i], env, space)
        for i in range(len(chosen))
    ]
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if len(data["rewards"]) < 2:  # they have no standard deviation
        raise InputError(
            f"dataset {dataset_id} has a single transition, which is too little to learn from"
        )
    if not keep_rewards:
        data["rewards"][:] = 0
    return data


def check_demonstrations(args, typed, more=""):
    """Refuse options of demonstrations that would do nothing; more: others that need some. Raises InputError."""
    if args.dataset_id:
        unused(typed, "demo_noise", "a dataset is taken as it is")
    if args.demo_episodes == 0:
        why = "there are no demonstrations with --demo-episodes 0"
        unused(typed, f"dataset_id demo_noise {more}", why)


# --- reading ---------------------------------------------------------------------------------------------------------


def _open_dataset(dataset_id):
    """The Minari dataset of this id, downloaded if it is not there. Raises InputError."""
    import minari
    from minari.dataset.minari_storage import MinariStorage
    from minari.storage.datasets_root_dir import get_dataset_path

    was_there = False
    try:
        folder = get_dataset_path(dataset_id) / "data"
        was_there = folder.exists()
        if not was_there:
            minari.download_dataset(dataset_id)
        # without its spaces Minari would build the environment that the file names, which can be any Python function
        if (
            not {"observation_space", "action_space"}
            <= MinariStorage.read_raw_metadata(folder).keys()
        ):
            raise InputError(f"dataset {dataset_id} does not say what its spaces are")
        return minari.load_dataset(dataset_id)
    except InputError:
        raise
    except Exception as error:  # minari raises whatever its storage or the network raised
        what = reason(error)[:160]
    if was_there:
        raise InputError(f"cannot read dataset {dataset_id} in {folder}: {what}")
    raise InputError(
        f"no Minari dataset {dataset_id!r} here, and it could not be downloaded ({what}); "
        "`minari list local` shows what is here"
    )


def _check_spaces(dataset, dataset_id, env, env_id):
    """Raises InputError, with both, if the dataset's observations or actions are others than the environment's."""
    stored, own = dataset.observation_space, _own_observations(env)
    if isinstance(stored, Box):  # flat already, or to be flattened
        fits = stored.shape in (own.shape, env.observation_space.shape)
    else:
        fits = stored == own
    if not fits:
        raise InputError(
            f"dataset {dataset_id} has observations {_outline(stored)}, {env_id} {_outline(own)}"
        )
    stored, own = dataset.action_space, env.own_space
    if env.discrete:
        fits = isinstance(stored, Discrete) and (stored.n, stored.start) == (own.n, own.start)
    else:  # a range as float64 or float32 is the same range
        fits = isinstance(stored, Box) and stored.shape == own.shape
        fits = fits and np.allclose([stored.low, stored.high], [own.low, own.high])
    if not fits:
        raise InputError(
            f"dataset {dataset_id} has actions {in_one_line(stored)}, {env_id} has {in_one_line(own)}"
        )


def _own_observations(env):
    """The environment's own observation space, before FlattenObservation."""
    while not isinstance(env, FlattenObservation):
        env = env.env
    return env.env.observation_space


def _outline(space):
    """An observation space in a few words: the bounds of a Box don't matter, and can be many."""
    return f"of shape {space.shape}" if isinstance(space, Box) else in_one_line(space)


def _transitions(name, episode, env, space):
    """An episode, its observations from this space, as a dict of float32 arrays of n transitions; or InputError."""
    n = len(episode.rewards)
    if n == 0:
        raise InputError(f"{name} has no transitions")
    if env.discrete and not all(
        env.own_space.contains(action) for action in np.asarray(episode.actions)
    ):
        raise InputError(f"{name} has actions outside {in_one_line(env.own_space)}")
    try:
        obs = _flat_observations(episode.observations, space, n + 1)  # (n + 1, O)
        actions = env.unit(episode.actions)  # (n, A)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"{name} does not fit the dataset's own spaces: {reason(error)[:160]}"
        ) from None
    arrays = {}
    for what, values, shape in (
        ("observations", obs, (n + 1, *env.observation_space.shape)),
        ("actions", actions, (n, *env.action_space.shape)),
        ("rewards", episode.rewards, (n,)),
        ("terminations", episode.terminations, (n,)),
    ):
        arrays[what] = values = np.asarray(values, dtype=np.float32)
        if values.shape != shape:
            raise InputError(f"{name} has {what} of shape {values.shape}, not {shape}")
        if not np.isfinite(values).all():
            raise InputError(f"{name} has {what} that are not finite")
    return {
        "obs": arrays["observations"][:-1],
        "next_obs": arrays["observations"][1:],
        "actions": arrays["actions"]
        if env.discrete
        else arrays["actions"].clip(-MAX_ACTION, MAX_ACTION),
        "rewards": arrays["rewards"],
        "terminations": arrays["terminations"],
        "ends": (np.arange(n) == n - 1).astype(np.float32),
    }


def _flat_observations(observations, space, count):
    """So many observations from a space, an array (count, ...) or a dict or tuple of such, as (count, obs_dim)."""
    if isinstance(space, Box):
        return np.reshape(observations, (len(observations), -1))
    return np.array([flatten(space, _one_of(observations, t)) for t in range(count)])


def _one_of(observations, t):
    """Observation number t of arrays, or of dicts and tuples of arrays."""
    if isinstance(observations, dict):
        return {name: _one_of(values, t) for name, values in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_one_of(values, t) for values in observations)
    return observations[t]


# --- recording -------------------------------------------------------------------------------------------------------


def _record_demonstrations(env, env_id, episodes, noise):
    """Roll out the shipped top expert unless that was done before; returns the Minari id."""
    from minari.storage.datasets_root_dir import get_dataset_path

    if "top" not in list_experts().get(env_id, []):
        raise InputError(
            f"no top expert is shipped for {env_id}: give --dataset-id, or --demo-episodes 0 (bc.py cannot do without)"
        )
    expert = load_expert(env_id, "top", env)
    if noise and env.discrete:
        print(
            f"demonstrations of {env_id} have no noise, for its actions are discrete",
            file=sys.stderr,
        )
        noise = 0.0
    # another file of the expert, another noise or another environment means other demonstrations
    # a window changes none
    options = {name: value for name, value in env.spec.kwargs.items() if name != "render_mode"}
    made_by = [float(noise), env.spec.id, env.spec.max_episode_steps, options]
    made_by = expert.path.read_bytes() + json.dumps(made_by, sort_keys=True, default=str).encode()
    fingerprint = hashlib.sha256(made_by).hexdigest()[:8]
    dataset_id = f"interventions/{re.sub(r'[^a-z0-9]+', '-', env_id.lower())}/top-{fingerprint}-{episodes}-v0"
    root, place = get_dataset_path(), get_dataset_path(dataset_id)
    if place.exists():
        return dataset_id
    try:
        # a place where nothing can be written is found out before the episodes are played
        with tempfile.TemporaryDirectory(prefix=".recording-", dir=root):
            played = _play(env, env_id, expert, episodes, noise)
        write_dataset(dataset_id, env, played, f"shipped top expert {fingerprint}")
    except OSError as error:
        raise OSError(
            f"cannot write the demonstrations of {env_id} in {root}: {error.strerror or error}"
        ) from None
    return dataset_id


def _play(env, env_id, expert, episodes, noise):
    """Episodes of an expert with sampled actions: a list of dicts of arrays, actions (n, ...) are env's own."""
    from tqdm import trange

    played = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for episode in trange(episodes, desc=f"demonstrations of the top {env_id} expert (once)"):
            obs, _ = env.reset(seed=episode)
            observations, actions, rewards, terminated, truncated = [obs], [], [], False, False
            while not (terminated or truncated):
                action = expert.act(obs[None])[0]  # (A,)
                if noise:
                    action = (action + noise * torch.randn_like(action)).clamp(
                        -MAX_ACTION, MAX_ACTION
                    )
                action = action.numpy()
                obs, reward, terminated, truncated, _ = env.step(action)
                observations.append(obs)
                actions.append(env.action(action))
                rewards.append(reward)
            last = np.arange(len(rewards)) == len(rewards) - 1  # (n,)
            ends = {"terminations": last & terminated, "truncations": last & truncated}
            ends |= {"seed": episode, "infos": {}}
            arrays = {"observations": observations, "actions": actions, "rewards": rewards}
            played.append({name: np.array(values) for name, values in arrays.items()} | ends)
    return played


def write_dataset(dataset_id, env, played, algorithm_name):
    """Write episodes as a local Minari dataset, unless it is there. Raises OSError.

    played: dicts of arrays, as _play makes them; infos: arrays by name, (n + 1, ...) like the observations.
    It is written in a folder of its own and moved into place: whatever stops it leaves no half-written dataset.
    """
    from minari.storage.datasets_root_dir import get_dataset_path

    root, place = get_dataset_path(), get_dataset_path(dataset_id)
    with tempfile.TemporaryDirectory(prefix=".recording-", dir=root) as staging:
        _write_files(Path(staging) / "dataset", dataset_id, env, played, algorithm_name)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(Path(staging) / "dataset", place)
        except OSError:
            # another run has recorded the same meanwhile, which is as good
            if not place.exists():
                raise


def _write_files(folder, dataset_id, env, played, algorithm_name):
    """Write a dataset's files in this new folder.

    HDF5 writes to memory, and the file is written from there: on a full disk HDF5 crashes the whole process.
    """
    import h5py
    import minari
    from minari.dataset.minari_storage import MinariStorage

    with h5py.File("in memory", "w", driver="core", backing_store=False, track_order=True) as file:
        for i, episode in enumerate(played):
            group = file.create_group(f"episode_{i}")
            steps = len(episode["rewards"])
            group.attrs.update({"id": i, "seed": episode["seed"], "total_steps": steps})
            infos = group.create_group("infos")
            for name, values in episode["infos"].items():
                infos.create_dataset(name, data=values)
            for name in ("observations", "actions", "rewards", "terminations", "truncations"):
                group.create_dataset(name, data=episode[name])
        file.flush()
        data = file.id.get_file_image()
    folder.mkdir()
    storage = MinariStorage.new(
        folder / "data", env.observation_space, env.own_space, _spec_to_store(env)
    )
    storage.update_metadata({
        "dataset_id": dataset_id, "minari_version": minari.__version__, "algorithm_name": algorithm_name,
        "author": {"experts"}, "total_episodes": len(played), "dataset_size": round(len(data) / 1e6, 1),
        "total_steps": sum(len(episode["rewards"]) for episode in played),
    })  # fmt: skip
    write_file(folder / "data" / "main_data.hdf5", data)


def _spec_to_store(env):
    """What gym.make needs to make the environment again; None if that is not to be written down."""
    spec = copy.deepcopy(env.spec)
    spec.additional_wrappers = ()  # not those of the scripts
    try:
        spec.to_json()
    # it was registered with a class or has options that are objects
    except (
        TypeError,
        ValueError,
    ):
        return None
    return spec
