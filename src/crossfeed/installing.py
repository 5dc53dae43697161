"""How an extra is added to this installation: from the origin of the package itself."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["install_hint"]

_PACKAGE = Path(__file__).parent


def install_hint(extra: str) -> str:
    """Return the command that adds an extra to this installation.

    The name alone is not enough: an index may have no `crossfeed`, or another one.
    """
    return shlex.join([*_installer(), *_wanted(extra)])


def _installer() -> list[str]:
    """Return the install command of this interpreter's environment."""
    if importlib.util.find_spec("pip") is None:
        return ["uv", "pip", "install", "--python", sys.executable]
    found = shutil.which("pip")
    if found and Path(found).parent == Path(sys.executable).parent:
        return ["pip", "install"]
    return [sys.executable, "-m", "pip", "install"]


def _wanted(extra: str) -> list[str]:
    """Return what to install: this source tree, the package's own origin, or the extra's parts."""
    tree = _PACKAGE.parent.parent
    if _PACKAGE.parent.name == "src" and (tree / "pyproject.toml").is_file():
        return ["--editable", f"{tree}[{extra}]"]
    try:
        installed = metadata.distribution("crossfeed")
    except metadata.PackageNotFoundError:  # copied somewhere on the path
        return [f"crossfeed[{extra}]"]
    origin = _origin(installed.read_text("direct_url.json"))
    return [f"crossfeed[{extra}] @ {origin}"] if origin else _parts(installed.requires, extra)


def _origin(text: str | None) -> str | None:
    """Return the URL that the package was installed from, if it is still there."""
    if text is None:
        return None
    facts = json.loads(text)
    url = str(facts["url"])
    if "vcs_info" in facts:
        vcs = facts["vcs_info"]
        return f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    if urlsplit(url).scheme == "file" and not Path(unquote(urlsplit(url).path)).exists():
        return None
    return url


def _parts(requirements: list[str] | None, extra: str) -> list[str]:
    """Return the requirements of one extra, without their markers."""
    wanted = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    split = (requirement.partition(";") for requirement in requirements or ())
    return [name.strip() for name, _, marker in split if wanted.search(marker)]
