"""A run that is stopped or killed, wherever that happens, and resumed is to the bit the run that was not."""

import importlib
import json
import os
import re
import shutil
import signal
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

import rlif_rlpd
from experts import exit_codes, load_checkpoint, policies, runs
from tests import tiny

# episodes of ten steps, and evaluations that are not due after every one of them
TENS = {
    "bc": "",
    "rlif_rlpd": "--max-episode-steps 10 --total-timesteps 100 --eval-frequency 40",
    "dagger": "--max-episode-steps 10 --total-timesteps 50 --eval-frequency 20",
    "hg_dagger": "--max-episode-steps 10 --total-timesteps 50 --eval-frequency 20",
    "mile": "--max-episode-steps 10 --rounds 5 --eval-frequency 2",
    "iwr": "--max-episode-steps 10 --rounds 5 --eval-frequency 2",
    "sirius": "--max-episode-steps 10 --rounds 5 --eval-frequency 2",
}


def tens(script, name):
    """Options for a run of that name."""
    return tiny.short(script, *TENS[script.__name__].split(), "--exp-name", name)


def folder_of(name):
    (folder,) = Path("runs").glob(f"*__{name}__*")
    return folder


@pytest.fixture(params=tiny.SHORT)
def script(request, people, monkeypatch):
    """One after the other, with demonstrations at hand."""
    script = importlib.import_module(request.param)
    if hasattr(script, "load_demonstrations"):
        monkeypatch.setattr(script, "load_demonstrations", tiny.demonstrations)
    return script


class Killed(BaseException):
    """What nothing catches: on the disk there is afterwards what there is after a SIGKILL."""


class Events:
    """What happens in a run: steps of the environment and, where bc.py takes none, of learning.

    kinds: "learning" or "evaluation" for each. At the event number moment come so many signals, or inf, a kill.
    """

    def __init__(self, script, monkeypatch):
        self.begin()
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
            if len(self.kinds) - 1 == self.moment:
                if self.signals == np.inf:
                    raise Killed
                for _ in range(self.signals):
                    signal.raise_signal(signal.SIGTERM)
            return function(*args)

        monkeypatch.setattr(place, name, watched)

    def begin(self, moment=None, signals=0):
        self.kinds, self.kind, self.moment, self.signals = [], "learning", moment, signals


@pytest.fixture
def events(script, monkeypatch):
    return Events(script, monkeypatch)


def learning_and_evaluation(events):
    """The numbers of the events of each kind."""
    kinds = np.array(events.kinds)
    return [np.flatnonzero(kinds == kind) for kind in ("learning", "evaluation")]


