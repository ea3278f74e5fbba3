"""A student brings back what they deleted, in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from browser.person import Person
from hubs import ROOT, Hub
from playwright.sync_api import Locator, Page, expect
from snapshot_homes import World, world

AXE = ROOT / ".state" / "pages" / "node_modules" / "axe-core" / "axe.min.js"
PREFIX = "/services/web/"


@dataclass
class Homes:
    """A hub whose students have homes with earlier versions."""

    hub: Hub
    world: World

    def open(self, person: Person) -> Page:
        """Sign a person in and open the page, as the hub's home page leads there."""
        person.log_in()
        expect(person.page.get_by_label("Password")).to_have_count(0)
        person.page.goto(f"{self.hub.url}/hub/home")
        person.page.get_by_role("main").get_by_role("link", name="Earlier versions").click()
        person.page.wait_for_url(f"{self.hub.url}{PREFIX}versions")
        return person.page


def fill(here: World, account: str) -> None:
    home = here.home(account)
    for name, text in {
        "First steps.ipynb": "{}",
        "week1/notebook.ipynb": "a week's work",
        "week1/data/train.csv": "1,2,3",
        "week1/plot <b>bold.txt": "plot",
        "README.md": "read me",
        ".bashrc": "alias",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homes]:
    folder = tmp_path_factory.mktemp("earlier")
    here = world(folder)
    settings = {"homes": here.settings.homes.model_dump(mode="json")}
    with Hub(folder / "hub", gpus=1, students=12, settings=settings) as hub:
        yield Homes(hub, here)
        print(hub.log_tail())


@pytest.fixture
def student(homes: Homes, visit: Callable[..., Person], request: pytest.FixtureRequest) -> Callable[..., Page]:
    """Open the page as a student with copies of three hours, newest unlike the home."""

    def open_(name: str, **how: object) -> Page:
        fill(homes.world, name)
        homes.world.now = datetime.now(UTC) - timedelta(hours=3)
        homes.world.take(name)
        (homes.world.home(name) / "README.md").write_text("read me again")
        homes.world.take(name, later=1)
        (homes.world.home(name) / "later.txt").write_text("later")
        homes.world.take(name, later=1.5)
        return homes.open(visit(homes.hub, name, **how))

    return open_


