"""The page at /docs in a browser: no other site, no key to read it, examples filled in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from service import Service

from crossfeed.serving.http.schemas import RecommendBody

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(
    BROWSER is None and not os.environ.get("CI"), reason="needs Chromium, which is not installed"
)
@pytest.mark.parametrize("keys", ["", "a-key-of-enough-characters"])
def test_a_browser_shows_every_route(keys: str, bundle_path: Path, tmp_path: Path) -> None:
    assert BROWSER is not None, "CI needs Chromium: apt-get install chromium"
    with Service(bundle_path, "sqlite://", log=tmp_path / "log", keys=keys) as service:
        shown = subprocess.run(
            [
                *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"),
                *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",),
                *("--virtual-time-budget=10000", "--dump-dom", f"{service.url}/docs"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert not re.findall(r"(?:WARNING|ERROR):CONSOLE.*", shown.stderr)
    assert set(re.findall(r"<code>(/[^<]*)</code>", shown.stdout)) == {
        *("/v1/recommend", "/v1/users/{user_id}/recommendations", "/v1/users/{user_id}/history"),
        *("/v1/events", "/v1/users/{user_id}", "/v1/items/availability", "/v1/domains"),
        *("/v1/model", "/v1/model/pin", "/metrics", "/health/live", "/health/ready"),
    }
    filled = re.findall(r"<textarea[^>]*>([^<]+)</textarea>", shown.stdout)
    examples = [json.loads(unescape(text)) for text in filled]
    assert len(examples) == 4  # recommend, events, availability, pin
    [asked] = [example for example in examples if "domain" in example]
    assert RecommendBody.model_validate(asked).to_query().domains == {"books": 10}


def test_every_example_is_a_body_that_is_taken() -> None:
    for example in RecommendBody.model_json_schema()["examples"]:
        RecommendBody.model_validate(example)
