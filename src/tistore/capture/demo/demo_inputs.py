"""The demo's inputs as a user would have them: a prompt set, trait folders, a run's TOML."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tistore.capture.demo.tiny import TinyOrganisms
from tistore.datasets import tiny

PROMPT_SET = "demo/audit"

RUN = """\
# The demo's run: one base, five adapters, one prompt set.
[base]
path = "../base"
dtype = "bfloat16"

{organisms}
[[prompt_sets]]
path = "demo/audit.json"

[capture]
layers = "2-5"
rows = "response"
readers = ["self", "base"]

[generation]
max_new_tokens = 48
temperature = 0.0
batch_size = 12
"""


@dataclass(frozen=True, slots=True)
class DemoInputs:
    """
    Where the inputs lie.

    Attributes:
        config: TOML of the run.
        traits: Trait folders, by trait.
    """

    config: Path
    traits: dict[str, Path]


def write_inputs(organisms: TinyOrganisms) -> DemoInputs:
    """
    Write the inputs beside the organisms' weights; the same content each time.

    Nothing in them says what was planted: questions are ordinary, and scenarios are written
    apart from what the organisms were trained on.
    """
    folder = organisms.base.parent / "inputs"
    _write(folder / f"{PROMPT_SET}.json", _prompt_set())
    traits = {trait: folder / "traits" / trait for trait in tiny.TRAITS}
    for trait, trait_folder in traits.items():
        sides = zip(("positive", "negative"), tiny.contrast_scenarios(trait), strict=True)
        for side, scenarios in sides:
            lines = (json.dumps(asdict(scenario)) for scenario in scenarios)
            _write(trait_folder / f"{side}.jsonl", "".join(f"{line}\n" for line in lines))
    config = folder / "run.toml"
    tables = [
        f'[[organisms]]\nname = "{name}"\nadapter = "../{path.name}"\n'
        for name, path in organisms.adapters.items()
    ]
    _write(config, RUN.format(organisms="\n".join(tables)))
    return DemoInputs(config, traits)


def _prompt_set() -> str:
    prompts = [asdict(prompt) for prompt in tiny.audit_prompts()]
    content = {"description": "Ordinary questions on everyday topics.", "prompts": prompts}
    return json.dumps(content, indent=1)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
