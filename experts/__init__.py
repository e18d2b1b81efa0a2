"""Shared by the scripts: policies, Q functions, demonstrations, tasks, the keys; see README.md."""

from experts.demonstrations import load_demonstrations
from experts.policies import InputError, load_expert, save_expert
from experts.tasks import TRAINING_TASKS, Task, normalized_score
