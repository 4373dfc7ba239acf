"""Chat templates of Hugging Face folders, against transformers.

python -m pytest tests/test_chat_templates.py
"""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4keras3.tokenizers import ChatTemplate

pytest.importorskip("jinja2")
pytestmark = pytest.mark.once

CHATML = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
    {{- '<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}{{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nBe of help.<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(users=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.users = ns.users + 1 %}{% endif %}
    {%- if message.role == 'system' and tools %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}{{- message.content }}{% endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '<call>' }}{{- call.function | tojson(indent=2) }}{{- '</call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA = """
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date_string + "\\n" + system }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- generation %}
    {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
GEMMA = """{{ bos_token }}
{%- if messages[0].role == 'system' %}
    {{- raise_exception('There is no system role') }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must take turns') }}
    {%- endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
<start_of_turn>{{ role }}
{{ message.content | trim }}<end_of_turn>
{% endfor %}
{% if add_generation_prompt %}
<start_of_turn>model
{% endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}
    {% if message['role'] == 'user' %}
{{ ' [INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
{{- ' ' + message['content'] + eos_token }}
    {%- else %}
{{- raise_exception('Only user and assistant here, not ' ~ message['role']) }}
    {%- endif %}
{% endfor %}"""
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "gemma": GEMMA, "mistral": MISTRAL}

USER = {"role": "user", "content": " Grüß Gott <b>&\n 你好 "}
ANSWER = {"role": "assistant", "content": "Hello!\n"}
SYSTEM = {"role": "system", "content": "Be brief."}
CHATS = [[USER], [USER, ANSWER], [USER, ANSWER, USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER]]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TOOL = {"type": "function", "function": {"name": "ü<&>", "parameters": {"a": [1, 2.5, None]}}}


def make_folder(path, template=None, **configuration):
    path.mkdir(exist_ok=True)
    if template is not None:
        configuration["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps({**SPECIAL, **configuration}))
    return path


@pytest.fixture(scope="module")
def theirs():
    transformers = pytest.importorskip("transformers")
    import tokenizers as rust

    words = rust.Tokenizer(rust.models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, "<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL)

    def write(template, messages, **options):
        tokenizer.chat_template = template
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    return write


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_equals_transformers(tmp_path, theirs, name, prompt):
    from jinja2.exceptions import TemplateError

    ours = ChatTemplate.from_folder(make_folder(tmp_path, TEMPLATES[name]))
    for chat in CHATS:
        try:
            want = theirs(TEMPLATES[name], chat, add_generation_prompt=prompt)
        except TemplateError as refusal:
            with pytest.raises(ValueError, match=f"{tmp_path}.*refuses these.*{refusal}"):
                ours.apply(chat, add_generation_prompt=prompt)
        else:
            assert ours.apply(chat, add_generation_prompt=prompt) == want
    if name == "chatml":
        assert ours.apply([USER]).endswith("<|im_start|>assistant\n")


def test_variables_tools_and_calls(tmp_path, theirs):
    ours = ChatTemplate.from_folder(make_folder(tmp_path, CHATML))
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"x": "é"}}}]
    chat = [
        SYSTEM,
        USER,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "42", "name": "f"},
    ]
    for options in ({"tools": [TOOL]}, {"enable_thinking": False}, {"tools": None}):
        want = theirs(CHATML, chat, add_generation_prompt=True, **options)
        assert ours.apply(chat, **options) == want
    assert '"ü<&>"' in ours.apply(chat, tools=[TOOL])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "assistant", "system", "{{ 1 }}"]),
                "content": st.text() | st.sampled_from(["{{ bos_token }}", "{% if %}"]),
            }
        ),
        min_size=1,
    ),
    st.booleans(),
)
def test_any_content_is_content(theirs, chat, prompt):
    """What users write is never read as a template."""
    got = ChatTemplate(CHATML, SPECIAL).apply(chat, add_generation_prompt=prompt)
    assert got == theirs(CHATML, chat, add_generation_prompt=prompt)
    assert all(message["content"] in got for message in chat)


