"""Files from strangers: mutated in every way, they load as something valid or are refused; nothing else.

As a script, `python test_untrusted_files.py COUNT SEED FOLDER` mutates and loads COUNT files with limits on
memory and time, and exits with 0 if all went well.
"""

import gzip
import hashlib
import io
import json
import random
import re
import resource
import signal
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path

import pytest
import torch

from learned_opt import ArtifactError, ClassicLSTM, CoordinatewiseLSTM, LearnedInit, MetaSGD, save_rule
from learned_opt.algorithms import A2C
from learned_opt.analysis.comparison.cache import Cache
from learned_opt.analysis.results import (
    FamilyResults,
    GridScores,
    LearningCurves,
    Results,
    Setting,
    load_results,
)
from learned_opt.artifacts import DEEPEST, HEADER_KEY, LARGEST, load_artifact, write_tensors
from learned_opt.commands.rule_conditions import learner_of, run_of
from learned_opt.meta.config import run_config
from learned_opt.meta.stages import load_recipe, load_variants
from learned_opt.meta.trainer import MetaTrainer
from learned_opt.rl2.artifact import load_policy, save_policy
from learned_opt.rl2.config import InContextConfig
from learned_opt.rl2.policies import RecurrentPolicy
from learned_opt.runs.checkpoint import MAGIC, checkpoint_name, read_checkpoint
from learned_opt.runs.config_file import plain, written
from learned_opt.runs.metrics import read_rows

MEMORY = 2**30
"""Bytes that loading one of these files, all below 200 KiB, may ask for beyond what the process has."""
SECONDS = 20
TINY = run_config(
    {
        "families": ("bandit",),
        "rule": {"hidden_size": 2},
        "meta_batch_size": 2,
        "batches_per_family": 1,
        "estimator": {"unroll_length": 2, "outer_num_envs": 1},
        "horizon": {"min": 4, "max": 8},
        "meta_steps": 2,
        "validation": {"every": 1, "num_tasks": 2, "num_updates": 2},
        "inner": A2C(hidden_size=2, num_envs=2, num_steps=3),
    }
)
ODD = [
    None, True, 0, -1, 1, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**63, 2**64, 10**30, 10**400, "", "x", "x" * 5000,
    "../../etc/passwd", "/dev/zero", "default", [], {}, [[]], [None], [[1], [2, 3]], {"": None},
    {"class": "SGD"},
]  # fmt: skip
DEEP = b"[" * 3000, b'{"a":' * 3000, b"[" * 100_000, b"{a: " * 3000, b"- " * 5000


def as_json(source, data):
    """Some value of a JSON text changed."""
    value = json.loads(data)
    change(source, value)
    try:
        return json.dumps(value).encode()
    except ValueError:
        return data


def as_content(source, data):
    """Some value of a checkpoint changed, under a checksum that is right."""
    value = torch.load(io.BytesIO(data[len(MAGIC) + 32 :]), weights_only=True)
    change(
        source,
        value,
        [torch.zeros(3), torch.zeros(()), torch.zeros(1).expand(10**9), torch.ones(2, 2).long()],
    )
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return signed(buffer.getvalue())


def change(source, value, more=()):
    """Some part of nested dicts and lists replaced, renamed, repeated or wrapped."""
    odd, spots = [*ODD, *more], []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(value)
    for _ in range(source.choice((1, 1, 2, 4))):
        node, key = source.choice(spots)
        if (isinstance(node, dict) and key not in node) or (isinstance(node, list) and key >= len(node)):
            continue
        how = source.randrange(6)
        if how < 3:
            node[key] = source.choice(odd)
        elif how == 3 and isinstance(node, dict):
            node[source.choice((f"{key}x", "extra", "start"))] = node.pop(key)
        elif how == 4 and isinstance(node, list):
            node.extend(node[:50] * source.randrange(1, 20))
        else:
            for _ in range(source.choice((1, 3, 200))):
                node[key] = [node[key]]


def as_packed_json(source, data):
    """The same within gzip."""
    return gzip.compress(as_json(source, gzip.decompress(data)))


