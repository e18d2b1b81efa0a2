"""Demonstrations: those that are shipped, and any other Minari dataset."""

import os
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.spaces.utils import flatten

from experts.policies import FOLDER, MAX_ACTION, InputError


def load_demonstrations(env_id, env, episodes, seed, dataset_id=None):
    """So many episodes of a dataset, drawn by the seed and in their order. Raises InputError.

    env: as the scripts' make_env makes it. dataset_id: a Minari dataset, downloaded if it is not
    there; without one, that in experts/<env_id>/demonstrations. Returns a dict of float32 arrays:
    obs, next_obs (n, O), actions (n, A) within +-0.999 or one-hot, rewards (n,), terminations (n,),
    1 where the task ended, and ends (n,), 1 at the last transition of every episode.
    """
    (obs_dim,), (act_dim,) = env.observation_space.shape, env.action_space.shape
    shapes = {"obs": (0, obs_dim), "next_obs": (0, obs_dim), "actions": (0, act_dim)}
    data = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    data |= {key: np.zeros(0, np.float32) for key in ("rewards", "terminations", "ends")}
    if episodes > 0:
        dataset, name = open_dataset(env_id, dataset_id)
        if dataset.total_episodes < episodes:
            print(f"all {dataset.total_episodes} episodes of {name} are used", file=sys.stderr)
        draw = np.random.default_rng((seed, 5)).permutation(dataset.total_episodes)[:episodes]
        try:
            drawn = dataset.iterate_episodes(np.sort(draw))
            parts = [transitions(episode, dataset, env) for episode in drawn]
            for key, empty in data.items():
                data[key] = np.concatenate([part[key] for part in parts]).astype(np.float32)
                if data[key].shape[1:] != empty.shape[1:] or not np.isfinite(data[key]).all():
                    raise ValueError(f"{key}: not finite, or of shape {data[key].shape[1:]}")
        except Exception as error:  # whatever Minari or HDF5 make of what lies in the files
            raise InputError(f"{name} does not fit {env_id}: {error or type(error)}") from None
    return data


def open_dataset(env_id, dataset_id):
    """The Minari dataset of this id, downloaded if need be, or the shipped one, and its name."""
    import minari
    from minari.dataset.minari_storage import MinariStorage
    from minari.storage.datasets_root_dir import get_dataset_path

    folder = FOLDER / env_id / "demonstrations" / "data"
    if dataset_id is None and not folder.exists():
        raise InputError(f"{env_id} has no demonstrations: --dataset-id, or --demo-episodes 0")
    try:
        if dataset_id is not None:
            folder = get_dataset_path(dataset_id) / "data"
            if not folder.exists():
                minari.download_dataset(dataset_id)
        # without its spaces Minari would call whatever function the file names as environment
        if not {"observation_space", "action_space"} <= {*MinariStorage.read_raw_metadata(folder)}:
            raise ValueError("it does not say what its spaces are")
        return minari.MinariDataset(folder), f"dataset {dataset_id or folder.parent}"
    except Exception as error:  # whatever the storage or the network raise
        said = f"no dataset {dataset_id or folder}, {type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{said}; `minari list local` shows what is here") from None


def transitions(episode, dataset, env):
    """An episode of n steps as a dict of arrays, as load_demonstrations returns it."""
    n, own, stored, outer = len(episode.rewards), env.env.action_space, dataset.action_space, env
    discrete = isinstance(own, gym.spaces.Discrete)
    bounds = ("start", "n") if discrete else ("low", "high")
    same = type(stored) is type(own) and stored.shape == own.shape
    if not (same and all(np.allclose(getattr(stored, x), getattr(own, x)) for x in bounds)):
        raise ValueError(f"its actions are {stored}, not {own}")
    while not isinstance(outer, gym.wrappers.FlattenObservation):
        outer = outer.env
    obs = flat(episode.observations, outer.env.observation_space)  # (n + 1, O)
    if discrete:
        actions = np.eye(own.n)[np.asarray(episode.actions) - own.start]  # (n, A), one-hot
    else:
        actions = 2 * (np.asarray(episode.actions) - own.low) / (own.high - own.low) - 1
        actions = actions.clip(-MAX_ACTION, MAX_ACTION)
    if len(obs) != n + 1 or len(actions) != n or len(episode.terminations) != n:
        raise ValueError(f"an episode of {n} steps has {len(obs)} observations")
    arrays = {"obs": obs[:-1], "next_obs": obs[1:], "actions": actions}
    arrays |= {"rewards": episode.rewards, "terminations": episode.terminations}
    return arrays | {"ends": np.arange(n) == n - 1}


def flat(observations, space):
    """Arrays, or dicts and tuples of them, as FlattenObservation has their rows: (n, O)."""
    if isinstance(observations, dict | tuple):
        keys = space.keys() if isinstance(observations, dict) else range(len(observations))
        return np.concatenate([flat(observations[key], space[key]) for key in keys], axis=1)
    return np.array([flatten(space, one) for one in observations])


def write_dataset(folder, env, episodes, dataset_id, algorithm_name):
    """Write a Minari dataset in this new folder, as a whole or not at all. Raises OSError.

    episodes: dicts of observations (n + 1, O), actions (n, ...), the environment's own, and
    rewards, terminations, truncations (n,); env as for load_demonstrations.
    """
    import h5py
    import minari
    from minari.dataset.minari_storage import MinariStorage

    staging = Path(f"{folder}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    seen = gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
    storage = MinariStorage.new(staging / "data", seen, env.env.action_space)
    with h5py.File(staging / "data" / "main_data.hdf5", "w", track_order=True) as file:
        for i, episode in enumerate(episodes):
            group = file.create_group(f"episode_{i}")
            group.attrs.update({"id": i, "total_steps": len(episode["rewards"])})
            for name, values in episode.items():
                values = np.asarray(values)
                kind = np.float32 if values.dtype == np.float64 else values.dtype
                group.create_dataset(
                    name, data=values, dtype=kind, compression="gzip", shuffle=True
                )
    facts = {"dataset_id": dataset_id, "minari_version": minari.__version__}
    facts |= {"algorithm_name": algorithm_name, "total_episodes": len(episodes)}
    facts["total_steps"] = sum(len(episode["rewards"]) for episode in episodes)
    storage.update_metadata(facts)
    os.replace(staging, folder)
