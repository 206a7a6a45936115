"""learned-opt push and pull."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from learned_opt.analysis.reporting.model_card import model_card
from learned_opt.artifacts import ArtifactError, load_artifact, path_of
from learned_opt.commands.outputs import check_file
from learned_opt.files import write_atomically
from learned_opt.hub import PREFIX, pushed


@dataclass(frozen=True)
class Push:
    """Put a rule, and its model card, into a repository on the Hugging Face Hub."""

    to: str
    """The repository, owner/name; made if it is not there."""
    rule: str = "default"
    """A shipped rule's name, or a file."""
    card: Path | None = None
    """Its model card, a Markdown file as `card` writes it; by default what the rule's header tells."""
    private: bool = False
    """Whether a repository that is made now is private."""
    message: str = "A rule of learned_opt"
    """Of the commit."""

    def run(self) -> int:
        """Check the file, then send it."""
        path = path_of(self.rule)
        artifact = load_artifact(path)
        if self.card is None:
            text = model_card(artifact, {}, label=Path(self.rule).stem, training=[], seed=0)
        else:
            text = self.card.read_text(encoding="utf-8")
        address = pushed(path.read_bytes(), text, self.to, private=self.private, message=self.message)
        print(f"pushed: {address}")
        return 0


@dataclass(frozen=True)
class Pull:
    """Fetch a rule from the Hugging Face Hub, check it as any stranger's, and write it to a file."""

    rule: str
    """Its address, hf:owner/name@revision."""
    out: Path
    """The file."""

    def run(self) -> int:
        """Fetch, check and write."""
        check_file(self.out)
        if not self.rule.startswith(PREFIX):
            raise ArtifactError(
                f"{self.rule!r} is no address on the Hugging Face Hub: hf:owner/name@revision"
            )
        path = path_of(self.rule)
        artifact = load_artifact(path)
        write_atomically(self.out, path.read_bytes())
        print(f"{type(artifact.rule).kind} rule: {self.out}")
        return 0
