"""What a student may choose, and the form that asks."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import NOW, SICK, card, server

from idl_hub.gpus.placement import Rules, standings
from idl_hub.spawners import options
from idl_hub.spawners.options import Options, OptionsError

READING = server(card(0), card(1), card(2, health=SICK), card(3, uuid=None))
STANDINGS = standings([READING], {"GPU-0": "anna"}, Rules(), NOW)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ({}, Options(1, my_packages=True)),
        ({"gpu": "one"}, Options(1, my_packages=True)),
        ({"gpu": "none"}, Options(0, my_packages=True)),
        ({"my_packages": "no"}, Options(1, my_packages=False)),
        ({"gpu": "none", "my_packages": "no", "profile": "of another hub"}, Options(0, my_packages=False)),
    ],
)
def test_stored_options_are_read_and_what_is_left_out_gets_its_default(stored: dict[str, Any], wanted: Options) -> None:
    assert options.parse(stored) == wanted


OFFERED = {"gpu": ("one", "none"), "my_packages": ("yes", "no")}
WILD = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)
VALUES = st.sampled_from(["one", "none", "yes", "no"]) | WILD


@given(st.dictionaries(st.sampled_from(["gpu", "my_packages", "other"]), VALUES))
def test_a_value_that_is_not_offered_is_refused_in_a_sentence(stored: dict[str, Any]) -> None:
    wrong = [key for key, values in OFFERED.items() if key in stored and stored[key] not in values]
    if not wrong:
        options.parse(stored)
        return
    with pytest.raises(OptionsError, match=rf"The option {wrong[0]} is .*; it may be '") as caught:
        options.parse(stored)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({"gpu": ["one"]}, {"gpu": "one"}),
        ({"gpu": ["none"], "my_packages": ["no"]}, {"gpu": "none", "my_packages": "no"}),
        ({"gpu": ["one", "none"]}, {"gpu": "none"}),
        ({"gpu": []}, {}),
        ({"image": ["evil"], "_xsrf": ["token"]}, {}),
        ({}, {}),
    ],
)
def test_of_a_form_only_what_is_offered_is_kept(fields: dict[str, list[str]], chosen: dict[str, str]) -> None:
    assert options.from_form(fields) == chosen


def test_a_form_with_a_made_up_value_is_refused() -> None:
    with pytest.raises(OptionsError, match=r"The option gpu is '8'; it may be 'one' or 'none'"):
        options.from_form({"gpu": ["8"]})


def form(simulated: bool = False, **last: str) -> str:
    return options.form(STANDINGS, simulated=simulated, last=last)


def checked(html: str) -> list[tuple[str, str]]:
    return [
        (re.findall(r'name="(\w+)"', tag)[0], re.findall(r'value="(\w+)"', tag)[0])
        for tag in re.findall(r"<input[^>]*>", html)
        if "checked" in tag
    ]


def test_the_form_says_how_many_are_free_and_what_is_out_of_order_and_why() -> None:
    html = form()
    assert "1 of 4" in html
    assert "the GPU fell off the bus" in html


def test_simulated_cards_are_called_simulated() -> None:
    assert "simulated" in form(simulated=True)
    assert "simulated" not in form()


def test_the_last_choice_is_preset() -> None:
    assert checked(form()) == [("gpu", "one")]
    assert checked(form(gpu="none", my_packages="no")) == [("gpu", "none"), ("my_packages", "no")]


def test_a_last_choice_that_is_no_longer_offered_is_not_preset() -> None:
    assert checked(form(gpu="eight")) == [("gpu", "one")]


def test_what_the_form_sends_is_what_it_offers() -> None:
    html = form()
    for name, value in re.findall(r'name="(\w+)"\s+value="(\w+)"', html):
        assert options.from_form({name: [value]}) == {name: value}


def test_nothing_read_from_a_card_becomes_markup() -> None:
    evil = card(0, name="<script>", health=type(SICK)(SICK.state, 15, "<b>broken</b>"))
    html = options.form(standings([server(evil)], {}, Rules(), NOW), simulated=False, last={"gpu": "<i>"})
    assert "<b>" not in html
    assert "<script>" not in html
    assert "&lt;b&gt;broken" in html


def test_without_any_card_there_is_still_a_form() -> None:
    assert "0 of 0" in options.form([], simulated=False, last={})
