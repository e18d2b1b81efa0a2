"""benchmark/watched.py: what it can't score is refused, what it has written is kept."""

import json
import shutil
import sys

import pytest

import rlif_rlpd
from experts import InputError
from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmark"))
import watched


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A function that makes the folder of a finished run on a task."""
    monkeypatch.setattr(watched, "ROOT", tmp_path)
    monkeypatch.setattr(watched, "results_of", lambda name: tmp_path / name)

    def finish(env_id, **options):
        folder = tmp_path / env_id
        folder.mkdir()
        args = rlif_rlpd.Args(env_id=env_id, max_episode_steps=20, **options)
        (folder / "args.json").write_text(json.dumps(vars(args)))
        expert = ROOT / "experts" / env_id / "top.safetensors"
        shutil.copy(expert, folder / "model.safetensors")
        return str(folder)

    return finish


def test_a_policy_is_played_alone_and_with_its_person_once(finished, tmp_path, capsys):
    folder = finished("Hopper-v5")
    watched.main(watched.Args((folder,), episodes=3))
    path = tmp_path / "watched" / "Hopper-v5__rlif_rlpd__1.csv"
    header, mean, sampled = path.read_text().splitlines()
    assert header.startswith("actions,alone,with_person,catches_per_1000,expert_share,")
    # of three times 20 steps the person takes some, if only by their 5 %
    assert [row.split(",")[0] for row in (mean, sampled)] == ["mean", "sampled"]
    assert all(0 < float(row.split(",")[4]) < 100 for row in (mean, sampled))
    path.write_text("kept")
    watched.main(watched.Args((folder,), episodes=3))
    assert path.read_text() == "kept" and "is there already" in capsys.readouterr().out


def test_what_has_no_score_or_no_such_person_is_refused(finished):
    with pytest.raises(InputError, match="D4RL has no score for AdroitHandPen-v1, as it is played"):
        watched.main(watched.Args((finished("AdroitHandPen-v1"),)))
    with pytest.raises(InputError, match="its person does not judge by value"):
        watched.main(watched.Args((finished("Hopper-v5", intervention="random"),)))
