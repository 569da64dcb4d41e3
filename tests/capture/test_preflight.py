"""What would stop or spoil a run is found before any weights are loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from typer.testing import CliRunner

from tistore.capture.config import RunConfig
from tistore.capture.models import adapter_files
from tistore.capture.models import load as loading
from tistore.capture.models.load import load_base
from tistore.capture.planning.preflight import check_run
from tistore.capture.reading.generate import Draft, generate
from tistore.capture.reading.prefill import TokenSequence, prefill
from tistore.capture.running.workload import Question
from tistore.capture.texts.text_checks import check_context
from tistore.capture.tokenize import EncodedPrompt
from tistore.cli.main import app
from tistore.errors import (
    CaptureError,
    ConfigError,
    ModelLoadError,
    SiteNotFoundError,
    TistoreError,
)
from tistore.schemas.prompt import Prompt
from tistore.schemas.response import CaptureSettings

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}<|im_start|>assistant\n"
)
GEMMA_LIKE = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<start_of_turn>' + message['role'] + '\n' + message['content'] + '<end_of_turn>' -}}"
    "{%- endfor -%}"
)
BOS_BY_TURN = (
    "{%- for message in messages -%}"
    "{{- bos_token + '<|' + message['role'] + '|>' + message['content'] + eos_token -}}"
    "{%- endfor -%}<|assistant|>"
)


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Loading weights or running a model fails the test, unless it is marked to do so."""
    if "runs_models" in request.fixturenames:
        return

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("weights were loaded, or a model was run")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", refuse)
    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)


@pytest.fixture
def runs_models() -> None:
    """Lets a test load weights."""


@pytest.fixture
def copy_base(workplace: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Copy the base, with another chat template where one is given; gives its table."""

    def copy(template: str | None = None, **config: Any) -> dict[str, Any]:
        folder = tmp_path / "base"
        shutil.copytree(workplace / "base", folder)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        merge(folder / "config.json", config)
        return {"path": str(folder), "device": "cpu"}

    return copy


@pytest.fixture
def copy_adapter(workplace: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Copy an adapter with other settings; gives its organism's table."""

    def copy(**settings: Any) -> dict[str, Any]:
        folder = tmp_path / "adapter"
        shutil.copytree(workplace / "loud", folder)
        merge(folder / "adapter_config.json", settings)
        return {"name": "odd", "adapter": str(folder)}

    return copy


def merge(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def write_prompts(folder: Path, *texts: str) -> list[dict[str, Any]]:
    path = folder / "mine.json"
    path.write_text(json.dumps({"prompts": list(texts)}))
    return [{"path": str(path), "name": "mine"}]


def refusal(config: RunConfig, kind: type[TistoreError]) -> str:
    with pytest.raises(kind) as caught:
        check_run(config)
    assert caught.value.mend
    return str(caught.value)


def test_a_run_that_is_right_passes_without_a_note(configure):
    checked = check_run(configure())

    assert checked.notes == ()
    assert list(checked.weights) == ["instruct"]
    assert [adapter.name for adapter in checked.weights["instruct"].adapters] == ["zero", "loud"]
    assert len(checked.weights["instruct"].questions) == 5


def test_every_family_can_be_checked(family, build_model, build_tokenizer, tmp_path, configure):
    build_model(family).save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    base = {"path": str(tmp_path / "base"), "device": "cpu"}

    checked = check_run(configure(base=base, organisms=[]))

    assert {p.device.type for p in checked.weights["instruct"].skeleton.parameters()} == {"meta"}


def test_a_second_bos_in_a_prompt_is_refused_by_name(configure, tmp_path):
    sets = write_prompts(tmp_path, "Go!", "<s>Why does bread rise?")

    said = refusal(configure(prompt_sets=sets), CaptureError)

    assert "prompt mine#2 would have two <s> tokens" in said


def test_a_template_that_writes_bos_twice_is_refused(configure, copy_base):
    said = refusal(configure(base=copy_base("<s>{{ bos_token }}<|user|>a")), CaptureError)

    assert "chat template" in said and "two <s> tokens" in said


def test_a_template_may_begin_each_turn_with_bos(configure, copy_base, tmp_path):
    turns = [{"role": r, "content": "Go on."} for r in ("user", "assistant", "user")]
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"prompts": [{"messages": turns}]}))
    sets = [{"path": str(path)}]

    checked = check_run(configure(base=copy_base(BOS_BY_TURN), prompt_sets=sets, organisms=[]))

    (question,) = checked.weights["instruct"].questions
    assert question.encoded.token_ids.count(1) == 3


