"""The commands that look at packages and configs: ``inspect``, ``diff``, ``expand`` and ``preflight``."""

from __future__ import annotations

import argparse

from mil_palettize.cli import output
from mil_palettize.cli.loading import load
from mil_palettize.cli.parsers import Parser
from mil_palettize.cli.running import EXIT_DIFFERENT
from mil_palettize.cli.values import path
from mil_palettize.planning.device_rules import DEVICES
from mil_palettize.reports.orders import ORDERS


def add_looking(commands: argparse._SubParsersAction[Parser], epilog: str) -> None:
    """The parsers of all of them."""
    sub = commands.add_parser("inspect", help="what a package takes, gives and holds", epilog=epilog)
    sub.add_argument("package", type=path, metavar="IN.mlpackage")
    sub.add_argument(
        "--match", action="append", default=[], metavar="NAME",
        help="only what a name in a config would mean: of a constant, op, output or module, *, re:PATTERN; repeatable",
    )  # fmt: skip
    sub.add_argument("--all", action="store_true", help="every constant, not only weights")
    sub.add_argument(
        "--sort", choices=ORDERS, default="bytes",
        help="[bytes]; snr makes 4-bit palettes to tell what they lose, the worst first",
    )  # fmt: skip
    _add_formats(sub)
    sub = commands.add_parser("diff", help="what differs between two packages", epilog=epilog)
    sub.add_argument("first", type=path, metavar="A.mlpackage")
    sub.add_argument("second", type=path, metavar="B.mlpackage")
    sub.add_argument("--json", action="store_true", help="JSON on standard output")
    sub = commands.add_parser("expand", help="a config with plain names, as coremltools reads it", epilog=epilog)
    sub.add_argument("package", type=path, metavar="IN.mlpackage")
    sub.add_argument("--config", type=path, required=True, metavar="FILE.yaml", help="with patterns or modules")
    sub.add_argument("--out", type=path, metavar="PLAIN.yaml", help="write it there [standard output]")
    sub = commands.add_parser("preflight", help="what devices are known to make of a package", epilog=epilog)
    sub.add_argument("package", type=path, metavar="MODEL.mlpackage")
    sub.add_argument("--for", dest="device", choices=tuple(DEVICES), default="any", help="[any]; ane is both engines")
    sub.add_argument("--json", action="store_true", help="JSON on standard output")


def _add_formats(sub: Parser) -> None:
    sub.add_argument("--html", type=path, metavar="FILE.html", help="write a page that shows it")
    sub.add_argument("--json", action="store_true", help="JSON on standard output")


def inspect(options: argparse.Namespace) -> int:
    """Returns the exit code, as every command does."""
    if options.html is not None:
        output.check_report_path(options.html, [options.package], option="--html")
    door = load("doors.inspection")
    found = door.inspect_package(
        options.package, match=options.match, snr=options.sort == "snr", progress=output.count(options)
    )
    how = {"sort": options.sort, "every": options.all}
    if options.html is not None:
        output.write_report(options.html, load("reports.page.inspection_page").inspection_page(found, **how))
    output.show(found.to_json() + "\n" if options.json else found.to_text(output.width(), **how))
    return 0


def diff(options: argparse.Namespace) -> int:
    """1 where they differ."""
    difference = load("doors.inspection").diff_packages(options.first, options.second, progress=output.count(options))
    output.show(difference.to_json() + "\n" if options.json else difference.to_text(output.width()))
    return 0 if difference.identical else EXIT_DIFFERENT


def expand(options: argparse.Namespace) -> int:
    if options.out is not None:
        output.check_report_path(options.out, [options.package], {"--config": options.config}, "--out")
    requests = load("request.entries").load_config(options.config)
    text = load("request.plain_names").as_yaml(load("doors.expansion").expanded(options.package, requests))
    if options.out is None:
        output.show(text)
    else:
        output.write_report(options.out, text)
    return 0


def preflight(options: argparse.Namespace) -> int:
    """0 whatever is found: it is what others saw, not a test."""
    found = load("doors.preflight").preflight_package(options.package, options.device)
    output.show(found.to_json() + "\n" if options.json else found.to_text(output.width()))
    return 0
