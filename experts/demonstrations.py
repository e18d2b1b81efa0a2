"""Demonstrations: Minari datasets, and episodes of the shipped top experts, which become such datasets."""

import hashlib
import os
import re
import shutil

import numpy as np
import torch
from gymnasium.spaces import Discrete

from experts.files import InputError
from experts.policies import MAX_ACTION, list_experts, load_expert


def load_demonstrations(env, env_id, episodes, dataset_id=None, noise=0.0, keep_rewards=False):
    """The first `episodes` episodes of a Minari dataset as arrays of transitions, in the order they happened.

    Without dataset_id, stochastic rollouts of the shipped top expert in env, with Gaussian noise of this standard
    deviation on the actions: made once, kept as a local Minari dataset.
    With one, that dataset, downloaded if it is not there. Rewards are zero unless keep_rewards, which only
    `--reward task` asks for.

    Returns a dict: obs, next_obs (n, obs_dim), actions (n, act_dim) in [-1, 1] or one-hot, rewards, terminations (n,),
    ends (n,): ends marks the last transition of every episode. Raises InputError if the dataset is not to be had or
    does not fit env (whose actions are in [-1, 1] or one-hot, wrapped around the raw ones).
    """
    import minari

    dataset_id = dataset_id or _record_demonstrations(env, env_id, episodes, noise)
    try:
        dataset = minari.load_dataset(dataset_id, download=True)
        chosen = list(dataset.iterate_episodes(range(min(episodes, dataset.total_episodes))))
    except Exception as error:  # minari raises whatever its storage or the network raised
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"no Minari dataset {dataset_id!r} here, and it could not be downloaded ({reason[:160]}); "
            "`minari list local` shows what is here"
        ) from None
    spaces = (dataset.observation_space, dataset.action_space)
    wanted = (env.observation_space, env.unwrapped.action_space)
    if any(a.shape != b.shape for a, b in zip(spaces, wanted)):
        shapes = " and ".join(str(space.shape) for space in spaces)
        raise InputError(
            f"dataset {dataset_id!r} has observations and actions of shapes {shapes}, "
            f"{env_id} {' and '.join(str(space.shape) for space in wanted)}"
        )
    actions = np.concatenate([e.actions for e in chosen])
    if isinstance(wanted[1], Discrete):
        actions = np.eye(int(wanted[1].n))[actions]  # (n, A), one-hot
    else:
        low, high = wanted[1].low, wanted[1].high
        actions = (2 * (actions - low) / (high - low) - 1).clip(-MAX_ACTION, MAX_ACTION)
    data = {
        "obs": np.concatenate([e.observations[:-1] for e in chosen]),
        "next_obs": np.concatenate([e.observations[1:] for e in chosen]),
        "actions": actions,
        "rewards": np.concatenate([e.rewards * keep_rewards for e in chosen]),
        "terminations": np.concatenate([e.terminations for e in chosen]),
        "ends": np.concatenate([np.arange(len(e)) == len(e) - 1 for e in chosen]),
    }
    return {name: values.astype(np.float32) for name, values in data.items()}


def _record_demonstrations(env, env_id, episodes, noise):
    """Roll out the shipped top expert unless that was done before; returns the Minari id."""
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.storage.datasets_root_dir import get_dataset_path
    from tqdm import trange

    if "top" not in list_experts().get(env_id, []):
        raise InputError(
            f"no top expert is shipped for {env_id}: give --dataset-id, or --demo-episodes 0 (bc.py cannot do without)"
        )
    expert = load_expert(env_id, "top")
    # another file of the expert, or another noise, means other demonstrations
    fingerprint = hashlib.sha256(expert.path.read_bytes() + str(float(noise)).encode()).hexdigest()[:8]
    dataset_id = f"interventions/{re.sub(r'[^a-z0-9]+', '-', env_id.lower())}/top-{fingerprint}-{episodes}-v0"
    place = get_dataset_path(dataset_id)
    if place.exists():
        return dataset_id
    space, buffers = env.unwrapped.action_space, []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for episode in trange(episodes, desc=f"demonstrations of the top {env_id} expert (once)"):
            obs, _ = env.reset(seed=episode)
            observations, actions, rewards, terminated, truncated = [obs], [], [], False, False
            while not (terminated or truncated):
                action = expert.act(obs[None])[0]  # (A,)
                if noise and not expert.discrete:
                    action = (action + noise * torch.randn_like(action)).clamp(-MAX_ACTION, MAX_ACTION)
                action = action.numpy()
                obs, reward, terminated, truncated, _ = env.step(action)
                observations.append(obs)
                # in the environment's own units
                own = action.argmax() if expert.discrete else space.low + (action + 1) / 2 * (space.high - space.low)
                actions.append(own)
                rewards.append(reward)
            last = np.arange(len(rewards)) == len(rewards) - 1
            ends = {"terminations": last & terminated, "truncations": last & truncated}
            buffers.append(EpisodeBuffer(episode, episode, None, observations, actions, rewards, infos={}, **ends))
    # written in a folder of its own and moved into place: a kill leaves no half-written dataset, and of two runs that
    # record at the same time one wins
    staging = get_dataset_path() / f".recording-{os.getpid()}"
    root = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(staging)
    try:
        minari.create_dataset_from_buffers(
            dataset_id, buffers, env=env.unwrapped if env.unwrapped.spec else None, author="experts",
            observation_space=env.observation_space, action_space=space,
            algorithm_name=f"shipped top expert {fingerprint}",
        )  # fmt: skip
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            os.replace(staging / dataset_id, place)
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        if root is not None:
            os.environ["MINARI_DATASETS_PATH"] = root
        shutil.rmtree(staging, ignore_errors=True)
    return dataset_id
