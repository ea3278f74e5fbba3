"""What viewers of a start are told."""

from __future__ import annotations

import asyncio

from idl_hub.spawners.progress import Progress


async def told(progress: Progress) -> list[str]:
    async with asyncio.timeout(20):
        return [str(event["message"]) async for event in progress.events()]


async def test_a_late_viewer_gets_the_whole_story() -> None:
    progress = Progress()
    progress.say(5, "looking")
    progress.say(15, "found")
    progress.close()
    assert await told(progress) == ["looking", "found"]
    assert [event async for event in progress.events()][1] == {"progress": 15, "message": "found"}


async def test_every_viewer_gets_every_message_in_order_whenever_it_came() -> None:
    progress = Progress()
    viewers = []
    for number in range(20):
        viewers.append(asyncio.ensure_future(told(progress)))
        progress.say(number, str(number))
        await asyncio.sleep(0)
    progress.close()
    assert await asyncio.gather(*viewers) == [[str(number) for number in range(20)]] * 20


async def test_a_viewer_who_waits_is_woken_by_the_end() -> None:
    progress = Progress()
    viewer = asyncio.ensure_future(told(progress))
    await asyncio.sleep(0)
    progress.close()
    assert await viewer == []


async def test_a_viewer_who_leaves_does_not_disturb_the_others() -> None:
    progress = Progress()
    leaving, staying = (asyncio.ensure_future(told(progress)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    progress.say(1, "on")
    progress.close()
    assert await staying == ["on"]


async def test_a_message_said_while_a_viewer_is_slow_is_not_lost() -> None:
    progress = Progress()
    progress.say(1, "first")
    events = progress.events()
    assert (await anext(events))["message"] == "first"
    progress.say(2, "second")
    progress.close()
    assert [event["message"] async for event in events] == ["second"]


async def test_what_a_viewer_does_to_a_message_stays_with_that_viewer() -> None:
    progress = Progress()
    progress.say(1, "as it was")
    progress.close()
    async for event in progress.events():
        event["message"] = "changed"
    assert await told(progress) == ["as it was"]