def as_bytes(source, data, other):
    """Bits flipped, cut, repeated, spliced, overwritten with huge numbers, or nested."""
    result = bytearray(data)
    place = source.randrange(len(result))
    how = source.randrange(8)
    if how == 0:
        for _ in range(source.randrange(1, 9)):
            result[source.randrange(len(result))] ^= 1 << source.randrange(8)
    elif how == 1:
        del result[place:]
    elif how == 2:
        result[place:place] = result[place : place + source.randrange(1, 400)] * source.randrange(1, 9)
    elif how == 3:
        result[place:] = other[source.randrange(len(other)) :]
    elif how == 4:
        place = source.choice((0, place))
        huge = source.choice((2**64 - 1, 2**63 - 1, 2**40, 2**32, 2**31, 100_000_000, len(result)))
        result[place : place + 8] = huge.to_bytes(8, "little")
    elif how == 5:
        result[place:place] = source.choice(DEEP)
    elif how == 6:
        found = list(re.finditer(rb"\d+", data))
        if found:
            number = source.choice(found)
            huge = source.choice(
                (b"9" * 18, b"9" * 40, b"9" * 6000, b"-1", b"1e999", b"0", b"0x7f", b"1:" * 999)
            )
            result[number.start() : number.end()] = huge
    else:
        result[place : place + source.randrange(30)] = source.randbytes(source.randrange(1, 30))
    return bytes(result)


def within_header(source, data):
    """A safetensors file with a sound frame around a mutated header."""
    length = int.from_bytes(data[:8], "little")
    frame = json.loads(data[8 : 8 + length])
    if source.random() < 0.3:
        text = as_json(source, json.dumps(frame).encode())
    else:
        frame["__metadata__"][HEADER_KEY] = as_json(
            source, frame["__metadata__"][HEADER_KEY].encode()
        ).decode()
        text = json.dumps(frame).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def signed(payload):
    return MAGIC + hashlib.sha256(payload).digest() + payload


class Kind:
    """Files of one kind: sound ones, what loads them, and a mutation that knows their form."""

    def __init__(self, name, sound, load, inside=None):
        self.name, self.sound, self.load, self.inside = name, sound, load, inside

    def mutate(self, source):
        data = source.choice(self.sound)
        if self.inside is not None and source.random() < 0.6:
            return self.inside(source, data)
        return as_bytes(source, data, source.choice(self.sound))


def results():
    import numpy as np

    run = LearningCurves(
        Setting(0.01, True, {"beta2": 0.9}), "given", np.ones((3, 2)), np.ones((3, 2)), np.zeros(2, bool)
    )
    family = FamilyResults(
        "held-out tasks", np.zeros(2), np.ones(2), 512, np.array([0, 5, 10]), {"adam": run}
    )
    return Results(
        "command",
        3,
        10,
        {"learned": "abc"},
        {"bandit": family},
        [GridScores("adam", "bandit", [Setting(0.1)], [0.5])],
    )


def kinds(folder):
    """Every kind of file that is loaded, with its loader; sound files are made in `folder`."""
    path = folder / "sound"

    def saved(save):
        save(path)
        return path.read_bytes()

    provenance = {"families": ["bandit"], "configuration": plain(TINY)}
    shapes = {"actor.0.weight": (2, 3), "actor.0.bias": (2,)}
    rules = [
        CoordinatewiseLSTM(2),
        ClassicLSTM((2, 2)),
        LearnedInit(MetaSGD(8), shapes),
        LearnedInit(CoordinatewiseLSTM(2), shapes),
    ]
    run = folder / "run"
    MetaTrainer(TINY, run).run()
    checkpoint = (run / checkpoint_name(2)).read_bytes()
    payload = checkpoint[len(MAGIC) + 32 :]
    cell = folder / "cells"
    store = Cache(cell)
    arguments = "cell", {"kind": "shown"}, list[float], lambda: [1.0, 2.0]
    store.get_or_run(*arguments)
    (stored,) = cell.iterdir()
    numbered = folder / checkpoint_name(2)
    variants = {
        **plain(TINY),
        "variants": {
            "a": {"rule": {"hidden_size": 3}},
            "b": {"stages": [{}, {"meta_optimizer": {"meta_lr": 0.1}}]},
        },
    }
    configs = [written(plain(TINY)), written(variants)]

    def load_rule_file(data):
        path.write_bytes(data)
        artifact = load_artifact(path)
        artifact.rule.identity()
        run_of(artifact)
        if artifact.rule.initialization:
            learner_of({"a": artifact})
        artifact.rule.config()
        json.dumps(artifact.header)

    def load_policy_file(data):
        path.write_bytes(data)
        artifact = load_policy(path)
        artifact.policy.identity()
        artifact.training()

    def load_job(data):
        stored.write_bytes(data)
        value = store.get_or_run(*arguments)
        assert isinstance(value, list)

    def load_results_file(data):
        path.write_bytes(data)
        load_results(path).content()

    def load_numbered(data):
        numbered.write_bytes(data)
        read_checkpoint(numbered, "cpu")

    def resume(data):
        for old in run.glob("*.ckpt"):
            old.unlink()
        (run / checkpoint_name(2)).write_bytes(data)
        MetaTrainer(TINY, run, resume=True)

    def load_config(data):
        path.write_bytes(data)
        (load_variants if b"variants" in data else partial(load_recipe, None))(path)

    def load_rows(data):
        path.write_bytes(data)
        read_rows(path)

    def resigned(source, data):
        return signed(as_bytes(source, data[len(MAGIC) + 32 :], payload))

    return [
        Kind(
            "rule",
            [saved(lambda p, r=r: save_rule(r, p, provenance)) for r in rules],
            load_rule_file,
            within_header,
        ),
        Kind(
            "policy",
            [
                saved(
                    lambda p: save_policy(
                        RecurrentPolicy("bandit", 2),
                        p,
                        {"families": ["bandit"], "configuration": plain(InContextConfig())},
                    )
                )
            ],
            load_policy_file,
            within_header,
        ),
        Kind("results", [saved(results().save)], load_results_file, as_packed_json),
        Kind("job", [stored.read_bytes()], load_job, as_packed_json),
        Kind("checkpoint", [checkpoint], load_numbered, resigned),
        Kind("resumed run", [checkpoint], resume, as_content),
        Kind("configuration", configs, load_config),
        Kind("metrics", [(run / "metrics.csv").read_bytes()], load_rows),
    ]


