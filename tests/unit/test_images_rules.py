"""Which image is offered, which ones stay on the servers, what may go, and when an image may not be offered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from parts import opened, sqlite_url

from idl_hub.images.offers import Image, Offers, find, offers, repository_of, stay
from idl_hub.images.rollout import Supply, later, why_not
from idl_hub.images.servers import Stock, to_remove

REGISTRY = "10.0.0.1:5000"
NAME = "idl-hub/student:latest"


def image(letter: str, published_at: float, **more: float | None) -> Image:
    return replace(Image(NAME, f"sha256:{letter * 64}", {}, 0, published_at, "root"), **more)  # type: ignore[arg-type]


def letters(digests: frozenset[str]) -> str:
    return "".join(sorted(digest.removeprefix("sha256:")[0] for digest in digests))


A, B, C = (image(letter, at, offered_at=at + 0.5) for letter, at in (("a", 1.0), ("b", 2.0), ("c", 3.0)))


def test_the_last_one_offered_is_what_students_get_and_the_way_back_leads_through_the_earlier_ones() -> None:
    assert offers([A, C, B]) == [C, B, A]
    assert offers([A, B, replace(C, withdrawn_at=9)]) == [B, A]
    assert offers([replace(A, offered_at=9.0), B, C])[0].digest == A.digest, "rolled out again"
    assert offers([image("d", 4)]) == []


@pytest.mark.parametrize(
    ("images", "kept", "staying"),
    [
        ([A, B, C], 1, "bc"),
        ([A, B, C], 2, "abc"),
        ([A, B, C, image("d", 4)], 1, "bcd"),  # published since, waits to be offered
        ([A, B, image("d", 2.9), C], 1, "bc"),  # published before the offered one and never offered
        ([A, B, replace(C, withdrawn_at=9)], 1, "bc"),  # a mistaken way back costs no pull
        ([image("d", 4), image("e", 5)], 1, "de"),
        ([], 2, ""),
    ],
)
def test_the_offered_image_some_earlier_ones_and_new_ones_stay(images: list[Image], kept: int, staying: str) -> None:
    assert letters(stay(images, kept)) == staying


def test_only_old_unused_images_of_our_own_repositories_may_go() -> None:
    ours = {one.digest[7]: one.reference(REGISTRY) for one in (A, B, C)}
    unknown = f"{repository_of(REGISTRY, NAME)}@sha256:{'f' * 64}"
    foreign = f"{REGISTRY}/somebody/else@sha256:{'e' * 64}"
    stock = Stock("gpu01", frozenset({*ours.values(), unknown, foreign}), frozenset(), {})

    assert to_remove(stock, [A, B, C], REGISTRY, 1, []) == sorted([ours["a"], unknown])
    assert to_remove(replace(stock, used=frozenset(ours.values())), [A, B, C], REGISTRY, 1, []) == [unknown]
    assert to_remove(stock, [], REGISTRY, 1, []) == [], "without a name nothing is ours"
    assert foreign not in to_remove(stock, [], REGISTRY, 1, [NAME])


def test_what_stays_under_one_name_stays_though_another_name_shares_its_repository() -> None:
    other = replace(A, name="idl-hub/student:exam", offered_at=9.0)
    stock = Stock("gpu01", frozenset({A.reference(REGISTRY)}), frozenset(), {})
    assert to_remove(stock, [A, B, C], REGISTRY, 1, []) == [A.reference(REGISTRY)]
    assert to_remove(stock, [A, B, C, other], REGISTRY, 1, []) == []


def test_the_registrys_address_is_no_tag() -> None:
    assert repository_of("10.0.0.1:5000", "idl-hub/student") == "10.0.0.1:5000/idl-hub/student"
    assert repository_of("10.0.0.1:5000", "10.0.0.1:5000/idl-hub/student:1") == "10.0.0.1:5000/idl-hub/student"
    assert A.reference("10.0.0.1:5000") == f"10.0.0.1:5000/idl-hub/student@sha256:{'a' * 64}"


def test_an_image_is_found_by_the_beginning_of_its_digest_or_as_the_latest() -> None:
    also = replace(image("c", 0.5), digest="sha256:cc" + "0" * 62)
    assert find([A, C, B], "latest") is C
    assert find([A, B, C], "bbb") is B
    assert find([A, B, C], A.digest) is A
    for wanted, said in (("d", "no published image begins"), ("cc", "2 published images begin"), ("", "no published")):
        with pytest.raises(ValueError, match=said):
            find([A, B, C, also], wanted)
    with pytest.raises(ValueError, match="no image has been published yet"):
        find([], "latest")


def test_an_image_may_be_offered_when_every_server_in_service_that_answers_has_it() -> None:
    there, full = Supply("gpu01", has_it=True), Supply("gpu02", has_it=False, why="its disk is full")
    silent = Supply("gpu03", has_it=False, answers=False, why="no answer in 5 s")

    assert why_not([there], {}) == ""
    assert why_not([there, silent], {}) == ""
    assert why_not([there, full], {"gpu02": "new disk"}) == ""
    assert later([there, full, silent], {"gpu02": "new disk"}) == [
        "gpu02 (out of service: new disk)",
        "gpu03 (no answer)",
    ]
    assert why_not([there, full], {}) == "gpu02 lacks it, since its disk is full"
    assert (
        why_not([silent, full], {"gpu02": ""}) == "no server has it (gpu03: no answer in 5 s; gpu02: its disk is full)"
    )
    assert why_not([], {}) == "there are no servers"


async def test_the_table_remembers_what_was_offered_taken_back_and_published_anew(tmp_path: Path) -> None:
    times = iter(range(100))
    with opened(sqlite_url(tmp_path)) as database:
        table = Offers(database, lambda: float(next(times)))
        first, second = image("a", 0), image("b", 0)
        assert await table.publish(first)
        assert await table.publish(second)
        assert not await table.publish(first), "known, but the latest again"
        assert find(await table.of(NAME), "latest").digest == first.digest
        await table.offer(first)
        await table.offer(second)
        await table.withdraw(second)
        assert [one.digest for one in offers(await table.of(NAME))] == [first.digest]
        await table.remove(second)
        assert [one.digest for one in await table.all()] == [first.digest]
        assert await table.publish(second)
        [again] = [one for one in await table.all() if one.digest == second.digest]
        assert (again.offered_at, again.withdrawn_at) == (None, None), "it is new, not the one that was taken back"
