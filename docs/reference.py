"""Builds the reference of all public names, a page a room: python docs/reference.py [directory]

pdoc reads the docstrings; here they become the Markdown that it takes, and names are linked as users write them.
"""

import collections
import functools
import importlib
import inspect
import pathlib
import re
import sys
import textwrap
import warnings
from typing import Any

import jinja2
import pdoc.doc
import pdoc.render
import pdoc.render_helpers
from markupsafe import Markup

from funcnets.values import code

HERE = pathlib.Path(__file__).parent
ROOMS = ["funcnets"]
ROOMS += [f"funcnets.{name}" for name in ("files", "initializers", "inspect", "params", "rewrite", "train")]
SECTION = re.compile(r"^(Args|Params|States|Inputs|Returns|Raises|Attributes|Source|Example):", re.MULTILINE)
ITEM = re.compile(r"^(\*{0,2}[\w./]+(?:, \*{0,2}[\w./]+)*): ", re.MULTILINE)
CODE = re.compile(r"(`[^`]+`)")
EMPHASIS = re.compile(r"(?<![\w*])\*(\w(?:[^*]*\w)?)\*(?![\w*])")


def public(room: str) -> list[str]:
    """The names that a page has."""
    module = importlib.import_module(room)
    held = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    if room == "funcnets.initializers":  # a file, which imports more than it has
        held = {name: one for name, one in held.items() if getattr(one, "__module__", "") == room}
    names = getattr(module, "__all__", [name for name, one in held.items() if not inspect.ismodule(one)])
    return sorted(names, key=str.lower)


def markdown(docstring: str) -> str:
    """A docstring in our form: prose, then sections of prose and of items."""
    first, *sections = SECTION.split(docstring)
    written = [prose(first)]
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        body = body.lstrip(" ")
        body = textwrap.dedent(body if body.startswith("\n") else f"  {body}").strip("\n")
        held = [body] if name in ("Source", "Example") else ITEM.split(body)
        items = [f"- `{item}`: {prose(text)}" for item, text in zip(held[1::2], held[2::2], strict=True)]
        written += [f"###### {name}", prose(held[0]), "\n".join(items)]
    return "\n\n".join(filter(None, written))


def prose(text: str) -> str:
    """Paragraphs on a line each; indented code and sessions stay as they stand."""
    written: list[str] = []
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        kind = "pycon" if part.startswith(">>>") else "python" if part.startswith("    ") else None
        if kind:
            written.append(f"```{kind}\n{textwrap.dedent(part)}\n```")
        else:
            items = re.split(r"\n(?=- )", part)
            written.append("\n".join(line(" ".join(item.split())) for item in items))
    return "\n\n".join(written)


def line(words: str) -> str:
    """Words as they stand, but for `code` and *emphasis*."""
    return "".join(part if part.startswith("`") else escaped(part) for part in CODE.split(words))


def escaped(words: str) -> str:
    words = words.replace("\\", "\\\\").replace("<", "&lt;").replace("[", "\\[").replace("#", "\\#")
    return EMPHASIS.sub(r"<em>\1</em>", words).replace("*", "\\*")


@functools.cache
def entries() -> dict[str, str]:
    """Classes by the names that annotations give them."""
    names = [(room, name) for room in ROOMS for name in public(room)]
    return {
        name: f"{room}.{name}" for room, name in names if inspect.isclass(getattr(importlib.import_module(room), name))
    }


class Words(str):
    """What stands in a signature as it is written."""

    __repr__ = str.__str__


def call_of(one: Any) -> inspect.Signature:
    """How it is called, in the words of the source; types that have an entry are named so that they are linked."""
    signature = inspect.signature(one)
    held = [each for each in signature.parameters.values() if each.name != "self"]
    held = [each.replace(annotation=words(each.annotation), default=default(each.default)) for each in held]
    returned = signature.empty if inspect.isclass(one) else words(signature.return_annotation)
    return signature.replace(parameters=held, return_annotation=returned)


def words(annotation: Any) -> Any:
    if annotation is inspect.Signature.empty:
        return annotation
    written = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return Words(re.sub(r"(?<![\w.'])[A-Z]\w+", lambda found: entries().get(found[0], found[0]), written))


def default(held: Any) -> Any:
    return held if held is inspect.Parameter.empty else Words(code(held))


@jinja2.pass_context
def linkify(context: Any, text: str, namespace: str = "", shorten: bool = True) -> Markup:
    """Links `fn.Dense` as it does `funcnets.Dense`."""
    pages = context["all_modules"]
    pages = {**pages, **{re.sub("^funcnets", "fn", name): page for name, page in pages.items()}}
    scope = collections.ChainMap({"all_modules": pages}, context)
    linked = pdoc.render_helpers.linkify(scope, text, namespace, shorten)
    return Markup(re.sub(r'(href="(?:\.\./)*)fn(?=[./])', r"\1funcnets", linked))


def is_shown(one: pdoc.doc.Doc[Any]) -> bool:
    """Whether pages have it: public names, and of classes what has a docstring of its own and is no field."""
    if one.modulename not in ROOMS or one.kind == "module":
        return one.modulename in ROOMS
    owner, _, name = one.qualname.rpartition(".")
    if not owner:
        return name in public(one.modulename)
    held = getattr(importlib.import_module(one.modulename), owner)
    own = one.docstring if one.kind == "variable" else getattr(one.obj, "__doc__", None)
    fields = getattr(held, "__dataclass_fields__", ())
    return bool(own) and name in vars(held) and name not in fields and not name.startswith("_")


def build(directory: pathlib.Path) -> None:
    for room in ROOMS:
        importlib.import_module(room).__all__ = public(room)
    environment = pdoc.render.env
    environment.globals |= {"is_shown": is_shown, "call_of": call_of, "entries": entries()}
    environment.filters |= {"to_markdown": markdown, "linkify": linkify}
    pdoc.render.configure(docformat="markdown", template_directory=HERE / "templates", show_source=False)
    others = rf"!(?!(?:{'|'.join(ROOMS)})$)"
    # pdoc evaluates annotations, private ones too; the pages have them as they are written.
    warnings.filterwarnings("ignore", "Error parsing type annotation")
    pdoc.pdoc(*ROOMS, others, output_directory=directory)


if __name__ == "__main__":
    build(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "_build")
