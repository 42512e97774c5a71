"""Many batches: paused, cancelled, asked for again and by the thousand, while the broker forgets."""

from __future__ import annotations

import base64
import json

from pipeline.cli.options import EXIT_DONE, EXIT_NOTHING
from pipeline.delivery.broker import make_app
from schemas.messages import INGEST_QUEUE, SUBMIT_TASK
from tests.chaos import history
from tests.chaos.faults_workers import IN_FLIGHT, kill_group
from tests.chaos.points import POINTS, prepare
from tests.chaos.world import World


def change_batches(world: World) -> None:
    """Three batches with a file in common: each but one is paused and resumed, one is cancelled and asked for again."""
    turns = 4
    world.variables["PAGEPACK_MAX_CRASHES"] = str(turns + 1)
    world.open()
    world.start_hosts(PAGEPACK_INTERNAL_PAGE_SECONDS="0.4")  # so that the long one is not over before it is cancelled
    long, short, urgent = world.draw(6, 60), world.draw(2, 20), world.draw(1, 20)
    batches = {"long": long, "short": [*short, long[0]], "urgent": [*urgent, long[1]]}
    for name, paths in batches.items():
        world.pagepack("submit", *paths, "--batch", name, "--priority", "5" if name == "urgent" else "0")
    world.wait(lambda: world.done() > 0)
    for _ in range(turns):
        name = world.random.choice(["long", "short"])
        if _state(world, name) == "running":
            world.pagepack("pause", name, codes=(EXIT_DONE, EXIT_NOTHING))  # the short one may have ended meanwhile
        if world.random.random() < 0.5:
            world.broker.client().flushall()
        elif readers := world.readers():
            world.explained += IN_FLIGHT
            kill_group(world.random.choice(readers))
        world.pause(0.0, 1.0)
        if _state(world, name) == "paused":
            world.pagepack("resume", name)
    world.explained += 2 * IN_FLIGHT  # in hand when their batch is cancelled: read, and not wanted
    world.pagepack("cancel", "long")
    world.wait(lambda: not history.what_is_open(world.database))
    world.require(_state(world, "long") == "cancelled", "what was cancelled goes on")
    for path in [*short, *urgent]:
        failed = world.count("failures", f"source_path = '{path}'")
        world.require(failed == 0, f"{failed} pages of {path}, whose batch was not cancelled, failed")
    world.pagepack("submit", *long, "--batch", "long")
    world.settle()
    world.check(reopened=True)


def ask_a_thousand_times(world: World) -> None:
    """Messages ask for batches of one page each; of every page its asker is told, whatever the broker forgets."""
    count = 1_000
    world.open()
    world.start_hosts(PAGEPACK_INTERNAL_PAGE_SECONDS="0.01")
    with world.network.entered("hub"):
        app = make_app(world.broker_url)
        for number, path in enumerate(world.draw(count, 1)):
            asked = {"location": str(path), "batch": f"batch {number}", "notify": "mine.done@mine"}
            app.send_task(SUBMIT_TASK, kwargs={"version": 1, **asked}, queue=INGEST_QUEUE)
        app.close()
    # Until a worker has taken it, a message is all that knows of what it asks for.
    world.wait(lambda: world.count("batch_sources") == count)
    told: set[str] = set()
    while history.what_is_open(world.database):
        world.pause(0.5, 2.0)
        told |= _told(world, world.random.randrange(1, 60))
        if world.random.random() < 0.5:
            world.broker.client().flushall()
    world.check()
    _wait_until_all_are_told(world, told, count)


def kill_dispatch(world: World) -> None:
    """Whoever enqueues and notifies dies in between: marked and not sent, sent and not marked, loss noted and not."""
    deaths = 2
    points = list(POINTS["host"])
    prepare(world.folder / "points", points, deaths)
    world.variables |= {
        "PAGEPACK_INTERNAL_KILL": str(world.folder / "points"),
        "PAGEPACK_MAX_CRASHES": str(len(points) * deaths + 1),
    }
    world.open()
    for number in range(2):
        world.start_host(f"h{number}")
    files = 20
    world.draw(files, 8)
    world.pagepack("submit", world.docs, "--notify", "mine.done@mine")
    died = 0

    def left() -> dict[str, str]:
        return {point: (world.folder / "points" / point).read_text() for point in points}

    def is_over() -> bool:
        nonlocal died
        for host in list(world.hosts.values()):
            if host.process.poll() is not None:
                died += 1
                world.explained += IN_FLIGHT
                world.restart_host(host.name)
        if left()["loss-noted"] != "0":
            world.broker.client().flushall()
        return set(left().values()) == {"0"} and not history.what_is_open(world.database)

    world.wait(is_over)
    world.require(died == len(points) * deaths, f"{died} hosts died")
    world.check()
    _wait_until_all_are_told(world, set(), files)


def _wait_until_all_are_told(world: World, told: set[str], count: int) -> None:
    documents = {identity for (identity,) in world.database.rows("SELECT public_id FROM documents")}
    world.require(len(documents) == count, f"{len(documents)} documents, not {count}")

    def all_told() -> bool:
        told.update(_told(world, count))
        return told == documents

    world.wait(all_told)


def _told(world: World, most: int) -> set[str]:
    """Documents of the notices that are taken from their queue."""
    told = set()
    for raw in world.broker.client().rpop("mine", most) or []:
        _, arguments, _ = json.loads(base64.b64decode(json.loads(raw)["body"]))
        told.add(arguments["document_id"])
    return told


def _state(world: World, batch: str) -> str:
    ((state,),) = world.database.rows("SELECT state FROM batches WHERE name = :name", name=batch)
    return str(state)