def test_stopped_and_resumed_is_the_uninterrupted_run_to_the_bit(script, events, ending):
    assert ending(script, *tens(script, "whole"))[0] == 0
    learning, evaluation = learning_and_evaluation(events)
    middle, kinds = learning[len(learning) // 2], events.kinds
    moments = {  # the event, how many signals come, is it to end at once?
        "learning": (middle, 1, False),
        "impatient": (middle, 2, True),
        "evaluation": (evaluation[len(evaluation) * 2 // 3], 1, True),
        "at-the-end": (learning[learning < evaluation[-1]][-1], 1, False),
    }
    # a stop waits for the end of the episode, or of the gradient step in bc.py
    length, warm_up = {"bc": (1, 0), "mile": (10, 10)}.get(script.__name__, (10, 0))
    waits = length - len(learning) // 2 % length  # events, with this one
    steps, evaluations = {}, {}
    for name, (moment, signals, at_once) in moments.items():
        events.begin(moment, signals)
        code, line = ending(script, *tens(script, name))
        folder = folder_of(name)
        go_on = f"go on with: python {script.__name__}.py --resume {folder}"
        assert code == 128 + signal.SIGTERM
        assert line == f"{script.__name__}.py: stopped; {go_on}"
        assert not at_once or len(events.kinds) == moment + 1, name
        assert set(events.kinds[moment:]) == {kinds[moment]}, name  # no evaluation in between
        steps[name] = load_checkpoint(folder / "checkpoint.pt")["progress"][0]
        if name == "learning":
            assert len(events.kinds) == moment + waits
            assert steps[name] == events.kinds.count("learning") - warm_up
        evaluations[name] = len(tiny.evaluations(folder))
        events.begin()
        assert ending(script, "--resume", folder)[0] == 0
        tiny.assert_same_run(folder, folder_of("whole"))
    # one signal costs nothing that was learned, between two evaluations as well
    assert steps["impatient"] < steps["learning"] < steps["at-the-end"]
    assert evaluations["impatient"] == evaluations["learning"] > 0


def test_killed_and_resumed_is_the_uninterrupted_run_to_the_bit(script, events, ending):
    assert ending(script, *tens(script, "whole"))[0] == 0
    learning, evaluation = learning_and_evaluation(events)
    moments = {
        "begin": learning[len(learning) // 4],  # there is no checkpoint yet
        "learning": learning[len(learning) * 2 // 3],
        "end": evaluation[-1],
    }
    for name, moment in moments.items():
        events.begin(moment, np.inf)
        with pytest.raises(Killed):
            script.main(tiny.parsed(script, *tens(script, name)))
        folder = folder_of(name)
        assert (folder / "checkpoint.pt").exists() == (name != "begin")
        assert not (folder / "model.safetensors").exists()
        events.begin()
        assert ending(script, "--resume", folder)[0] == 0
        tiny.assert_same_run(folder, folder_of("whole"))


def without_times(folder):
    """The lines of a summary.json that are the same every time."""
    text = (folder / "summary.json").read_text()
    return [line for line in text.splitlines() if not re.search('seconds"', line)]


def test_resuming_a_finished_run_changes_none_of_its_results(script, events, ending):
    assert ending(script, *tens(script, "whole"))[0] == 0
    folder, learning = folder_of("whole"), events.kinds.count("learning")
    shutil.copytree(folder, "before")
    events.begin()
    assert ending(script, "--resume", folder)[0] == 0
    steps = 10 if script.__name__ == "mile" else 0  # the mental model's are not taken again
    assert learning > steps and events.kinds.count("learning") == 0
    assert events.kinds.count("evaluation") > 0  # the last one is done again
    tiny.assert_same_run(folder, Path("before"))
    assert without_times(folder) == without_times(Path("before"))
    assert (folder / "args.json").read_bytes() == Path("before/args.json").read_bytes()
    assert json.loads((folder / "args.json").read_text())["resume"] is None


BEFORE = {  # what a run does before its first round, by which function of the script it is watched
    "cloning of demonstrations, hg_dagger": ("hg_dagger", "nll", "--demo-episodes 2"),
    "cloning of demonstrations, dagger": ("dagger", "nll", "--demo-episodes 2"),
    "episodes to warm up": ("mile", "rollout", "--warm-up-episodes 3"),
    "cloning of the mental model": ("mile", "Actor.log_prob", ""),
    "recording of demonstrations": ("bc", "step", ""),  # of the environment
}


@pytest.mark.parametrize("what", BEFORE)
def test_before_the_first_round_a_stop_comes_at_once(what, people, ending, monkeypatch):
    name, function, options = BEFORE[what]
    script = importlib.import_module(name)
    if what == "recording of demonstrations":
        (Path("experts") / "Walled-v0").mkdir(parents=True)
        shutil.copy("../expert.safetensors", "experts/Walled-v0/top.safetensors")
        monkeypatch.setattr(policies, "FOLDER", Path("experts"))
        place, function = tiny.Walled, "step"
    else:
        *places, function = function.split(".")
        place = attrgetter(".".join(places))(script) if places else script
        monkeypatch.setattr(script, "load_demonstrations", tiny.demonstrations, raising=False)
    options = tiny.short(script, *options.split())
    called, original = [], getattr(place, function)

    def signalling(*args):
        called.append(1)
        if len(called) == 3:
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(place, function, signalling)
    code, line = ending(script, *options)
    assert code == 128 + signal.SIGINT and len(called) == 3
    assert line == f"{name}.py: stopped; there is no checkpoint yet: start it again"
    assert not any(path.is_file() for path in Path("../minari").rglob("*"))  # no half of a dataset
    folders = list(Path("runs").glob("*"))
    assert len(folders) == (what != "recording of demonstrations")
    for folder in folders:  # it begins again, with the same options
        assert ending(script, "--resume", folder)[0] == 0
        tiny.assert_same_run(folder, tiny.short_run(script, *options))


class Left(BaseException):
    """The process would have ended."""


def test_while_compiling_a_stop_ends_the_process_though_no_exception_gets_out(
    people, monkeypatch, capfd
):
    def leave(code):
        raise Left(code)

    def signalling(*_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(torch, "compile", lambda function, **_: signalling)
    monkeypatch.setattr("sys.argv", ["rlif_rlpd.py"])
    with pytest.raises(Left) as caught, exit_codes():
        rlif_rlpd.main(tiny.parsed(rlif_rlpd, *tiny.short(rlif_rlpd, "--compile")))
    assert caught.value.args == (128 + signal.SIGTERM,)
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == "rlif_rlpd.py: stopped; there is no checkpoint yet: start it again"
    assert signal.getsignal(signal.SIGTERM).__qualname__ == "Stop._hear"  # it is back


def test_a_stop_while_a_run_gets_ready_to_go_on_says_how_to_go_on(
    script, events, ending, monkeypatch
):
    events.begin(32, 1)
    ending(script, *tens(script, "stopped"))
    folder = folder_of("stopped")
    before = (folder / "checkpoint.pt").read_bytes()

    def stopped(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    for name in ("make_env", "restore"):  # before and after the checkpoint is read
        with monkeypatch.context() as patch:
            patch.setitem(runs._run, "folder", None)  # as in a new process
            patch.setattr(script, name, stopped)
            code, line = ending(script, "--resume", folder)
        assert code == 128 + signal.SIGTERM
        go_on = f"go on with: python {script.__name__}.py --resume {folder}"
        assert line == f"{script.__name__}.py: stopped; {go_on}"
        assert (folder / "checkpoint.pt").read_bytes() == before
