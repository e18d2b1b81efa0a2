"""What the scripts share: pretrained policies and reference Q functions, demonstrations, tasks, files.

    expert = load_expert("Hopper-v5", "low")       # or load_expert("Hopper-v5", "path/to/file.safetensors")
    actions = expert.act(obs)                      # (B, obs_dim) -> (B, act_dim), sampled
    values = expert.q(obs, actions)                # (B,), if the file carries critics

Actions are always in [-1, 1], or one-hot where they are discrete. policies.py loads and saves policies,
demonstrations.py records and loads demonstrations, tasks.py registers tasks and makes any environment fit,
evaluation.py plays fresh episodes, options.py reads the command line, runs.py keeps a run's folder, files.py writes
files, speed.py compiles; human.py, window.py, record.py and keys.toml are for a person at the keys. The file format
and the score of every shipped file are in experts/README.md.
"""

from experts.demonstrations import check_demonstrations, load_demonstrations
from experts.evaluation import check_rendering, evaluate, film, main_metric, normalized_score
from experts.files import InputError, RunError, load_checkpoint, write_file
from experts.options import parse, unused
from experts.policies import FOLDER, MAX_ACTION, Expert, list_experts, load_expert, save_expert
from experts.runs import (
    Stop,
    exit_codes,
    finish_run,
    open_run,
    restore,
    run_seconds,
    save_run,
    write_rows,
)
from experts.tasks import TRAINING_TASKS, Checked, UnitActions, end_is, open_task, seed_for

__all__ = [
    "FOLDER", "MAX_ACTION", "TRAINING_TASKS", "Checked", "Expert", "InputError", "RunError", "Stop", "UnitActions",
    "check_demonstrations", "check_rendering", "end_is", "evaluate", "exit_codes", "film", "finish_run",
    "list_experts", "load_checkpoint", "load_demonstrations", "load_expert", "main_metric",
    "normalized_score", "open_run", "open_task", "parse", "restore", "run_seconds", "save_expert",
    "save_run", "seed_for", "unused", "write_file", "write_rows",
]  # fmt: skip
