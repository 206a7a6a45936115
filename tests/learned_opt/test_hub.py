"""Rules that are shared: a folder plays the Hugging Face Hub, and nothing leaves the machine."""

import builtins
import hashlib
import os
from types import SimpleNamespace

import pytest
import torch

from learned_opt import LearnedOptimizer, load_rule
from learned_opt.artifacts import ArtifactError, path_of, shipped_rules
from learned_opt.cli import main

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Repositories as folders, their commits as folders in these."""

    class Api:
        def create_repo(self, repository, *, private, exist_ok):
            os.makedirs(tmp_path / repository, exist_ok=exist_ok)

        def create_commit(self, repository, operations, *, commit_message):
            data = {each.path_in_repo: each.path_or_fileobj for each in operations}
            oid = hashlib.sha1(repr(sorted(data.items())).encode()).hexdigest()
            (tmp_path / repository / oid).mkdir(exist_ok=True)
            for name, content in data.items():
                (tmp_path / repository / oid / name).write_bytes(content)
            return SimpleNamespace(oid=oid)

        def get_paths_info(self, repository, paths, *, revision):
            here = tmp_path / repository / revision
            if not here.is_dir():
                raise FileNotFoundError(f"404 Client Error\nno revision {revision}")
            found = [here / path for path in paths if (here / path).exists()]
            return [SimpleNamespace(path=str(path), size=path.stat().st_size) for path in found]

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(
        hub, "hf_hub_download", lambda repo, name, *, revision: str(tmp_path / repo / revision / name)
    )
    return tmp_path


def test_a_rule_is_pushed_loaded_and_pulled(folder, capsys):
    assert main(["push", "--to", "somebody/adam-or-better", "--rule", "long"]) == 0
    address = capsys.readouterr().out.split()[-1]
    assert address.startswith("hf:somebody/adam-or-better@")
    assert load_rule(address).identity() == load_rule("long").identity()
    card = folder / address[3:].replace("@", "/") / "README.md"
    assert "direction-lstm" in card.read_text()
    optimizer = LearnedOptimizer([torch.nn.Parameter(torch.ones(3))], rule=address)
    assert optimizer.param_groups[0]["lr"] == load_rule("long").learning_rate
    assert main(["pull", "--rule", address, "--out", str(folder / "mine.safetensors")]) == 0
    assert (folder / "mine.safetensors").read_bytes() == shipped_rules()["long"].read_bytes()


def test_a_card_of_ones_own_is_pushed(folder, capsys, tmp_path):
    (tmp_path / "card.md").write_text("# Mine\n")
    assert main(["push", "--to", "a/b", "--card", str(tmp_path / "card.md")]) == 0
    address = capsys.readouterr().out.split()[-1]
    assert (folder / address[3:].replace("@", "/") / "README.md").read_text() == "# Mine\n"


@pytest.mark.parametrize(
    "address", ["hf:a/b", "hf:a@main", "hf:a/b@", "hf:a/b@main@x", "hf:../b/c@main", "hf:a/b@ma in"]
)
def test_an_address_names_owner_name_and_revision(address, folder):
    with pytest.raises(ArtifactError, match="write hf:owner/name@revision"):
        load_rule(address)


def test_what_the_hub_does_not_give_is_refused_in_one_line(folder):
    with pytest.raises(ArtifactError, match=r"hf:a/b@main cannot be fetched: 404 Client Error$"):
        load_rule("hf:a/b@main")
    (folder / "a/b/main").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"has no rule\.safetensors"):
        load_rule("hf:a/b@main")
    with open(folder / "a/b/main/rule.safetensors", "wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ArtifactError, match="larger than any rule"):
        load_rule("hf:a/b@main")
    (folder / "a/b/main/rule.safetensors").write_bytes(b"not a rule")
    with pytest.raises(ArtifactError, match="damaged or not a rule"):
        load_rule("hf:a/b@main")
    assert main(["pull", "--rule", "hf:a/b@main", "--out", str(folder / "x.safetensors")]) == 2
    assert not (folder / "x.safetensors").exists()


def test_only_rules_are_pushed_and_only_to_owned_names(folder, tmp_path, capsys):
    (tmp_path / "rule.safetensors").write_bytes(b"not a rule")
    assert main(["push", "--to", "a/b", "--rule", str(tmp_path / "rule.safetensors")]) == 2
    assert main(["push", "--to", "mine"]) == 2
    assert "owner/name, got 'mine'" in capsys.readouterr().err
    assert main(["pull", "--rule", "long", "--out", str(tmp_path / "y")]) == 2


def test_without_its_library_one_sentence_says_what_to_install(monkeypatch):
    imported = builtins.__import__

    def refusing(name, *arguments, **options):
        if name == "huggingface_hub":
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(ArtifactError, match=r"pip install 'learned-opt\[hub\]'"):
        path_of("hf:a/b@main")
