"""Who takes over, judges, shows how: policies, Q functions, demonstrations, you; see README.md."""

from experts.demonstrations import load_demonstrations
from experts.policies import InputError, load_expert, save_expert
from experts.tasks import TRAINING_TASKS, normalized_score, register_tasks

__all__ = "InputError", "TRAINING_TASKS", "load_demonstrations", "load_expert"
__all__ += "normalized_score", "register_tasks", "save_expert"
