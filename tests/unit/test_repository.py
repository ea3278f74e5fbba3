"""The repository keeps its own rules."""

import ast
import json
import os
import re
import subprocess

import pytest

from script.lib.places import ROOT

LONGEST_PYTHON_FILE_LINES = 450
# Written in two halves so that this file does not name what it forbids.
REGISTRY_HOSTS = [
    f"{name}.{domain}"
    for name, domain in [
        ("pypi", "org"),
        ("files.pythonhosted", "org"),
        ("registry.npmjs", "org"),
        ("registry.yarnpkg", "com"),
        ("deb.debian", "org"),
        ("security.debian", "org"),
        ("archive.ubuntu", "com"),
        ("deb.nodesource", "com"),
        ("docker", "io/library"),
        ("registry-1.docker", "io"),
        ("quay", "io"),
        ("ghcr", "io"),
        ("nvcr", "io"),
    ]
]
PINNED = re.compile(r"^[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==[^=*\s;]+(\s*;.+)?$")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|<img[^>]+src=\"([^\"]+)\"")


def files_of_the_repository(*suffixes: str):
    """Return the files that are, or are about to be, under version control."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    found = [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]
    assert found, f"no files {suffixes} found: the tests below would pass for nothing"
    return found


def text_of(path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace")


def test_no_file_names_a_package_registry():
    named = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in files_of_the_repository()
        for host in REGISTRY_HOSTS
        if host in text_of(path)
    ]

    assert not named


def test_python_files_fit_in_the_head():
    too_long = {
        str(path.relative_to(ROOT)): lines
        for path in files_of_the_repository(".py")
        if (lines := len(text_of(path).splitlines())) > LONGEST_PYTHON_FILE_LINES
    }

    assert not too_long


def test_every_script_can_be_executed_and_nothing_else_claims_to_be_one():
    wrong = []
    for path in files_of_the_repository():
        is_script = path.read_bytes()[:2] == b"#!"
        if is_script != os.access(path, os.X_OK):
            wrong.append(f"{path.relative_to(ROOT)}: {'not executable' if is_script else 'executable, but no script'}")

    assert not wrong


@pytest.mark.parametrize("name", ["hub.txt", "node.txt", "test.txt"])
def test_requirements_are_pinned_to_one_version_each(name):
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    entries = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]

    assert entries
    assert [entry for entry in entries if not PINNED.match(entry)] == []


def test_hub_and_tests_agree_on_the_versions_they_share():
    def pins(name):
        lines = (ROOT / "requirements" / name).read_text().splitlines()
        return {line.split("==")[0]: line for line in lines if "==" in line and ";" not in line}

    hub, test = pins("hub.txt"), pins("test.txt")

    assert hub.keys() & test.keys()
    assert {name: (hub[name], test[name]) for name in hub.keys() & test.keys() if hub[name] != test[name]} == {}


@pytest.mark.parametrize(
    ("name", "package", "version"), [("proxy", "configurable-http-proxy", "5.3."), ("pages", "axe-core", "4.")]
)
def test_the_locks_of_node_packages_name_no_address_and_every_checksum(name, package, version):
    lock = json.loads((ROOT / "requirements" / name / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}

    assert lock["packages"][""]["dependencies"][package].startswith(version)
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert [name for name, entry in packages.items() if "integrity" not in entry] == []


def test_every_page_and_picture_of_the_documentation_is_linked_from_another_page():
    pages = files_of_the_repository(".md")
    linked = {
        (page.parent / (text or image)).resolve()
        for page in pages
        for text, image in LINK.findall(text_of(page))
        if "://" not in (text or image)
    }
    documentation = [path for path in files_of_the_repository() if (ROOT / "docs") in path.parents]
    index = ROOT / "docs" / "README.md"

    assert [str(path.relative_to(ROOT)) for path in documentation if path != index and path not in linked] == []


def test_every_link_between_pages_leads_somewhere():
    broken = [
        f"{page.relative_to(ROOT)}: {text or image}"
        for page in files_of_the_repository(".md")
        for text, image in LINK.findall(text_of(page))
        if "://" not in (text or image) and not (text or image).startswith("mailto:")
        if not (page.parent / (text or image)).exists()
    ]

    assert not broken


def test_the_set_up_needs_nothing_but_pythons_standard_library():
    import sys

    foreign = set()
    for path in (ROOT / "script" / "lib").glob("*.py"):
        for node in ast.walk(ast.parse(text_of(path))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            foreign |= {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"script", "__future__"}

    assert not foreign


def test_no_test_is_skipped():
    call = re.compile(r"pytest\.(skip|importorskip|xfail)\(|mark\.(skip|skipif|xfail)\b")
    skipping = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files_of_the_repository(".py")
        if (ROOT / "tests") in path.parents and path.name != "test_repository.py"
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if call.search(line)
    ]

    assert not skipping