def fuzz(count, seed, folder):
    """Load mutated files; the complaints."""
    torch.set_num_threads(1)
    files = kinds(folder)
    for kind in files:
        for data in kind.sound:
            kind.load(data)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

    def late(number, frame):
        raise TimeoutError(f"more than {SECONDS} seconds")

    signal.signal(signal.SIGALRM, late)
    complaints, refused = [], dict.fromkeys((kind.name for kind in files), 0)
    for index in range(count):
        kind = files[index % len(files)]
        data = kind.mutate(random.Random(f"{seed} {index}"))
        (folder / "last").write_bytes(data)
        signal.alarm(SECONDS)
        try:
            kind.load(data)
        except (ValueError, OSError) as error:
            refused[kind.name] += 1
            broken = isinstance(error, TimeoutError) or "\n" in str(error) or len(str(error)) > 2000
            if broken:
                complaints.append(f"{kind.name} {seed} {index}: {type(error).__name__}: {str(error)[:300]}")
        except BaseException:
            complaints.append(f"{kind.name} {seed} {index}: {traceback.format_exc()[-1500:]}")
        finally:
            signal.alarm(0)
    print(refused)
    return complaints


def fuzzed(count, seed, folder):
    process = subprocess.run(
        [sys.executable, __file__, str(count), str(seed), str(folder)], capture_output=True, text=True
    )
    assert process.returncode == 0, (
        f"{process.returncode}\n{process.stdout[-6000:]}\n{process.stderr[-3000:]}"
    )


def test_mutated_files_are_refused_or_valid(tmp_path):
    fuzzed(450, 0, tmp_path)


@pytest.mark.slow
def test_ten_thousand_mutated_files_are_refused_or_valid(tmp_path):
    for seed in range(1, 5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        fuzzed(2700, seed, folder)


def test_a_header_that_promises_more_than_the_file_is_refused_unread(tmp_path):
    path = tmp_path / "rule.safetensors"
    save_rule(CoordinatewiseLSTM(2), path)
    data = path.read_bytes()
    for length in (2**64 - 1, 2**40, len(data)):
        path.write_bytes(length.to_bytes(8, "little") + data[8:])
        with pytest.raises(ArtifactError, match="damaged"):
            load_artifact(path)
    with open(path, "wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(ArtifactError, match="larger than any rule"):
        load_artifact(path)


def test_a_header_nested_too_deeply_is_refused(tmp_path):
    path = tmp_path / "rule.safetensors"
    for depth in (DEEPEST // 2, 2 * DEEPEST):
        story = {}
        for _ in range(depth):
            story = {"started_from": story}
        if depth < DEEPEST:
            save_rule(CoordinatewiseLSTM(2), path, story)
            header = load_artifact(path).header
        else:
            with pytest.raises(ArtifactError, match="damaged"):
                save_rule(CoordinatewiseLSTM(2), path, story)
            rule = load_artifact(path).rule  # what was there is
            write_tensors(path, dict(rule.named_parameters()), {**header, "provenance": story})
            with pytest.raises(ArtifactError, match="damaged"):
                load_artifact(path)


def test_a_path_in_a_header_is_never_followed(tmp_path):
    other, path = tmp_path / "other.safetensors", tmp_path / "rule.safetensors"
    save_rule(CoordinatewiseLSTM(2), other)
    settings = {**plain(run_config({})), "rule": {"kind": "saved", "init_from": str(other)}}
    save_rule(CoordinatewiseLSTM(2), path, {"configuration": settings})
    with pytest.raises(ValueError, match="never opened"):
        run_of(load_artifact(path))


if __name__ == "__main__":
    found = fuzz(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    print("\n".join(found))
    sys.exit(bool(found))
