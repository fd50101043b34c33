"""The commands that look at packages and configs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import IN, Run
from html_pages import check_page

from mil_palettize.planning.device_rules import CONSEQUENCES


def test_command(run: Run, tmp_path: Path) -> None:
    code, out, err = run("inspect", IN, "--match", "head", "--all")
    assert (code, err) == (0, "")
    assert re.search(r"^head_weight +10×320", out, re.M)
    code, out, _ = run("inspect", IN, "--sort", "snr", "--html", "page.html", "--json")
    assert code == 0
    assert any(c["snr_db"] for c in json.loads(out)["constants"])
    check_page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert run("inspect", IN, "--html", f"{IN}/page.html")[0] == 2
    assert run("inspect", IN, "--match", "nohing")[0] == 4


def test_preflight(run: Run) -> None:
    code, out, err = run("preflight", IN, "--for", "mac-ane")
    assert (code, err) == (0, "")
    assert out.startswith(f"{IN}, for mac-ane: 47.8 kB")
    code, out, _ = run("preflight", IN, "--json")
    assert code == 0
    assert {finding["consequence"] for finding in json.loads(out)["findings"]} <= set(CONSEQUENCES)
    assert run("preflight", IN, "--for", "iphone")[0] == 2


def test_reports_as_pages(run: Run, tmp_path: Path) -> None:
    code, out, err = run("palettize", IN, "o.mlpackage", "--nbits", "4", "--html", "o.html", "--sort", "snr", "--all")
    assert (code, err) == (0, "")
    check_page((tmp_path / "o.html").read_text(encoding="utf-8"))
    assert out.splitlines()[-2] == f"next: mil-palettize compare {IN} o.mlpackage"
    same = run("palettize", IN, "p.mlpackage", "--nbits", "4", "--html", "o.html", "--report", "o.html")
    assert same[0] == 2
    assert "is the file of --report" in same[2]
