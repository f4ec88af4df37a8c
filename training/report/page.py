"""A page of pictures as one HTML file: no network, no script, light and dark. Names from data are escaped.

What is drawn is somebody else's: a page is a title and sections, a section has figures, a figure has a body and says in
plain words how to read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Figure:
    """body: what charts.py and pictures.py give, `facts` or a `table`. caption: how to read it. wide: a whole line."""

    title: str
    body: Markup
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """figures stand two abreast; small ones, with a title and no caption, four abreast below them."""

    title: str
    text: str
    figures: Sequence[Figure] = ()
    small: Sequence[Figure] = ()


@dataclass(frozen=True)
class Page:
    """facts: the headline, by name; emblem: a picture beside the title."""

    title: str
    subtitle: str
    facts: Mapping[str, str]
    sections: Sequence[Section]
    emblem: Markup = field(default_factory=Markup)
    footer: str = ""

    def html(self) -> str:
        return str(rendered("page.html.jinja", page=self))


def facts(of: Mapping[str, str]) -> Markup:
    """A list of names and what they are."""
    return rendered("facts.html.jinja", facts=of)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Numbers beside one another, each row's cells under the headers."""
    return rendered("table.html.jinja", headers=headers, rows=rows)


def rendered(template: str, **values: Any) -> Markup:
    return Markup(_templates.get_template(template).render(values))  # noqa: S704  escaped by the template
