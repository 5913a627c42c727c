"""The marks around a message are read from the chat template beside the weights."""

import json
from pathlib import Path

import pytest

from csproto.engine.chat_template import CHATML, TemplateUnusable, marks_of

LLAMA3 = """\
{%- for m in messages -%}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""
GEMMA = """\
{{- bos_token -}}
{%- for m in messages -%}
{%- if m['role'] == 'system' -%}
{{- raise_exception('System role not supported') -}}
{%- endif -%}
{{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' -}}
{{- m['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""
THINKS = """\
{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and not enable_thinking -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}
"""


def folder(tmp_path: Path, template: str) -> Path:
    config = {"chat_template": template, "bos_token": {"content": "<bos>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_llama_3_and_gemma(tmp_path: Path) -> None:
    marks = marks_of(folder(tmp_path, LLAMA3))
    assert marks["system"] == ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>")
    assert marks["assistant"][0].endswith("assistant<|end_header_id|>\n\n")
    marks = marks_of(folder(tmp_path, GEMMA))
    assert marks["assistant"] == ("<start_of_turn>model\n", "<end_of_turn>\n")
    assert marks["system"] == marks["user"] == ("<start_of_turn>user\n", "<end_of_turn>\n")


def test_a_model_that_thinks_aloud_is_told_not_to(tmp_path: Path) -> None:
    marks = marks_of(folder(tmp_path, THINKS))
    assert marks["assistant"] == ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "<|im_end|>\n")
    assert marks["user"] == CHATML["user"]


def test_a_template_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(LLAMA3)
    assert marks_of(tmp_path)["user"][1] == "<|eot_id|>"


def test_without_a_template_it_is_chatml(tmp_path: Path) -> None:
    assert marks_of(tmp_path) == CHATML
    assert marks_of("Qwen/Qwen2.5-7B-Instruct") == CHATML


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ messages[-1]['role'] }}", "{{ messages | length }}"]
)
def test_a_template_without_fixed_marks_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(TemplateUnusable):
        marks_of(folder(tmp_path, template))
