"""How an experiment is to be imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tistore.errors import ConfigError, nearest
from tistore.schemas.site import COMPONENTS


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """
    What the files of an experiment do not say, and what to do with those that disagree.

    Attributes:
        quantization: How the models were loaded: "8bit", "4bit", or None.
        tokenizer: Folder of the tokenizer, to spell tokens anew; None takes those of the files.
        keep_mismatched: Whether a replay whose tokens are not those of the response it claims to
            read is imported by itself, unpaired, rather than refused.
        rehash: Whether files that look as they did when they were imported are read again to see.
        prompt_sets: Folder of prompt sets; None for `datasets/inference` near the experiment.
        vectors: Manifests of loose vectors, or their folders.
        components: Components to import, as the store names them; None for all it has.
    """

    quantization: str | None = None
    tokenizer: Path | None = None
    keep_mismatched: bool = False
    rehash: bool = False
    prompt_sets: Path | None = None
    vectors: tuple[Path, ...] = ()
    components: tuple[str, ...] | None = None

    def validate(self) -> None:
        """
        Check what can be checked before anything is read.

        Raises:
            ConfigError: A component is unknown, or a path leads nowhere.
        """
        for component in self.components or ():
            if component not in COMPONENTS:
                raise ConfigError(
                    f"no component {component!r}", mend=nearest(component, COMPONENTS)
                )
        for path in (self.tokenizer, self.prompt_sets, *self.vectors):
            if path is not None and not path.exists():
                raise ConfigError(f"nothing lies at {path}", mend="mend the path")