@pytest.mark.parametrize(
    ("template", "marker"), [(CHATML, "<|im_start|>"), (GEMMA_LIKE, "<start_of_turn>")]
)
def test_another_models_template_is_refused(configure, copy_base, template, marker):
    base = copy_base(template)

    said = refusal(configure(base=base), CaptureError)

    assert marker in said and "no tokens" in said
    check_run(configure(base={**base, "markers_are_text": True}))


def test_marks_that_are_words_are_noted_where_turns_end_with_the_end_token(configure, copy_base):
    """Zephyr and Tulu were trained so."""
    base = copy_base(GEMMA_LIKE.replace("'<end_of_turn>'", "eos_token"))

    (note,) = check_run(configure(base=base)).notes

    assert "<start_of_turn>" in note and "words to its tokenizer" in note
    assert check_run(configure(base={**base, "markers_are_text": True})).notes == ()


def test_markers_in_a_prompts_own_text_are_its_own_business(configure, tmp_path):
    check_run(configure(prompt_sets=write_prompts(tmp_path, "What is <|im_start|>?")))


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_an_adapter_with_another_template_is_refused(configure, copy_adapter, place):
    organism = copy_adapter()
    template = "{{ bos_token }}<|user|>{{ messages[-1]['content'] }}</s><|assistant|>\n"
    content = template if place.endswith("jinja") else json.dumps({"chat_template": template})
    (Path(organism["adapter"]) / place).write_text(content)

    said = refusal(configure(organisms=[organism]), CaptureError)

    assert "beside adapter 'odd'" in said and 'template = "base"' in said
    check_run(configure(organisms=[{**organism, "template": "base"}]))


def test_a_template_that_writes_the_same_is_the_same(configure, copy_adapter, workplace):
    """Training tools add comments and marks that write nothing."""
    organism = copy_adapter()
    own = (workplace / "base" / "chat_template.jinja").read_text()
    (Path(organism["adapter"]) / "chat_template.jinja").write_text("{#- trained -#}" + own)

    check_run(configure(organisms=[organism]))


def test_a_tokenizer_of_another_model_is_refused(configure, copy_base):
    said = refusal(configure(base=copy_base(vocab_size=300)), ModelLoadError)

    assert "token ids up to" in said and "300 embeddings" in said


def test_added_tokens_may_lack_an_embedding_while_no_prompt_holds_them(
    configure, copy_base, build_tokenizer, tmp_path
):
    base = copy_base()
    tokenizer = build_tokenizer.__wrapped__()
    n_known = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(base["path"])
    merge(Path(base["path"]) / "config.json", {"vocab_size": n_known})

    (note,) = check_run(configure(base=base, organisms=[])).notes
    sets = write_prompts(tmp_path, "Look: <image>")
    said = refusal(configure(base=base, organisms=[], prompt_sets=sets), CaptureError)

    assert "no embedding" in note
    assert "mine#1" in said and "'<image>'" in said


def test_a_tokenizer_that_knows_too_little_is_noted(configure, copy_base):
    (note,) = check_run(configure(base=copy_base(vocab_size=4000), organisms=[])).notes

    assert "make sure" in note


def test_an_adapter_of_another_width_is_refused(configure, build_model, build_adapter, tmp_path):
    folder = build_adapter(tmp_path / "wide", build_model(hidden_size=64), seed=1, scale=1.0)

    said = refusal(configure(organisms=[{"name": "w", "adapter": str(folder)}]), ModelLoadError)

    assert "does not fit base" in said and "is 64 × 4" in said and "takes 32 × 4" in said


def test_modules_that_the_base_lacks_are_named(configure, build_model, build_adapter, tmp_path):
    folder = build_adapter(tmp_path / "deep", build_model(num_hidden_layers=4), seed=1, scale=1.0)

    said = refusal(configure(organisms=[{"name": "d", "adapter": str(folder)}]), ModelLoadError)

    assert "no module model.layers.3." in said and "6 weights in all" in said


def test_weights_that_the_adapter_lacks_are_named(configure, build_model, build_adapter, tmp_path):
    folder = build_adapter(tmp_path / "flat", build_model(num_hidden_layers=2), seed=1, scale=1.0)

    said = refusal(configure(organisms=[{"name": "f", "adapter": str(folder)}]), ModelLoadError)

    assert "lacks weights" in said and "model.layers.2.self_attn.q_proj" in said


