"""What the scripts share: pretrained policies and reference Q functions, demonstrations, tasks, files.

    expert = load_expert("Hopper-v5", "low")       # or load_expert("Hopper-v5", "path/to/file.safetensors")
    actions = expert.act(obs)                      # (B, obs_dim) -> (B, act_dim), sampled
    values = expert.q(obs, actions)                # (B,), if the file carries critics

Actions are always in [-1, 1], or one-hot where they are discrete. policies.py loads and saves policies,
demonstrations.py records and loads demonstrations, tasks.py registers tasks and makes any environment fit, files.py
writes files. The file format, and the score of every shipped file, are in experts/README.md.
"""

from experts.demonstrations import load_demonstrations
from experts.files import InputError, RunError, begin_run, exit_codes, how_to_go_on, load_checkpoint, new_run_folder
from experts.files import require_packages, save_checkpoint, start_tracking, stops_without_exception, write_file
from experts.policies import FOLDER, MAX_ACTION, Expert, list_experts, load_expert, save_expert
from experts.tasks import TRAINING_TASKS, Checked, UnitActions, check_rendering, normalized_score, open_task

__all__ = [
    "FOLDER", "MAX_ACTION", "TRAINING_TASKS", "Checked", "Expert", "InputError", "RunError", "UnitActions", "begin_run",
    "check_rendering", "exit_codes", "how_to_go_on", "list_experts", "load_checkpoint", "load_demonstrations",
    "load_expert", "new_run_folder", "normalized_score", "open_task", "require_packages", "save_checkpoint",
    "save_expert", "start_tracking", "stops_without_exception", "write_file",
]  # fmt: skip