def test_where_templates_are(tmp_path):
    several = [
        {"name": "default", "template": "config"},
        {"name": "tool_use", "template": "config tools"},
    ]
    folder = make_folder(tmp_path, several, pad_token={"content": "<pad>", "lstrip": False})
    read = ChatTemplate.from_folder
    assert read(folder).apply([USER]) == "config"
    assert read(folder).apply([USER], tools=[TOOL]) == "config tools"
    (folder / "chat_template.jinja").write_text("file ä {{ pad_token }}{{ mask_token }}", "utf-8")
    assert read(folder).apply([USER], tools=[TOOL]) == "file ä <pad>"
    assert read(folder).apply([USER], pad_token="given") == "file ä given"
    (folder / "chat_templates").mkdir()
    (folder / "chat_templates" / "tool_use.jinja").write_text("file tools {{ tools|length }}")
    assert read(folder).apply([USER], tools=[TOOL]) == "file tools 1"
    assert read(folder).apply([USER]) == "file ä <pad>"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ messages.__class__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ namespace.__init__ }}",
        "{{ dict.mro() }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ self._TemplateReference__context }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__call__=1) }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends '/etc/passwd' %}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ undefined_thing.x }}",
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_templates_reach_nothing(tmp_path, attack):
    template = ChatTemplate.from_folder(make_folder(tmp_path, attack))
    with pytest.raises(ValueError, match=f"the chat template of '{tmp_path}' (reaches|failed)"):
        template.apply([USER])


def test_folder_errors(tmp_path):
    read = ChatTemplate.from_folder
    with pytest.raises(FileNotFoundError, match="no chat template in .*chat_template.jinja"):
        read(make_folder(tmp_path))
    for template, kind, message in (
        ("{% if %}", ValueError, f"template of '{tmp_path}' is damaged at line 1"),
        ([{"name": "tool_use", "template": ""}], ValueError, r"no 'default'.*\['tool_use'\]"),
        ([{"name": "default"}], ValueError, "tokenizer_config.json': chat_template must be"),
        (3, TypeError, f"the chat template of '{tmp_path}' must be a str, found int"),
    ):
        with pytest.raises(kind, match=message):
            read(make_folder(tmp_path, template))
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="chat_template.jinja' is not utf-8"):
        read(tmp_path)


class Name(str):
    """A str with something that a template must not get."""

    def delete(self):
        raise AssertionError


def test_messages():
    template = ChatTemplate("{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}")
    assert template.apply(tuple([USER])) == "user:" + USER["content"] + ";"
    assert template.apply([{"role": "user", "content": Name("Ann")}]) == "user:Ann;"
    with pytest.raises(ValueError, match="failed with UndefinedError"):
        ChatTemplate("{{ messages[0].content.delete() }}").apply(
            [{"role": "user", "content": Name("Ann")}]
        )
    for messages, kind, message in (
        ("hello", TypeError, "messages must be a list of dictionaries, found str"),
        (USER, TypeError, "found dict"),
        (None, TypeError, "found NoneType"),
        ([], ValueError, "messages is empty"),
        ([USER, "hi"], TypeError, "message 1 must be a dictionary, found str"),
        ([{"content": "x"}], ValueError, "message 0: 'role' must be a str, found nothing"),
        ([{"role": "user"}], ValueError, "message 0: 'content' must be a str, found nothing"),
        ([USER, {"role": "user", "content": [1]}], ValueError, "message 1: .* found list"),
        ([{**USER, "more": object()}], TypeError, "message 0 must be made of .* found object"),
    ):
        with pytest.raises(kind, match=message):
            template.apply(messages)
    with pytest.raises(TypeError, match="tools must be made of what JSON has, found function"):
        template.apply([USER], tools=[lambda: None])


def test_without_jinja2(tmp_path):
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from bert4keras3.tokenizers import ChatTemplate\n"
        "try: ChatTemplate('')\n"
        "except ImportError as error: assert 'bert4keras3[chat]' in str(error), error\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
