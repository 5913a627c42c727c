"""The marks around a message are read from the model's own chat template.

The templates here are our own. Each behaves as those of a family of models do, in all
that makes the marks hard to find. Transformers renders them too, to compare with.
"""

import json
from pathlib import Path

import pytest

from csproto.desk.transcript import clean
from csproto.engine import tokenizer_files
from csproto.engine.chat_template import (
    CHATML,
    SYSTEM,
    TemplateUnusable,
    beginning_of,
    marks_of,
)
from csproto.engine.own_template import OwnTemplate

# A date before the first message, and a system message that is there even if nobody wrote it.
LLAMA3 = """\
{{- bos_token }}
{%- if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}
{%- else %}{% set day = '26 Jul 2024' %}{% endif %}
{%- set told = messages[0].role == 'system' %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + day + '\\n\\n' }}
{{- messages[0].content | trim if told else '' }}
{{- '<|eot_id|>' }}
{%- for m in (messages[1:] if told else messages) %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim }}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# Refuses system messages, as Gemma 2 does.
GEMMA2 = """\
{{- bos_token -}}
{%- for m in messages -%}
{%- if m['role'] == 'system' -%}
{{- raise_exception('System role not supported') -}}
{%- endif -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('the roles must take turns') -}}
{%- endif -%}
{{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' -}}
{{- m['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""
# Puts a first system message into the first message of the user, as Gemma 3 does.
GEMMA3 = """\
{{- bos_token }}
{%- set ns = namespace(first='', rest=messages) %}
{%- if messages[0].role == 'system' %}
{%- set ns.first = messages[0].content + '\\n\\n' %}
{%- set ns.rest = messages[1:] %}
{%- endif %}
{%- for m in ns.rest %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('the roles must take turns') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}
{{- (ns.first if loop.first else '') + m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""
# Has no mark before an answer, and puts a system message into the last message of the user,
# as Mistral 0.3 does.
MISTRAL = """\
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- set rest = messages[1:] if system is not none else messages %}
{{- bos_token }}
{%- for m in rest %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('the roles must take turns') }}
{%- endif %}
{%- if m.role == 'user' %}
{{- '[INST] ' + (system + '\\n\\n' if loop.last and system is not none else '') }}
{{- m.content + '[/INST]' }}
{%- elif m.role == 'assistant' %}
{{- ' ' + m.content + eos_token }}
{%- else %}
{{- raise_exception('only user and assistant') }}
{%- endif %}
{%- endfor %}
"""
# Writes the answer to the last question otherwise than earlier ones, as Qwen3 does.
QWEN3 = """\
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' and loop.index0 > ns.last %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
    {%- generation %}{{ m.content }}{% endgeneration %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
FAMILIES = {
    "llama 3": LLAMA3,
    "gemma 2": GEMMA2,
    "gemma 3": GEMMA3,
    "mistral": MISTRAL,
    "qwen 3": QWEN3,
}


def folder(tmp_path: Path, template: str, **more: object) -> Path:
    config = {"chat_template": template, "bos_token": {"content": "<bos>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | more))
    return tmp_path


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_asked_ends_as_the_models_own_template_writes_it(tmp_path, family: str) -> None:
    """Everything from the second message on, up to where the answer begins."""
    from transformers.utils.chat_template_utils import render_jinja_template

    said = [("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = [{"role": role, "content": text} for role, text in said]
    (theirs,), _ = render_jinja_template(
        conversations=[messages],
        chat_template=FAMILIES[family],
        add_generation_prompt=True,
        enable_thinking=False,
        bos_token="<bos>",
        eos_token="</s>",
    )
    marks = marks_of(folder(tmp_path, FAMILIES[family]))
    ours = OwnTemplate("", None, marks).get_prompt(messages) + marks["assistant"][0]
    if family == "qwen 3":  # a transcript only grows, so what was written is not written anew
        ours = ours.replace("<think>\n\n</think>\n\n", "", 1)
    if family == "mistral":  # its blank before an answer is left to the model
        theirs = theirs.replace("[/INST] ", "[/INST]")
    assert theirs.partition("one")[2] == ours.partition("one")[2]


def test_a_date_before_the_first_message_belongs_to_no_role(tmp_path: Path) -> None:
    marks = marks_of(folder(tmp_path, LLAMA3))
    assert marks["system"] == ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>")
    assert marks["user"] == ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>")


@pytest.mark.parametrize("family", ["gemma 2", "gemma 3", "mistral"])
def test_a_decision_never_looks_like_a_customers_message(tmp_path: Path, family: str) -> None:
    marks = marks_of(folder(tmp_path, FAMILIES[family]))
    prefix, suffix = marks["user"]
    assert marks["system"] == (prefix + SYSTEM, suffix)
    assert SYSTEM.strip() not in clean(f"{SYSTEM}the shop grants it")
    assert "\n" not in clean(f"x\n{SYSTEM}")


def test_a_model_that_thinks_aloud_is_told_not_to(tmp_path: Path) -> None:
    marks = marks_of(folder(tmp_path, QWEN3))
    assert marks["assistant"] == ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>\n")
    assert marks["user"] == CHATML["user"]
    assert marks["system"] == CHATML["system"]


def test_a_template_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(LLAMA3)
    assert marks_of(tmp_path)["user"][1] == "<|eot_id|>"


def test_one_of_several_templates(tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": QWEN3}, {"name": "default", "template": GEMMA2}]
    assert marks_of(folder(tmp_path, several))["user"][1] == "<end_of_turn>\n"


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ messages[-1]['role'] }}",
        "{{ messages | length }}",
        "{{ messages[0].content }}",
    ],
)
def test_a_template_without_fixed_marks_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(TemplateUnusable):
        marks_of(folder(tmp_path, template))


# The token at the beginning.


@pytest.mark.parametrize(
    ("template", "adds", "beginning"),
    [(LLAMA3, False, "<bos>"), (LLAMA3, True, ""), (QWEN3, False, "")],
)
def test_the_first_token_is_written_exactly_once(tmp_path, template, adds, beginning) -> None:
    model = folder(tmp_path, template, add_bos_token=adds)
    assert beginning_of(model) == beginning
    prompt = OwnTemplate("", None, CHATML, beginning=beginning)
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    written = "<|im_start|>system\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
    assert prompt.get_prompt(messages) == beginning + written


@pytest.mark.parametrize("adds", [True, False])
def test_the_tokenizer_is_asked_whether_it_adds_the_first_token(tmp_path: Path, adds: bool) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({"<bos>": 0, "a": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert beginning_of(folder(tmp_path, LLAMA3)) == ("" if adds else "<bos>")


def test_the_shipped_model_has_no_first_token() -> None:
    from csproto.settings import MINI_MODEL

    assert beginning_of(MINI_MODEL) == ""
    assert marks_of(MINI_MODEL) == CHATML


# Where a model's files are.


def test_without_a_template_a_folder_is_chatml(tmp_path: Path) -> None:
    assert marks_of(tmp_path) == CHATML


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache of the hub, with one model in it, and no connection to the hub itself."""
    from huggingface_hub import constants

    cache, revision = tmp_path / "hub", "0" * 40
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(tokenizer_files, "BY_HAND", tmp_path / "by hand")
    model = cache / "models--google--gemma-2-2b-it"
    (model / "snapshots" / revision).mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    folder(model / "snapshots" / revision, GEMMA2)
    return cache


def test_a_model_named_by_its_id_has_its_own_template(hub: Path) -> None:
    assert marks_of("google/gemma-2-2b-it")["user"] == ("<start_of_turn>user\n", "<end_of_turn>\n")


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.1-8B-Instruct", "/srv/models/llama-8b"])
def test_a_model_of_which_nothing_is_here_is_refused_unless_it_is_surely_chatml(
    hub: Path, model: str
) -> None:
    with pytest.raises(TemplateUnusable, match=r"tokenizer_config\.json"):
        marks_of(model, ["LlamaForCausalLM"])
    assert marks_of(model, ["Qwen2ForCausalLM"]) == CHATML


def test_the_files_of_a_model_elsewhere_can_be_put_beside_the_profiles(hub, tmp_path) -> None:
    place = tmp_path / "by hand" / "llama-8b"
    place.mkdir(parents=True)
    folder(place, LLAMA3)
    assert marks_of("/srv/models/llama-8b", ["LlamaForCausalLM"])["user"][1] == "<|eot_id|>"


def test_a_template_put_there_comes_before_the_models_own(hub: Path, tmp_path: Path) -> None:
    model, place = folder(tmp_path, LLAMA3, add_bos_token=False), tmp_path / "by hand"
    place = place / model.name
    place.mkdir(parents=True)
    (place / "chat_template.jinja").write_text(GEMMA2)
    assert marks_of(model)["user"][1] == "<end_of_turn>\n"
    assert beginning_of(model) == "<bos>", "what is not there still comes from the model"
