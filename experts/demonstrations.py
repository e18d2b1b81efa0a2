"""Demonstrations: those that are shipped, and any other Minari dataset."""

import re
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from tqdm import tqdm

from experts.policies import FOLDER, MAX_ACTION, InputError, load_expert


def load_demonstrations(env_id, env, episodes, seed, dataset_id=None):
    """So many episodes of a dataset, or of experts/<env_id>/demonstrations, drawn by the seed.

    env: as the scripts' make_env makes it. Returns a dict of float32 arrays: obs, next_obs (n, O),
    actions (n, A) within +-0.999 or one-hot, rewards (n,), terminations (n,), 1 where the task
    ended, and ends (n,), 1 at the last transition of every episode. Raises InputError.
    """
    o, a = env.observation_space.shape, env.action_space.shape  # (O,), (A,)
    shapes = {"obs": o, "next_obs": o, "actions": a, "rewards": (), "terminations": (), "ends": ()}
    if episodes == 0:
        return {key: np.zeros((0, *shape), np.float32) for key, shape in shapes.items()}
    if env_id.startswith("Pixels/") and dataset_id is None:  # the pictures are taken now
        return demonstrate(env_id, env, episodes, seed)
    shipped, data = FOLDER / env_id / "demonstrations" / "data", {}
    name = f"dataset {dataset_id or shipped}"
    if dataset_id is None and not shipped.exists():
        raise InputError(f"no demonstrations of {env_id}: give --dataset-id or --demo-episodes 0")
    try:
        dataset = open_dataset(dataset_id, shipped)
        if dataset.total_episodes < episodes:
            print(f"all {dataset.total_episodes} episodes of {name} are used", file=sys.stderr)
        if dataset.env_spec and dataset.env_spec.id != re.sub("Pixels/|.*:", "", env_id):
            print(f"{name} is of {dataset.env_spec.id}, not of {env_id}", file=sys.stderr)
        draw = np.random.default_rng((seed, 5)).permutation(dataset.total_episodes)[:episodes]
        drawn = dataset.iterate_episodes(np.sort(draw))
        parts = [transitions(episode, dataset, env) for episode in drawn]
        for key, shape in shapes.items():
            data[key] = np.concatenate([part[key] for part in parts]).astype(np.float32)
            if data[key].shape[1:] != shape or not np.isfinite(data[key]).all():
                raise ValueError(f"{key}: not finite, or of shape {data[key].shape[1:]}")
    except Exception as error:  # whatever Minari, HDF5 or the network raise
        why = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "is it of this environment, and here (`minari list local`)? Ids end in a version"
        raise InputError(f"{name} for {env_id}, {why}: {hint}") from None
    return data


def demonstrate(env_id, env, episodes, seed):
    """Episodes of the top expert, who sees the state, as load_demonstrations returns them."""
    if not (FOLDER / env_id.removeprefix("Pixels/") / "top.safetensors").exists():
        raise InputError(f"{env_id} has no top expert: give --dataset-id or --demo-episodes 0")
    expert, rows, kept = load_expert(env_id, "top", env), [], 0  # kept: episodes
    with torch.random.fork_rng(), tqdm(total=episodes, desc="demonstrations") as bar:
        torch.manual_seed(seed)
        seeds = np.random.SeedSequence((seed, 5)).generate_state(10 * episodes).tolist()
        while kept < episodes:
            if not seeds:
                raise InputError(f"{env_id}: its expert succeeds {kept} times in {10 * episodes}")
            episode, (obs, _), ended = [], env.reset(seed=seeds.pop(0)), False
            while not ended:
                action = expert.act(obs[None])[0].numpy()
                next_obs, reward, terminated, truncated, info = env.step(action)
                ended = terminated or truncated
                episode.append((obs, next_obs, action, reward, terminated, ended))
                obs = next_obs
            if info["success"] != 0:  # failures are left out; nan: it is not known
                rows, kept = rows + episode, kept + 1
                bar.update()
    names = "obs", "next_obs", "actions", "rewards", "terminations", "ends"
    return dict(zip(names, (np.array(column, dtype=np.float32) for column in zip(*rows))))


def open_dataset(dataset_id, folder):
    """The Minari dataset of this id, downloaded if need be, or, without one, that in the folder."""
    import minari

    if dataset_id is not None:
        folder = minari.storage.get_dataset_path(dataset_id) / "data"
        if not folder.exists():
            minari.download_dataset(dataset_id)
    facts = minari.dataset.minari_storage.MinariStorage.read_raw_metadata(folder)
    # without its spaces Minari would call whatever function the file names as environment
    if not {"observation_space", "action_space"} <= facts.keys():
        raise ValueError("it does not say what its spaces are")
    return minari.MinariDataset(folder)


def transitions(episode, dataset, env):
    """An episode of n steps as a dict of arrays, as load_demonstrations returns it."""
    n, own, stored = len(episode.rewards), env.env.action_space, dataset.action_space
    discrete = isinstance(own, gym.spaces.Discrete)
    bounds = ("start", "n") if discrete else ("low", "high")
    same = type(stored) is type(own) and stored.shape == own.shape
    if not (same and all(np.allclose(getattr(stored, x), getattr(own, x)) for x in bounds)):
        raise ValueError(f"its actions are {stored}, not {own}")
    if discrete:
        actions = np.eye(own.n)[np.asarray(episode.actions) - own.start]  # (n, A), one-hot
    else:
        actions = 2 * (np.asarray(episode.actions) - own.low) / (own.high - own.low) - 1
        actions = actions.clip(-MAX_ACTION, MAX_ACTION)
    space = env.env.env.observation_space  # before it was flat
    if dataset.observation_space.shape == env.observation_space.shape:  # flat, as in write_dataset
        space = dataset.observation_space
    batch = gym.vector.utils.batch_space(space, n + 1)
    rows = gym.vector.utils.iterate(batch, episode.observations)
    obs = np.array([gym.spaces.flatten(space, row) for row in rows])  # (n + 1, O)
    if len(obs) != n + 1 or len(actions) != n or len(episode.terminations) != n:
        raise ValueError(f"an episode of {n} steps has {len(obs)} observations")
    parts = obs[:-1], obs[1:], actions, episode.rewards, episode.terminations, np.arange(n) == n - 1
    return dict(zip(("obs", "next_obs", "actions", "rewards", "terminations", "ends"), parts))


def write_dataset(folder, env, episodes, dataset_id, algorithm_name):
    """Write episodes, as of record.play, as a Minari dataset in a new folder; all, or nothing."""
    import h5py
    import minari

    staging = Path(f"{folder}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    spaces = gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape), env.env.action_space
    storage = minari.dataset.minari_storage.MinariStorage.new(staging / "data", *spaces)
    with h5py.File(staging / "data" / "main_data.hdf5", "w", track_order=True) as file:
        for i, episode in enumerate(episodes):
            group = file.create_group(f"episode_{i}")
            group.attrs.update({"id": i, "total_steps": len(episode["rewards"])})
            for name, values in episode.items():
                group.create_dataset(name, data=values, compression="gzip", shuffle=True)
    facts = {"dataset_id": dataset_id, "minari_version": minari.__version__}
    facts |= {"algorithm_name": algorithm_name, "total_episodes": len(episodes)}
    facts["total_steps"] = sum(len(episode["rewards"]) for episode in episodes)
    storage.update_metadata(facts)
    staging.replace(folder)
