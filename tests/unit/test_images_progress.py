"""What a student reads while an image is fetched."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from idl_hub.images.progress import Tally

MB = 10**6
SIZES = {"base": 900 * MB, "big": 1000 * MB, "small": 300 * MB}


def event(layer: str, status: str, current_mb: int = 0, total_mb: int = 0) -> dict[str, Any]:
    detail = {"current": current_mb * MB, "total": total_mb * MB} if total_mb else {}
    return {"id": layer, "status": status, "progressDetail": detail}


def tally_of(*events: tuple[float, dict[str, Any]], sizes: dict[str, int] | None = None) -> Tally:
    tally = Tally(SIZES if sizes is None else sizes, 0)
    for at, one in events:
        tally.hear(one, at)
    return tally


BEGIN = (
    (1.0, event("sha256:abc", "Pulling from idl-hub/student")),
    (1.0, event("base", "Already exists")),
    (1.0, event("big", "Pulling fs layer")),
    (1.0, event("small", "Pulling fs layer")),
    (1.0, event("small", "Waiting")),
)


def test_it_counts_what_is_missing_and_says_how_long_that_takes() -> None:
    tally = tally_of(*BEGIN)
    assert tally.standing(1).words == "Fetching the image: 0 of 1300 MB (0 %)"
    tally.hear(event("big", "Downloading", 10, 1000), 2)
    tally.hear(event("big", "Downloading", 420, 1000), 4)
    assert tally.standing(4).words == "Fetching the image: 420 of 1300 MB (32 %)", "not measured for long enough"
    assert tally.standing(62).words == "Fetching the image: 420 of 1300 MB (32 %), about 2 minutes left"
    tally.hear(event("big", "Download complete"), 122)
    assert tally.standing(122).words == "Fetching the image: 1000 of 1300 MB (77 %), about 1 minute left"
    assert tally.standing(82).words == "Fetching the image: 1000 of 1300 MB (77 %), less than a minute left"


def test_how_long_unpacking_takes_is_measured_by_itself() -> None:
    fetched = (event("big", "Pull complete"), event("small", "Download complete"))
    tally = tally_of(*BEGIN, (2, event("big", "Downloading", 1, 1000)), *((3, one) for one in fetched))
    tally.hear(event("small", "Extracting", 30, 300), 63)
    assert tally.standing(63).words == "Unpacking the image: 1030 of 1300 MB (79 %), about 9 minutes left"


def test_it_says_that_the_image_is_unpacked_once_all_is_here() -> None:
    tally = tally_of(*BEGIN, (2, event("big", "Download complete")), (2, event("small", "Verifying Checksum")))
    assert tally.standing(2).words == "Unpacking the image: 0 of 1300 MB (0 %)"
    tally.hear(event("big", "Extracting", 500, 1000), 3)
    assert tally.standing(3).words == "Unpacking the image: 500 of 1300 MB (38 %)"
    tally.hear(event("big", "Pull complete"), 4)
    tally.hear(event("small", "Pull complete"), 4)
    standing = tally.standing(4)
    assert standing.words == "Unpacking the image: 1300 of 1300 MB (100 %)"
    assert standing.done_ratio == 1.0


def test_sizes_that_nobody_told_are_not_made_up() -> None:
    tally = tally_of(*BEGIN, (2, event("big", "Downloading", 42, 1000)), sizes={})
    assert tally.standing(9).words == "Fetching the image: 42 MB so far"
    tally.hear(event("small", "Downloading", 8, 300), 3)
    assert tally.standing(3).words == "Fetching the image: 50 of 1300 MB (4 %)"


def test_it_says_when_the_registry_does_not_answer_until_it_does() -> None:
    tally = tally_of(*BEGIN, (2, event("big", "Downloading", 130, 1000)), (3, event("big", "Retrying in 5 seconds")))
    assert tally.standing(3).words == (
        "Fetching the image: the registry does not answer, trying again; 130 of 1300 MB are here"
    )
    tally.hear(event("big", "Downloading", 1, 1000), 9)
    assert tally.standing(9).words.startswith("Fetching the image: 1 of 1300 MB")


def test_words_without_progress_do_not_count_as_progress() -> None:
    tally = tally_of(*BEGIN, (2, event("big", "Downloading", 5, 1000)))
    for status in ("Downloading", "Waiting", "Retrying in 3 seconds"):
        tally.hear(event("big", status, 5, 1000), 50)
    assert tally.moved_at == 2
    tally.hear(event("big", "Extracting", 5, 1000), 60)
    assert tally.moved_at == 60


def test_before_any_layer_is_known_it_says_that_it_asks() -> None:
    assert tally_of().standing(0).words == "Fetching the image: asking for what is missing"
    assert tally_of(BEGIN[0], BEGIN[1]).standing(1).words == "Fetching the image: asking for what is missing"


_STATUSES = (
    "Pulling fs layer", "Waiting", "Downloading", "Verifying Checksum", "Download complete", "Extracting",
    "Pull complete", "Already exists", "Retrying in 1 second", "Something new",
)  # fmt: skip


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["big", "unknown"]),
            st.sampled_from(_STATUSES),
            st.integers(0, 3000),
            st.integers(0, 3000),
        )
    )
)
def test_whatever_an_engine_tells_makes_a_line(heard: list[tuple[str, str, int, int]]) -> None:
    tally = Tally(SIZES, 0)
    for at, (layer, status, current, total) in enumerate(heard):
        tally.hear(event(layer, status, current, total), at)
        standing = tally.standing(at)
        assert standing.words
        assert 0 <= standing.done_ratio <= 1
