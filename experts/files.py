"""What goes wrong, in one line, and files that are written whole or not at all."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import torch


class InputError(Exception):
    """What is wrong with the user's input: one line. A script prints it and exits with code 2."""


class RunError(Exception):
    """What broke a run that had begun: one line. A script prints it, with how to go on, and exits with code 1."""


def write_file(path, data):
    """Write bytes completely or not at all, whether the process is killed or the disk is full (OSError)."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_checkpoint(path, state):
    """Write nested dicts and lists of tensors, numbers and strings: a SHA-256, then what torch.save makes of them."""
    data = io.BytesIO()
    torch.save(state, data)
    write_file(path, hashlib.sha256(data.getbuffer()).digest() + data.getbuffer())


def load_checkpoint(path):
    """Read what save_checkpoint wrote. Raises InputError if it was cut short or changed; never runs code in it."""
    data = Path(path).read_bytes()
    if len(data) <= 32 or hashlib.sha256(memoryview(data)[32:]).digest() != data[:32]:
        raise InputError(f"{path} is damaged: its checksum does not match its content")
    try:
        return torch.load(io.BytesIO(memoryview(data)[32:]), weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError):
        raise InputError(f"{path} is not a checkpoint") from None
