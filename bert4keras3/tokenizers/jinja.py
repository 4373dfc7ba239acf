"""The sandbox that chat templates run in; imports jinja2, which all else does without.

Its settings are those of transformers, which templates are written for.
"""

import json
import re
from datetime import datetime

import jinja2
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

if [int(part) for part in re.findall(r"\d+", jinja2.__version__)[:3]] < [3, 1, 6]:
    # known ways out of the sandbox
    raise ImportError(f"jinja2 {jinja2.__version__} is installed")


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which what is forbidden is an error and not just undefined."""

    def unsafe_undefined(self, obj, attribute):
        raise SecurityError(f"{attribute!r} of a {type(obj).__name__} is out of reach")


class GenerationBlock(Extension):
    """`{% generation %}`: marks the answers in a template, and changes nothing."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class PlainNamespace(Namespace):
    """`namespace()` without names that Python gives a meaning to."""

    def __init__(*args, **kwargs):
        # a variable may be named self
        self, *others = args
        variables = dict(*others, **kwargs)
        for name in variables:
            _check_name(name)
        Namespace.__init__(self, variables)

    def __setitem__(self, name, value):
        _check_name(name)
        Namespace.__setitem__(self, name, value)


class Refused(TemplateError):
    """A template's own complaint about the messages."""


def compile_template(text, source):
    """Compile a template.

    Args:
        text: the template.
        source: what to call it in errors.

    Returns:
        A template for `render`.

    Raises:
        TypeError: it is no str.
        ValueError: it is not Jinja's.
    """
    if not isinstance(text, str):
        raise TypeError(f"{source} must be a str, found {type(text).__name__}")
    try:
        return _sandbox().from_string(text)
    except TemplateSyntaxError as error:
        raise ValueError(f"{source} is damaged at line {error.lineno}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{source} is nested too deeply") from error


def render(template, variables, source):
    """The text of a template.

    Raises:
        ValueError: the template refuses the messages, fails, or reaches for what it must not.
    """
    try:
        return template.render(variables)
    except Refused as error:
        raise ValueError(f"{source} refuses these messages: {error}") from error
    except SecurityError as error:
        raise ValueError(f"{source} reaches for what a template must not: {error}") from error
    except Exception as error:
        # a template is a program: any error may come of it
        raise ValueError(f"{source} failed with {type(error).__name__}: {error}") from error


def _sandbox():
    extensions = [GenerationBlock, loopcontrols]
    sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["namespace"] = PlainNamespace
    sandbox.globals["raise_exception"] = _refuse
    sandbox.globals["strftime_now"] = _now
    return sandbox


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    # Jinja's own would write < and > as \u003c and \u003e
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message):
    raise Refused(message)


def _now(form):
    return datetime.now().strftime(form)


def _check_name(name):
    if str(name).startswith("_"):
        raise SecurityError(f"the name {name!r} in a namespace")