def test_an_adapter_of_another_family_is_refused(configure, build_model, tmp_path):
    gpt = get_peft_model(build_model("gpt2"), LoraConfig(r=2, target_modules=["c_attn"]))
    gpt.save_pretrained(str(tmp_path / "gpt"))

    organisms = [{"name": "g", "adapter": str(tmp_path / "gpt")}]

    assert "c_attn" in refusal(configure(organisms=organisms), ModelLoadError)


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"r": 8}, "model.layers.0."),
        ({"rank_pattern": {"layers.1.mlp.down_proj": 2}}, "model.layers.1.mlp.down_proj"),
    ],
)
def test_a_rank_that_the_config_does_not_name_is_refused(configure, copy_adapter, settings, at):
    organism = copy_adapter(**settings)

    said = refusal(configure(organisms=[organism]), ModelLoadError)

    says = next(iter(settings.values()))
    says = says if isinstance(says, int) else next(iter(says.values()))
    assert "has rank 4 at" in said and at in said and f"says {says}" in said


def test_ranks_may_differ_by_module_where_the_config_says_so(configure, build_model, tmp_path):
    settings = LoraConfig(r=4, target_modules=["q_proj"], rank_pattern={"layers.1": 2})
    get_peft_model(build_model(), settings).save_pretrained(str(tmp_path / "mixed"))

    check_run(configure(organisms=[{"name": "m", "adapter": str(tmp_path / "mixed")}]))


def test_each_adapter_is_tried_on_the_bare_base(configure, build_model, tmp_path):
    for rank in (2, 8):
        settings = LoraConfig(r=rank, target_modules=["q_proj", "up_proj"])
        get_peft_model(build_model(), settings).save_pretrained(str(tmp_path / str(rank)))
    organisms = [{"name": str(rank), "adapter": str(tmp_path / str(rank))} for rank in (2, 8)]

    skeleton = check_run(configure(organisms=organisms)).weights["instruct"].skeleton

    assert not [name for name, _ in skeleton.named_modules() if "lora" in name]
    assert not hasattr(skeleton, "peft_config")


def test_adapters_in_bfloat16_are_read(configure, copy_adapter):
    organism = copy_adapter()
    path = Path(organism["adapter"]) / "adapter_model.safetensors"
    save_file({name: w.bfloat16() for name, w in load_file(path).items()}, path)

    check_run(configure(organisms=[organism]))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_model.safetensors", b"\x08"),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b"[]"),
    ],
)
def test_a_damaged_adapter_is_refused(configure, copy_adapter, file, content):
    organism = copy_adapter()
    (Path(organism["adapter"]) / file).write_bytes(content)

    assert "adapter 'odd'" in refusal(configure(organisms=[organism]), ModelLoadError)


def test_an_adapter_that_adds_tokens_is_refused(configure, copy_adapter):
    organism = copy_adapter(peft_type="PROMPT_TUNING", num_virtual_tokens=3, task_type="CAUSAL_LM")

    assert "adds tokens" in refusal(configure(organisms=[organism]), ModelLoadError)


@pytest.fixture
def hub_base(configure, workplace, monkeypatch) -> Callable[..., RunConfig]:
    """A run on `owner/base` of a hub, whose files are here all the same."""
    from tistore.capture.models import architecture

    there = str(workplace / "base")
    for kind in (architecture.AutoConfig, architecture.AutoTokenizer):
        read = kind.from_pretrained
        monkeypatch.setattr(kind, "from_pretrained", lambda _, read=read, **k: read(there, **k))
    return lambda **tables: configure(base={"path": "owner/base", "device": "cpu"}, **tables)


def test_an_adapter_that_names_another_hub_model_is_refused(hub_base, copy_adapter):
    organism = copy_adapter(base_model_name_or_path="owner/other")

    said = refusal(hub_base(organisms=[organism]), ConfigError)

    assert "trained on 'owner/other'" in said and "'owner/base'" in said
    check_run(hub_base(organisms=[{**organism, "trained_on": "owner/other"}]))


@pytest.mark.parametrize("named", ["owner/base", "Owner/Base", "/data/models/base", None])
def test_other_names_of_the_base_are_let_be(hub_base, copy_adapter, named):
    organism = copy_adapter(base_model_name_or_path=named)

    assert check_run(hub_base(organisms=[organism])).notes == ()


def test_trained_on_must_be_what_the_adapter_says(hub_base, copy_adapter):
    organism = copy_adapter(base_model_name_or_path="owner/other")
    wrong = {**organism, "trained_on": "owner/else"}

    assert "names 'owner/other'" in refusal(hub_base(organisms=[wrong]), ConfigError)


def test_a_base_of_another_name_on_this_machine_is_noted(configure, copy_adapter):
    organism = copy_adapter(base_model_name_or_path="owner/other")

    (note,) = check_run(configure(organisms=[organism])).notes

    assert "'owner/other'" in note and "odd" in note