def barriers(page: Page) -> list[str]:
    """Return what axe-core finds serious or critical."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def entries(page: Page) -> Locator:
    return page.locator("#entries li")


def bring_back(page: Page, path: str) -> None:
    page.get_by_role("button", name=f"Bring back {path}", exact=True).click()


def test_a_notebook_that_was_deleted_is_back_with_two_clicks(homes: Homes, student: Callable[..., Page]) -> None:
    page = student("student1")
    notebook = homes.world.home("student1") / "week1" / "notebook.ipynb"
    expect(page.get_by_role("status").filter(has_text=re.compile("Last looked at (today|yesterday)"))).to_be_visible()
    expect(page.get_by_text(re.compile("Nothing that you had .* is gone or changed"))).to_be_visible()
    notebook.unlink()
    page.reload()
    expect(entries(page)).to_have_text([re.compile(r"week1/notebook.ipynb\s+gone · 13 bytes")])
    bring_back(page, "week1/notebook.ipynb")
    expect(page.get_by_text("notebook.ipynb is back in week1.")).to_be_visible()
    expect(entries(page)).to_have_count(0)
    assert notebook.read_text() == "a week's work"
    assert notebook.stat().st_uid == homes.world.snapshots.owner.uid


def test_an_older_version_comes_beside_the_file_of_today(homes: Homes, student: Callable[..., Page]) -> None:
    page = student("student2")
    expect(page.get_by_role("button", name="Newer", exact=True)).to_be_disabled()
    for _ in range(2):
        page.get_by_role("button", name="Older", exact=True).click()
    expect(page.get_by_role("button", name="Older", exact=True)).to_be_disabled()
    expect(entries(page)).to_have_text([re.compile(r"README.md\s+changed since")])
    with page.expect_download() as download:
        page.get_by_role("link", name="Download README.md").click()
    assert download.value.suggested_filename == "README.md"
    assert Path(download.value.path()).read_text() == "read me"
    bring_back(page, "README.md")
    expect(page.get_by_text(re.compile("The earlier version is beside the one of today, in your home"))).to_be_visible()
    found = {path.name: path.read_text() for path in homes.world.home("student2").glob("README*")}
    assert found.pop("README.md") == "read me again"
    ((name, text),) = found.items()
    assert re.fullmatch(r"README \(from \w+ \d\d\.\d\d\)\.md", name)
    assert text == "read me"


def test_folders_are_looked_through_and_brought_back_whole(homes: Homes, student: Callable[..., Page]) -> None:
    page = student("student3")
    home = homes.world.home("student3")
    (home / "week1").rename(homes.world.folder / "aside3")
    page.get_by_role("button", name="All files").click()
    expect(entries(page).first).to_have_text(re.compile(r"week1\s+gone · folder"))
    expect(page.get_by_text(".bashrc")).to_have_count(0)
    page.get_by_role("checkbox", name="Show hidden files, too").check()
    expect(page.get_by_text(".bashrc")).to_be_visible()
    page.get_by_role("button", name="week1", exact=True).click()
    expect(entries(page)).to_have_count(3)
    expect(entries(page).nth(1)).to_contain_text("notebook.ipynb")
    page.get_by_role("button", name="Home", exact=True).click()
    bring_back(page, "week1")
    expect(page.get_by_text("week1 is back in your home.")).to_be_visible()
    assert (home / "week1" / "data" / "train.csv").read_text() == "1,2,3"


def test_all_that_is_gone_comes_back_at_once(homes: Homes, student: Callable[..., Page]) -> None:
    page = student("student4")
    home = homes.world.home("student4")
    (home / "week1").rename(homes.world.folder / "aside4")
    (home / "README.md").unlink()
    (home / "First steps.ipynb").write_text("changed, not gone")
    page.reload()
    expect(entries(page)).to_have_count(3)
    page.get_by_role("button", name="Bring back all 2 that are gone").click()
    expect(page.get_by_text("All 2 are back.")).to_be_visible()
    assert (home / "week1" / "notebook.ipynb").exists()
    assert (home / "README.md").read_text() == "read me again"
    assert (home / "First steps.ipynb").read_text() == "changed, not gone"


def test_what_cannot_be_brought_back_is_told_and_changes_nothing(homes: Homes, student: Callable[..., Page]) -> None:
    page = student("student5")
    home = homes.world.home("student5")
    (home / "week1").rename(home / "aside")
    (home / "week1").symlink_to("aside")
    page.get_by_role("button", name="All files").click()
    page.get_by_role("button", name="week1", exact=True).click()
    bring_back(page, "week1/notebook.ipynb")
    expect(page.get_by_text("there is something else now. Nothing was changed.")).to_be_visible()
    assert sorted(path.name for path in (home / "aside").iterdir()) == sorted(
        path.name for path in homes.world.copies("student5")[-1].joinpath("week1").iterdir()
    )


def test_who_has_none_yet_is_told_when_the_next_copy_is_made(homes: Homes, visit: Callable[..., Person]) -> None:
    homes.world.home("student6")
    fill(homes.world, "student7")
    homes.world.now = datetime.now(UTC)
    homes.world.take()
    homes.world.home("student8")
    page = homes.open(visit(homes.hub, "student8"))
    expect(
        page.get_by_text(re.compile(r"^No earlier versions yet; the next copy is made at \d\d:00\.$"))
    ).to_be_visible()
    expect(page.get_by_label("Your home as it was")).to_be_hidden()


def test_when_no_copies_are_made_any_more_the_page_says_so(homes: Homes, visit: Callable[..., Person]) -> None:
    fill(homes.world, "student9")
    homes.world.now = datetime.now(UTC) - timedelta(days=3)
    homes.world.take("student9")
    page = homes.open(visit(homes.hub, "student9"))
    expect(page.get_by_role("alert").filter(has_text="Copies of homes should be made every hour")).to_be_visible()
    expect(page.get_by_label("Your home as it was")).to_be_visible()


@pytest.mark.parametrize(("width", "scheme", "name"), [(1280, "light", "student10"), (390, "dark", "student11")])
def test_the_page_fits_has_no_barriers_and_loads_nothing_from_elsewhere(
    homes: Homes, student: Callable[..., Page], width: int, scheme: str, name: str
) -> None:
    page = student(name, color_scheme=scheme)
    long_name = homes.world.home(name) / ("long-name-" * 20)
    long_name.write_text("long")
    homes.world.take(name, later=0.25)
    long_name.unlink()
    page.set_viewport_size({"width": width, "height": 900})
    addresses: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.reload()
    expect(entries(page).filter(has_text="long-name")).to_be_visible()
    assert page.evaluate("document.documentElement.dataset.bsTheme") == scheme
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert barriers(page) == []
    page.get_by_role("button", name="All files").click()
    page.get_by_role("button", name="week1", exact=True).click()
    expect(page.get_by_role("navigation", name="Folder")).to_contain_text("week1")
    assert barriers(page) == []
    assert faults == []
    assert [address for address in addresses if not address.startswith(homes.hub.url)] == []


def test_a_notebook_deleted_in_jupyterlab_is_back_there_within_a_minute(
    homes: Homes, visit: Callable[..., Person]
) -> None:
    hub, here = homes.hub, homes.world
    student = visit(hub, "student12")
    student.log_in()
    student.choose("Without a GPU")
    student.wait_for_lab()
    notebook = next(here.home("student12").glob("*.ipynb"))
    written = notebook.read_bytes()
    here.now = datetime.now(UTC) - timedelta(minutes=40)
    here.take("student12")

    page = student.page
    in_lab = page.locator(".jp-DirListing-item", has_text=notebook.name)
    in_lab.click()
    page.keyboard.press("Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(in_lab).to_have_count(0)
    assert not notebook.exists()

    noticed = time.monotonic()
    page.goto(f"{hub.url}/hub/home")
    page.get_by_role("main").get_by_role("link", name="Earlier versions").click()
    expect(entries(page)).to_have_text([re.compile(rf"{notebook.name}\s+gone · ")])
    student.picture("earlier-versions")
    bring_back(page, notebook.name)
    expect(page.get_by_text(f"{notebook.name} is back in your home.")).to_be_visible()
    seconds = time.monotonic() - noticed
    print(f"back {seconds:.1f} s after it was missed")
    assert seconds < 60
    assert notebook.read_bytes() == written
    page.goto(f"{hub.url}/user/student12/lab")
    expect(in_lab).to_be_visible(timeout=30_000)
