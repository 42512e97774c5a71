"""Ingest that dies, files that do harm, messages and clocks and versions that do not fit."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from pipeline.database.revisions import head_revision
from pipeline.delivery.broker import make_app
from schemas.messages import INGEST_QUEUE, INGEST_TASK, READ_QUEUE, READ_TASK, SUBMIT_TASK
from tests import hostile
from tests.chaos.faults_workers import IN_FLIGHT
from tests.chaos.points import POINTS, prepare
from tests.chaos.world import ROOT, World


def kill_ingest(world: World) -> None:
    """Mid-document, and between the commit and the message."""
    deaths = 2
    points = list(POINTS["ingest"])
    prepare(world.folder / "points", points, deaths)
    world.variables |= {
        "PAGEPACK_INTERNAL_KILL": str(world.folder / "points"),
        "PAGEPACK_MAX_CRASHES": str(len(points) * deaths + 1),
    }
    world.open()
    world.start_hosts()
    world.draw(8, 20)
    world.submit()
    world.settle()
    left = {point: (world.folder / "points" / point).read_text() for point in points}
    world.require(set(left.values()) == {"0"}, f"not every point was met: {left}")
    world.check()


def submit_at_once(world: World) -> None:
    """The same file in one batch and in five, by ten processes; it is drawn once and read once."""
    world.open()
    world.start_hosts()
    (path,) = world.draw(1, 60)
    names = [[] if number % 2 else ["--batch", f"batch {number}"] for number in range(10)]
    started = [world.begin_pagepack("submit", path, *name) for name in names]
    for process in started:
        _, errors = process.communicate(timeout=500)
        world.require(process.returncode == 0, f"submit ended with {process.returncode}: {errors[-500:]}")
    world.settle()
    world.require(world.count("batches") == 6, f"{world.count('batches')} batches, not 6")
    world.require(world.count("pages") == 60, f"{world.count('pages')} pages, not 60")
    world.check()


def kill_submit(world: World) -> None:
    """A batch whose files are not all seen does not finish; the same command again goes on with it."""
    world.open()
    world.start_hosts()
    world.draw(60, 2)
    for _ in range(4):
        submitting = world.begin_pagepack("submit", world.docs)
        world.pause(0.6, 1.8)
        os.killpg(submitting.pid, signal.SIGKILL)
        submitting.communicate()
    early = world.count("batches", "state = 'finished'") and world.count("batch_sources") < len(world.expected)
    world.require(not early, "the batch finished before all of its files were seen")
    world.submit()
    world.settle()
    world.require(world.count("batches") == 1, "a second batch")
    world.check()


def hostile_files(world: World) -> None:
    """They fail one by one, with their reasons, beside files that are read; what is said cannot be stored as it is."""
    world.variables["PAGEPACK_RASTERIZE_SECONDS"] = "2"
    world.open()
    world.start_hosts(engine="OddTextEngine")
    good = world.draw(4, 20)
    bad = world.docs
    hostile.nested_forms(bad / "forms.pdf")
    hostile.huge_bitmap_in_pdf(bad / "bitmap.pdf")
    hostile.lost_contents(bad / "contents.pdf")
    hostile.pages_of(bad / "sizes.pdf", (14_400, 14_400), (200, 200), (3, 14_000))
    hostile.encrypted(bad / "encrypted.pdf")
    hostile.png_claiming(bad / "claim.png", 50_000, 50_000)
    (bad / "cut.pdf").write_bytes(good[0].read_bytes()[:700])
    (bad / "empty.pdf").touch()
    (bad / "noise.pdf").write_bytes(b"%PDF-1.7\n" + world.random.randbytes(10_000))
    (bad / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + world.random.randbytes(10_000))
    os.mkfifo(bad / "pipe.pdf")
    shutil.copy(good[0], os.fsencode(bad) + b"/\xff\xfe\n name.pdf")
    world.submit()
    world.settle()
    ((seen,),) = world.database.rows("SELECT files_seen FROM batch_summary")
    world.explained = 2  # equal pages of one file, which two threads may read at once
    world.require(seen == len(os.listdir(bad)), f"{seen} files seen of {len(os.listdir(bad))}")
    world.check()


def jump_clock(world: World) -> None:
    """Of the one host on SQLite, which is the database's clock; on PostgreSQL of both, which are not, one way each.

    Files are submitted on the first of them in each hour.
    """
    world.has_clocks = True
    world.open()
    world.start_hosts()
    world.draw(6, 40)
    world.submit()
    for seconds in (3600, 0, -3600):
        world.pause(0.7, 2.0)
        (world.folder / "clock-h0").write_text(str(seconds))
        (world.folder / "clock-h1").write_text(str(-seconds))
        world.draw(1, 10)
        world.submit()
        world.broker.client().flushall()  # so that messages, too, must be enqueued by what the clock says
        if world.kind == "sqlite":
            world.explained += 2 * (IN_FLIGHT + 1)  # their leases seem to have run out
    world.settle()
    world.check(clock_is_true=False)


def odd_messages(world: World) -> None:
    """Twice, out of order, of another version, of nobody's; a worker takes none of it amiss."""
    world.open()
    world.start_hosts()
    world.draw(5, 40)
    world.submit()
    world.wait(lambda: world.done() > 0)
    pages = [page for (page,) in world.database.rows("SELECT id FROM pages")]
    world.random.shuffle(pages)
    with world.network.entered("hub"):
        app = make_app(world.broker_url)
        for page in pages + pages[:50]:
            app.send_task(READ_TASK, kwargs={"version": 1, "page_id": page})
        for odd in (
            {"version": 0, "page_id": pages[0]},
            {"version": 2, "page_id": pages[0]},
            {"version": 1, "page_id": str(pages[0])},
            {"version": 1},
            {"version": 1, "page_id": -1},
            {"version": 1, "page_id": 2**80},
            {"page_id": pages[0], "hurry": True},
            {},
        ):
            app.send_task(READ_TASK, kwargs=odd)
            app.send_task(INGEST_TASK, kwargs={f"document_{key}": value for key, value in odd.items()})
            app.send_task(INGEST_TASK, kwargs={key.replace("page", "document"): value for key, value in odd.items()})
            app.send_task(SUBMIT_TASK, kwargs=odd)
        app.send_task(SUBMIT_TASK, kwargs={"version": 0, "location": str(world.docs), "batch": "of yesterday"})
        app.send_task(READ_TASK, args=[1, 2, 3])
        app.send_task("somebody.elses_task", args=[1], queue=READ_QUEUE)
        app.close()
    client = world.broker.client()
    for queue in (READ_QUEUE, INGEST_QUEUE):
        for raw in (b"", b"no JSON", b"[]", b"{}", b'{"body": "no base64", "properties": {}}', b"\xff\xfe"):
            client.lpush(queue, raw)
    world.draw(2, 20)
    world.submit()
    world.settle()
    world.check()