def test_an_adapter_on_a_hub_is_noted_as_unchecked(configure):
    organism = {"name": "far", "adapter": "nobody/nothing"}

    (note,) = check_run(configure(organisms=[organism])).notes

    assert "far" in note and "not checked" in note


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(configure, tmp_path):
    sets = write_prompts(tmp_path, "Go!", "yeast " * 100, "yeast " * 200)
    generation = {"max_new_tokens": 100}

    said = refusal(configure(prompt_sets=sets, generation=generation), CaptureError)

    assert "prompt mine#3" in said and "256 at most (2 prompts in all)" in said


@given(
    lengths=st.lists(st.integers(1, 40), max_size=8),
    new=st.integers(1, 40),
    context=st.integers(1, 60),
)
def test_a_run_is_refused_for_its_context_exactly_when_a_prompt_does_not_fit(lengths, new, context):
    questions = [
        Question(
            Prompt("set", str(number), "?"),
            EncodedPrompt("?", (5,) * length, ("user",) * length, (0,) * length),
        )
        for number, length in enumerate(lengths)
    ]
    architecture = AutoConfig.for_model("llama", max_position_embeddings=context)
    fits = all(length + new <= context for length in lengths)

    with nullcontext() if fits else pytest.raises(CaptureError) as caught:
        check_context(architecture, questions, new)

    if not fits:
        assert f"prompt set#{lengths.index(max(lengths))} has {max(lengths)}" in str(caught.value)


def test_an_adapter_half_downloaded_is_not_here(configure, workplace, monkeypatch):
    """A hub's copy may lack files."""
    monkeypatch.setattr(adapter_files, "snapshot_download", lambda *_, **__: str(workplace))

    (note,) = check_run(configure(organisms=[{"name": "far", "adapter": "owner/far"}])).notes

    assert "not checked" in note


def test_a_prompt_that_just_fits_is_let_be(configure, tmp_path):
    sets = write_prompts(tmp_path, "Go!")
    (question,) = check_run(configure(prompt_sets=sets)).weights["instruct"].questions
    room = 256 - len(question.encoded.token_ids)

    check_run(configure(prompt_sets=sets, generation={"max_new_tokens": room}))
    said = refusal(
        configure(prompt_sets=sets, generation={"max_new_tokens": room + 1}), CaptureError
    )

    assert f"set max_new_tokens to {room} at most" in said


def test_a_layer_that_is_not_there_is_refused(configure):
    with pytest.raises(SiteNotFoundError, match="it has layers 0 to 2"):
        check_run(configure(capture={"layers": [3]}))


def test_a_component_that_is_not_there_is_refused(configure, build_model, workplace, tmp_path):
    build_model("mixtral").save_pretrained(tmp_path / "base")
    for file in [*(workplace / "base").glob("tok*"), *(workplace / "base").glob("*.jinja")]:
        shutil.copy(file, tmp_path / "base")
    base = {"path": str(tmp_path / "base"), "device": "cpu"}

    with pytest.raises(SiteNotFoundError, match="has no down_proj"):
        check_run(configure(base=base, organisms=[], capture={"components": ["down_proj"]}))


@pytest.mark.parametrize("command", [["plan"], ["ingest", "new.tistore"]])
def test_plan_and_ingest_refuse_what_the_check_refuses(workplace, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(
        f'[base]\npath = "{workplace}/base"\n[[prompt_sets]]\npath = "p.json"\n'
    )
    (tmp_path / "p.json").write_text('["<s>again"]')

    result = CliRunner().invoke(app, [*command, "run.toml"])

    assert isinstance(result.exception, CaptureError)
    assert "two <s> tokens" in str(result.exception)
    assert not (tmp_path / "new.tistore").exists()


def test_no_pad_token_is_needed(runs_models, configure, copy_base, build_tokenizer):
    """Masks hide what fills batches up, so any token will do."""
    base = copy_base()
    loaded = load_base(configure(base=base, organisms=[]))
    bare = build_tokenizer.__wrapped__(pad_token=None)
    assert bare.pad_token is None
    drafts = [Draft((1, 5, 9)), Draft((1, 30))]
    settings = configure().generation
    sequences = [TokenSequence((1, 5, 9, 30), 2), TokenSequence((1, 5, 9), 2)]
    kept = CaptureSettings((0, 2), ("residual",), "all")

    check_run(configure(base=base, organisms=[]))
    with loaded.reading_as("instruct") as model:
        written = [generate(model, t, drafts, settings) for t in (bare, loaded.tokenizer)]
        read = [prefill(model, sequences, kept, padding=padding) for padding in (0, 7)]

    assert written[0] == written[1]
    for one, other in zip(*read, strict=True):
        assert torch.equal(one.activations["residual"], other.activations["residual"])
