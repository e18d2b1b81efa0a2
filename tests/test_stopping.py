"""A run that is stopped, wherever that happens, and resumed is to the bit the run that was not."""

import importlib
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import rlif_rlpd
from experts import exit_codes, load_checkpoint, policies
from tests import tiny


@pytest.fixture(params=tiny.SHORT)
def script(request, people, monkeypatch):
    """One after the other, with demonstrations at hand."""
    script = importlib.import_module(request.param)
    if hasattr(script, "load_demonstrations"):
        monkeypatch.setattr(script, "load_demonstrations", tiny.demonstrations)
    return script


class Events:
    """What happens in a run: steps of the environment and, where bc.py takes none, of learning.

    kinds: "learning" or "evaluation" for each; with signals, a number of them is raised at the event of that index.
    """

    def __init__(self, script, monkeypatch):
        self.kinds, self.signals, self.kind = [], {}, "learning"
        self.watch(monkeypatch, tiny.Walled, "step")
        if script.__name__ == "bc":
            self.watch(monkeypatch, script, "nll")
        evaluate = script.evaluate

        def marked(*args, **kwargs):
            self.kind = "evaluation"
            stats = evaluate(*args, **kwargs)
            self.kind = "learning"
            return stats

        monkeypatch.setattr(script, "evaluate", marked)

    def watch(self, monkeypatch, place, name):
        function = getattr(place, name)

        def watched(*args):
            self.kinds.append(self.kind)
            for _ in range(self.signals.get(len(self.kinds) - 1, 0)):
                signal.raise_signal(signal.SIGTERM)
            return function(*args)

        monkeypatch.setattr(place, name, watched)

    def begin(self, signals=()):
        self.kinds, self.signals, self.kind = [], dict(signals), "learning"


def test_stopped_and_resumed_is_the_uninterrupted_run_to_the_bit(script, ending, monkeypatch):
    events = Events(script, monkeypatch)
    whole = tiny.short_run(script, "--exp-name", "whole")
    kinds = np.array(events.kinds)
    learning, evaluation = (np.flatnonzero(kinds == kind) for kind in ("learning", "evaluation"))
    last_learning = learning[learning < evaluation[-1]][-1]
    moments = {  # the event, how many signals come, is it to end at once?
        "learning": (learning[len(learning) // 2], 1, False),
        "impatient": (learning[len(learning) // 2], 2, True),
        "evaluation": (evaluation[len(evaluation) * 2 // 3], 1, True),
        "at the end": (last_learning, 1, False),
    }
    steps = {}
    for name, (moment, signals, at_once) in moments.items():
        events.begin({moment: signals})
        code, line = ending(script, *tiny.short(script, "--exp-name", name))
        (folder,) = Path("runs").glob(f"*__{name.replace(' ', '-')}__*")
        assert code == 128 + signal.SIGTERM
        assert line == f"{script.__name__}.py: stopped; go on with: python {script.__name__}.py --resume {folder}"
        assert not at_once or len(events.kinds) == moment + 1, name
        assert set(events.kinds[moment:]) == {kinds[moment]}, name  # no evaluation in between
        steps[name] = load_checkpoint(folder / "checkpoint.pt")["progress"][0]
        events.begin()
        assert ending(script, "--resume", folder)[0] == 0
        tiny.assert_same_run(folder, whole)
    assert steps["impatient"] < steps["learning"] < steps["at the end"]  # one signal costs nothing that was learned


BEFORE = {  # what a run does before its first round, by which function it is watched
    "cloning of demonstrations, hg_dagger": ("hg_dagger", "nll", "--demo-episodes 2"),
    "cloning of demonstrations, dagger": ("dagger", "nll", "--demo-episodes 2"),
    "calibration": ("mile", "rollout", ""),
    "cloning of the mental model": ("mile", "nll", ""),
    "recording of demonstrations": ("bc", "step", ""),
}


@pytest.mark.parametrize("what", BEFORE)
def test_before_the_first_round_a_stop_comes_at_once(what, people, ending, monkeypatch):
    name, function, options = BEFORE[what]
    script = importlib.import_module(name)
    if what == "recording of demonstrations":
        (Path("experts") / "Walled-v0").mkdir(parents=True)
        shutil.copy("../expert.safetensors", "experts/Walled-v0/top.safetensors")
        monkeypatch.setattr(policies, "FOLDER", Path("experts"))
    elif hasattr(script, "load_demonstrations"):
        monkeypatch.setattr(script, "load_demonstrations", tiny.demonstrations)
    place = tiny.Walled if function == "step" else script
    called, original = [], getattr(place, function)

    def signalling(*args):
        called.append(1)
        if len(called) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(place, function, signalling)
    options = tiny.short(script, *options.split())
    if what == "calibration":  # it is done where no cost is given
        first = options.index("--intervention-cost")
        del options[first : first + 2]
    code, line = ending(script, *options)
    assert code == 128 + signal.SIGINT and len(called) == 3
    assert line == f"{name}.py: stopped; there is no checkpoint yet: start it again"
    assert not any(path.is_file() for path in Path("../minari").rglob("*"))  # no half of a dataset


class Left(BaseException):
    """The process would have ended."""


def test_while_compiling_a_stop_ends_the_process_though_no_exception_gets_out(people, monkeypatch, capfd):
    def leave(code):
        raise Left(code)

    def signalling(*_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(torch, "compile", lambda function, **_: signalling)
    monkeypatch.setattr("sys.argv", ["rlif_rlpd.py"])
    with pytest.raises(Left) as caught, exit_codes():
        rlif_rlpd.main(rlif_rlpd.parse_args(tiny.short(rlif_rlpd, "--compile")))
    assert caught.value.args == (128 + signal.SIGTERM,)
    assert capfd.readouterr().err == "rlif_rlpd.py: stopped; there is no checkpoint yet: start it again\n"
    assert signal.getsignal(signal.SIGTERM).__name__ == "stop"  # that of exit_codes() is back


def test_a_stop_while_a_run_gets_ready_to_go_on_says_how_to_go_on(people, ending, monkeypatch):
    events = Events(rlif_rlpd, monkeypatch)
    events.begin({30: 1})
    ending(rlif_rlpd, *tiny.short(rlif_rlpd))
    (folder,) = Path("runs").iterdir()
    events.begin({10: 1})  # of the 31 steps that bring the environment back to where it was
    code, line = ending(rlif_rlpd, "--resume", folder)
    assert code == 128 + signal.SIGTERM and len(events.kinds) == 11
    assert line == f"rlif_rlpd.py: stopped; go on with: python rlif_rlpd.py --resume {folder}"
