"""A smaller run of ``make fuzz``, what it once found, and that it finds what it should."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import fuzz
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = Path(fuzz.__file__)
KINDS = ("gpt2", "gpt2-untied", "gpt2-sharded", "gpt2-half", "vit", "vit-avg")


def outcome(files):
    return fuzz.judge(fuzz.Case("", partial(fuzz.Models().load, files)))


def test_the_seeds_themselves_are_accepted():
    for kind in KINDS:
        assert outcome(fuzz.folders()[kind]) == fuzz.Outcome("accepted")
    for kind in fuzz.folders():  # one without a head, one with another: they may be refused
        assert not outcome(fuzz.folders()[kind]).bad
    for content in fuzz.Checkpoints().seeds().values():
        assert fuzz.judge(fuzz.Case("", partial(fuzz.Checkpoints().load, content))) == fuzz.Outcome("accepted")


@pytest.mark.parametrize("kind", ["gpt2", "vit"])
def test_no_key_of_a_config_opens_a_file_calls_out_or_changes_the_answer(kind):
    """``pretrained``, ``checkpoint_path``, ``auto_map`` and others, at the top and in ``model_args``."""
    config = json.loads(fuzz.folders()[kind]["config.json"])
    for danger in fuzz.DANGEROUS:
        for inside in ("", "model_args"):
            changed = copy.deepcopy(config)
            changed.setdefault(inside, {}).update(danger) if inside else changed.update(danger)
            found = outcome(fuzz.folders()[kind] | {"config.json": json.dumps(changed).encode()})
            assert not found.bad, (danger, inside, found)


def test_a_config_that_is_something_else_ends_in_one_line():
    for config in fuzz.OTHERS:
        for kind in ("gpt2", "vit"):
            found = outcome(fuzz.folders()[kind] | {"config.json": json.dumps(config).encode()})
            assert found.kind == "refused" or (kind, config) == ("gpt2", {"model_type": "gpt2"}), (config, found)
            assert not found.unclear, (config, found)


@pytest.mark.parametrize("kind", KINDS)
def test_no_tensor_may_be_missing_renamed_or_one_too_many(kind):
    """GPT-2's came back as fresh random numbers."""
    files = fuzz.folders()[kind]
    for file in (name for name in files if name.endswith(".safetensors")):
        header, data = fuzz.split(files[file])
        for name in header.keys() - {"__metadata__"}:
            renamed = {f"{n}x" if n == name else n: entry for n, entry in header.items()}
            for content in (fuzz.join(*fuzz.without(header, data, name)), fuzz.join(renamed, data)):
                found = outcome(files | {file: content})
                assert (found.kind, found.unclear) == ("refused", ""), (file, name, found)


@pytest.mark.parametrize("group", [fuzz.Models(), fuzz.Checkpoints(), fuzz.Tokenizers()], ids=lambda group: group.name)
def test_a_damaged_file_is_refused_or_read_as_it_is(group):
    """hypothesis makes the choices, so that what it prints of a failure is the smallest one."""

    @settings(max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def check(random):
        case = group.make(random)
        found = fuzz.judge(case)
        assert not found.bad, (case.what, found)

    check()


def test_a_smaller_run_of_all_groups_finds_nothing():
    """In a process of its own, which limits its memory and may die."""
    done = subprocess.run([sys.executable, FUZZ, "--count", "400"], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr[-2000:])
    assert done.returncode == 0, done.stdout


def raising(error):
    raise error


def writing(path):
    with fuzz.leaves_nothing(path.parent):
        path.write_text("half of a")
        raise OSError("no space left on the device")


def reading(path, folder):
    with fuzz.WATCH.over(folder):
        path.read_text()


def forever():
    while True:
        pass


def test_the_fuzzer_finds_what_it_should(tmp_path, monkeypatch):
    """Each kind of finding, so that none of the counts is zero because nothing is counted."""
    monkeypatch.setattr(fuzz, "PATIENCE", 0.2)
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_text("s")
    ends = {
        "undeclared": partial(raising, KeyError("x")),
        "left": partial(writing, tmp_path / "out"),
        "outside": partial(reading, tmp_path / "secret", tmp_path / "folder"),
        "hang": forever,
        "wrong": partial(raising, fuzz.Wrong("2 is 3")),
        "refused": partial(raising, ValueError("a line\nand another")),
        "accepted": int,
    }
    found = {kind: fuzz.judge(fuzz.Case(kind, run)) for kind, run in ends.items()}
    assert {kind: end.kind for kind, end in found.items()} == {kind: kind for kind in ends}
    assert found["refused"].unclear == "long"
    monkeypatch.setattr(fuzz, "check_logits", lambda *_: raising(fuzz.Wrong("other logits")))
    assert outcome(fuzz.folders()["gpt2"]).kind == "wrong"


def test_random_weights_and_ignored_tensors_are_wrong_answers(tmp_path):
    fuzz.gpt2().save_pretrained(tmp_path)
    fuzz.check_weights(fuzz.gpt2(), tmp_path)
    with pytest.raises(fuzz.Wrong, match="not what the file holds"):
        fuzz.check_weights(fuzz.gpt2(seed=1), tmp_path)
    header, data = fuzz.split((tmp_path / "model.safetensors").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(fuzz.join(*fuzz.without(header, data, "transformer.h.0.ln_1.bias")))
    with pytest.raises(fuzz.Wrong, match=r"ln_1\.bias is in no file"):
        fuzz.check_weights(fuzz.gpt2(), tmp_path)
    header["score.weight"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    (tmp_path / "model.safetensors").write_bytes(fuzz.join(header, data + bytes(4)))
    with pytest.raises(fuzz.Wrong, match=r"score\.weight.* was ignored"):
        fuzz.check_weights(fuzz.gpt2(), tmp_path)
