"""Write docs/configuration.md from the settings themselves, or check that it is up to date."""

import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from crossfeed.config import PRESETS, Config

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = """\
# Settings

<!-- Written by scripts/write_settings_page.py from src/crossfeed/config/; do not edit. -->

Settings come from four places, each above the one before:

1. the defaults below;
2. `--preset NAME`: named settings (at the end of this page);
3. `--config FILE`: a TOML file with the sections `[data]`, `[model]` and `[train]`, each optional.
   `prepare` uses `[data]`, `train` the other two, so that one file serves both;
4. `--set section.key=value`, repeatable; the value is written as in TOML, and bare words are
   strings.

```toml
[data]
split = "temporal"
positive = "rating >= 4"
columns = { user_id = "uid", timestamp = "at" }

[train]
epochs = 20
expand_domains = ["books", "music"]
```

An unknown key or a value out of range is an error before any work begins; all problems are named at
once, each with what is allowed. In Python: `crossfeed.load_config(Path("settings.toml"),
overrides=["train.epochs=5"])`.
"""


def page() -> str:
    """Return the text of the page."""
    sections = [
        _section(name, field.annotation)
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]
    return "\n".join([HEAD, *sections, _presets()])


def _section(name: str, model: type[BaseModel]) -> str:
    rows = [_row(key, field) for key, field in model.model_fields.items()]
    lines = [f"## `[{name}]`", "", (model.__doc__ or "").strip(), ""]
    lines += ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def _row(key: str, field: FieldInfo) -> str:
    default = _toml(field.default)
    meaning = " ".join((field.description or "").split())
    return f"| `{key}` | {default} | {_allowed(field)} | {meaning} |".replace("  ", " ")


def _allowed(field: FieldInfo) -> str:
    words = _type_words(field.annotation)
    return ", ".join([words, *(_bound(one) for one in field.metadata)])


def _type_words(kind: Any) -> str:  # Any: what an annotation may be
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_type_words(one) for one in arguments if one is not type(None))
    if get_origin(kind) is tuple:
        if Ellipsis not in arguments:
            return "two strings"
        return "list of strings" if arguments[0] is str else f"list of {_type_words(arguments[0])}"
    if get_origin(kind) is dict:
        return f"table with the keys {_type_words(arguments[0])}"
    return {int: "integer", float: "number", str: "string", bool: "true or false"}[kind]


def _bound(bound: Any) -> str:  # Any: annotated-types' Ge, Gt, Le, Lt
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    (key,) = (key for key in signs if hasattr(bound, key))
    return f"{signs[key]} {getattr(bound, key)}"


def _toml(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{value}`"


def _presets() -> str:
    lines = ["## Presets", ""]
    for name, sections in PRESETS.items():
        settings = [
            f"`{section}.{key} = {_toml(value).strip('`')}`"
            for section, values in sections.items()
            for key, value in values.items()
        ]
        lines.append(f"- `{name}`: {', '.join(settings)}")
    return "\n".join([*lines, ""])


def main() -> int:
    """Write the page, or with --check compare it with what is there."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), "utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text("utf-8") == page():
        return 0
    print(f"{PAGE.name} is out of date; run scripts/write_settings_page.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