def mix_versions(world: World) -> None:
    """A migration comes while version N works; N + 1 goes on, and N either works beside it or says why it does not."""
    world.open()
    world.start_hosts(1)
    world.draw(5, 40)
    world.submit()
    world.wait(lambda: world.done() > 10)
    root = _next_version(world.folder / "next")
    old = world.hosts["h0"]
    if world.kind == "sqlite":
        world.explained += IN_FLIGHT
        old.end(signal.SIGKILL)
        world.restart_host("h0", root=root)
        world.wait(lambda: world.database.rows("SELECT version_num FROM alembic_version") == [("9000",)])
    else:
        world.pagepack("db", "upgrade", root=root)
        world.start_host("h1", root=root)
        world.pause(0.0, 2.0)
        world.explained += IN_FLIGHT
        for child in old.children("read"):  # it cannot be started again: the schema is newer than its code
            child.kill()
    world.draw(2, 20)
    world.submit(root=root)
    world.settle()
    world.check()
    if world.kind == "sqlite":
        world.hosts["h0"].end()
        old = world.restart_host("h0")
    world.wait(lambda: old.process.poll() is not None)
    said = old.log.read_text()
    world.require(old.process.returncode == 2 and "newer pagepack" in said, f"N ended with {old.process.returncode}")


def _next_version(folder: Path) -> Path:
    """This program with one more revision, which adds a column and an index to the hot table."""
    for name in ("schemas", "pipeline", "workers", "migrations", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "migrations" / "versions" / "9000_next.py").write_text(
        '"""Add a column."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
        f'revision = "9000"\ndown_revision = "{head_revision()}"\nbranch_labels = None\ndepends_on = None\n\n\n'
        "def upgrade() -> None:\n"
        '    op.add_column("page_tasks", sa.Column("note", sa.Text(), nullable=True))\n'
        '    op.create_index("ix_page_tasks_note", "page_tasks", ["note"])\n\n\n'
        "def downgrade() -> None:\n"
        '    op.drop_index("ix_page_tasks_note")\n    op.drop_column("page_tasks", "note")\n'
    )
    return folder
