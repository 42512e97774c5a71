"""Search in many scripts, its filters and bounds, and the index itself: the same on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.database.migrate import downgrade, upgrade
from pipeline.errors import UsageError
from pipeline.query import search as searching
from pipeline.query import search_broad, search_hits, search_slices
from pipeline.query.batch_status import find_batch
from pipeline.query.search import find
from pipeline.query.search_query import parse_query
from pipeline.query.search_rank import Counted, what_counts
from pipeline.settings import Settings
from pipeline.store.answers import index_words
from pipeline.store.reindex import begin_reindex, not_indexed, reindex
from pipeline.store.search_terms import terms
from pipeline.supervisor.doctor import _search_index
from schemas.prompts import DESCRIBE, OCR
from tests.conftest import Archive, answer, examples, sha
from tests.running import call

DATABASES = ("sqlite", "postgresql")

ALPHABETS = [
    "abcßéŁøđÆıİ- ",
    "αβγάΣς ",
    "абвйёї ",
    "שלוםָּ ",
    "محمدَُّأةیک ",
    "कखगड़ि्ीां ",
    "กขคาิ่เ ",
    "កខគ្ាើ ",
    "年度报告a ",
    "한국어か\u3099ｶﾞ ",
]
TEXTS = st.sampled_from(ALPHABETS).flatmap(lambda alphabet: st.text(alphabet, min_size=3, max_size=25))


def found(archive: Archive, words: str, **where: Any) -> list[str]:
    """Where the pages lie, best first: `a1` is the first page of /in/a.pdf."""
    hits = find(archive.db, words, **where).hits
    return [f"{hit.source_path.removeprefix('/in/').removesuffix('.pdf')}{hit.page_number}" for hit in hits]


def test_every_script_is_found_with_its_marks_and_without(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["Große Łódź, Øre, Đà Nẵng, Æther, ısı", "हिन्दी की क़लम २०१९", "שָׁלוֹם עֲלֵיכֶם"])
    archive.file("/in/b.pdf", ["مُحَمَّدٌ رسول", "本公司２０１９年\n度报告", "ภาษาไทยง่าย", "ភាសាខ្មែរ មាន"])
    archive.file(
        "/in/c.pdf", ["An exam-\nple of twenty-\nfive soft\u00adhyphens", "대한민국의 서울", "東京タワーか\u3099"]
    )
    for words, page in {
        "grosse lodz ORE": "a1", "GROẞE đa": "a1", '"da nang" aether isi': "a1", "हिन्दी": "a2", "कलम 2019": "a2",
        "שלום": "a3", "שָׁלוֹם": "a3", "محمد": "b1", "مُحمد رسول": "b1", "年度报告": "b2", "年": "b2", '"2019 年度"': "b2",
        "ไทย": "b3", "ภาษา": "b3", "ខ្មែរ": "b4", "ភាសា មាន": "b4", "example": "c1", "five ple": "c1",
        '"example of twentyfive"': "c1", "softhyphens": "c1", "한민국": "c2", "東京タワーが": "c3", "ﾀﾜｰ": "c3",
    }.items():  # fmt: skip
        assert found(archive, words) == [page], words
    beside_by_chance = ('"ple twenty"', '"exam ple"', '"twenty fi*"', "NEAR(ple twenty, 0)")  # halves of broken words
    for words in ("हिन", "शलम", "度年", "ยไท", '"2019 度"', "国", *beside_by_chance):
        assert found(archive, words) == [], words


@examples(25)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), data=st.data())
def test_any_run_of_words_finds_its_page_in_any_script(archive: Archive, texts: list[str], data: st.DataObject) -> None:
    path = f"/in/{sha(repr(texts))}.pdf"
    if not archive.rows("SELECT 1 FROM sources WHERE path = :path", path=path):
        archive.file(path, texts)
    for number, text in enumerate(texts, 1):
        parts = text.split()
        start = data.draw(st.integers(0, max(len(parts) - 1, 0)))
        run = " ".join(parts[start : data.draw(st.integers(start + 1, len(parts) + 1))])
        if any(character.isalpha() for character in run):
            hits = find(archive.db, f'"{run}"', limit=10_000).hits
            assert (path, number) in [(hit.source_path, hit.page_number) for hit in hits], run


@pytest.fixture
def filtered(archive: Archive) -> Archive:
    archive.batch("one", prompts=[OCR, DESCRIBE])
    for name, batch, confidence in (("x/a", "one", 0.9), ("x/y/b", "one", 0.5), ("xz/c", "two", 0.2)):
        pages = archive.ingest(archive.see(f"/in/{name}.pdf", batch=batch) or 0, [name])
        archive.read(
            pages[0], lambda prompt, confidence=confidence: answer(f"tide {prompt.name}", confidence=confidence)
        )
    return archive


def test_the_members_of_an_archive_are_found_by_its_path(archive: Archive) -> None:
    for path in ("/in/a.zip!/x/b.pdf", "/in/a.zip!/c.tar!/d.pdf", "/in/a.zipped/e.pdf", "/in/a.pdf"):
        archive.file(path, ["tide"])
    for folder in ("/in/a.zip", "/in/a.zip/", "a.zip", "in/a.zip", "/in/a.zip!"):
        assert sorted(found(archive, "tide", folder=folder)) == ["a.zip!/c.tar!/d1", "a.zip!/x/b1"], folder
    assert found(archive, "tide", folder="c.tar") == ["a.zip!/c.tar!/d1"]
    assert found(archive, "tide", folder="/in/a") == [] == found(archive, "tide", folder="a.pdf")


@pytest.mark.parametrize("few", [0, 20_000])
def test_filters_choose_whichever_way_pages_are_found(
    filtered: Archive, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_hits, "_FEW", few)

    def paths(**where: Any) -> str:
        return "".join(sorted(place[-2] for place in found(filtered, "tide", **where)))

    one = find_batch(filtered.db, "one")
    now = datetime.now(UTC)
    assert paths() == "aabbc" and paths(prompt="ocr") == "abc" and paths(prompt="describe") == "ab"
    assert paths(folder="/in/x") == "aabb" == paths(folder="/in/x/") == paths(batch=one)
    assert paths(folder="x/y") == "bb" == paths(folder="y") and paths(folder="/y") == "" == paths(folder="b.pdf")
    assert paths(folder="/in/x", prompt="ocr", max_confidence=0.6) == "b" == paths(batch=one, folder="y", prompt="ocr")
    assert paths(min_confidence=0.5, prompt="ocr") == "ab" and paths(max_confidence=0.2) == "c"
    assert paths(since=now - timedelta(hours=1)) == "aabbc" and paths(until=now - timedelta(hours=1)) == ""
    assert paths(since=now + timedelta(hours=1), batch=one) == "" and paths(until=now + timedelta(hours=1)) == "aabbc"


def test_days_choose_answers_by_the_time_they_were_read(archive: Archive) -> None:
    archive.file("/in/a.pdf", [f"tide {number}" for number in range(9)])
    first = datetime(2026, 1, 1, tzinfo=UTC)
    for number, days in enumerate([0, 0, 3, 5, 5, 4, 9, 12, 20], 1):  # the sixth by a clock that was late
        moment = first + timedelta(days=days)
        stored = moment if archive.db.dialect == "postgresql" else f"{moment:%Y-%m-%d %H:%M:%S.%f}"
        archive.execute("UPDATE answer_versions SET created_at = :moment WHERE id = :id", moment=stored, id=number)
    archive.execute("DELETE FROM page_search WHERE rowid = 4")

    def pages(since: int, until: int) -> str:
        moments = {"since": first + timedelta(days=since), "until": first + timedelta(days=until)}
        return "".join(sorted(place[1] for place in found(archive, "tide", **moments)))

    assert pages(-9, 99) == "12356789" and pages(-9, 0) == "" == pages(21, 30)
    assert pages(0, 1) == "12" and pages(4, 5) == "6" and pages(5, 10) == "57" and pages(3, 6) == "356"
    assert pages(12, 20) == "8" and pages(12, 21) == "89"
    with pytest.raises(UsageError, match="the folder to search in is empty"):
        find(archive.db, "tide", folder=" ")


@pytest.mark.only("sqlite")
def test_filters_that_nothing_ever_passes_are_told(archive: Archive) -> None:
    day = datetime(2026, 1, 31, tzinfo=UTC)
    for until in (day, day - timedelta(days=9)):
        with pytest.raises(UsageError, match=r"the span is empty: .* since 2026-01-31 00:00 and before 2026-01-.*swap"):
            find(archive.db, "tide", since=day, until=until)
    with pytest.raises(UsageError, match=r"no confidence is at least 0\.8 and at most 0\.6; swap"):
        find(archive.db, "tide", min_confidence=0.8, max_confidence=0.6)
    with pytest.raises(UsageError, match="nan is no confidence"):
        find(archive.db, "tide", min_confidence=float("nan"))
    assert not find(
        archive.db, "tide", since=day, until=day + timedelta(days=1), min_confidence=1, max_confidence=1
    ).hits


def test_many_hits_are_bounded_and_the_latest_are_ranked(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "_MOST_RANKED", 4)
    monkeypatch.setattr(search_hits, "_AT_ONCE", 2)
    archive.file("/in/a.pdf", ["whale gull", *(f"gull tide {number}" for number in range(8))])
    for where in ({}, {"folder": "/in"}, {"batch": find_batch(archive.db)}):
        few, all_of_them = (find(archive.db, "gull", limit=limit, **where) for limit in (2, 9))  # type: ignore[arg-type]
        assert (len(few.hits), few.total, few.is_more) == (2, 4, True)
        assert (len(all_of_them.hits), all_of_them.total, all_of_them.is_more) == (9, 9, False)
        rare = find(archive.db, "tide OR whale", limit=2, **where)  # type: ignore[arg-type]
        assert rare.hits[0].page_number == 1 and rare.is_more and rare.total == 5
    if archive.db.dialect == "sqlite":
        assert sorted(found(archive, "gull", limit=4)) == ["a6", "a7", "a8", "a9"]


def test_both_databases_put_pages_in_one_order(archive: Archive) -> None:
    archive.file("/in/a.pdf", ["tide and gull", "gull tide gull", "the tide, the gull, the tide tide", "gull " * 9])
    assert found(archive, "gull tide") == ["a2", "a1", "a3"]
    assert found(archive, "gull") == ["a4", "a2", "a1", "a3"]
    assert found(archive, "tid* OR the") == ["a3", "a1", "a2"]


@pytest.mark.only("postgresql")
def test_only_what_counts_leaves_the_server_and_ranks_alike(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.file(
        "/in/a.pdf", ["tide and gull", "gull 年年年 度", "the 年度, the gull", "gull " * 300, "年度报告 tide 年"]
    )
    for words in (
        "gull",
        "gull tide",
        '"gull tide" OR 年度',
        "年度报告 OR and",
        "gull NOT the",
        "年",
        "年 OR 度 OR tide",
    ):
        query, sizes, ranks = parse_query(words), [], []
        for counted in (what_counts(query), Counted()):
            with archive.db.looking() as look:
                rows, _ = search_hits.hits(look, query, search_hits.Among(), 9, enough=9, counted=counted)
            sizes.append(sum(len(row.terms) for row in rows))
            monkeypatch.setattr(searching, "what_counts", lambda _, counted=counted: counted)
            ranks.append([(hit.page_number, hit.score) for hit in find(archive.db, words).hits])
        assert sizes[0] < sizes[1] and ranks[0] == ranks[1], words
    assert what_counts(parse_query("gull OR tid* OR 年")) == Counted(None, ())


@pytest.mark.only("postgresql")
def test_a_phrase_of_common_words_is_looked_for_among_the_latest_until_there_are_enough(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.file("/in/a.pdf", ["tide gull gull", *("gull tide", "gull and tide") * 5, "gull 年度报告 tide"])
    whole = find(archive.db, '"gull tide"')
    assert (whole.total, whole.is_more) == (5, False)
    for name, number in {"_MANY": 0, "_SLICE": 2, "_HOLDING": 0}.items():
        monkeypatch.setattr(search_slices, name, number)
    for where in ({}, {"folder": "/in"}, {"batch": find_batch(archive.db)}):
        few, all_of_them = (find(archive.db, '"gull tide"', limit=limit, **where) for limit in (1, 9))  # type: ignore[arg-type]
        assert (few.total, few.is_more, few.hits[0].page_number) == (2, True, 8)
        assert [hit.page_number for hit in all_of_them.hits] == [2, 4, 6, 8, 10] and not all_of_them.is_more
    assert sorted(found(archive, "NEAR(tide gull, 0)", limit=9)) == ["a1", "a10", "a2", "a4", "a6", "a8"]
    assert found(archive, "年度报告 OR tides") == ["a12"] and found(archive, '"gull gull gull"') == []


@pytest.mark.only("postgresql")
def test_files_of_a_folder_are_looked_up_where_they_are_few(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.file("/in/letters/a.pdf", ["tide"])
    archive.file("/in/letters/1913/b.pdf", ["tide", "tide"])
    archive.file("/in/newsletters/c.pdf", ["tide"])
    for most, are_looked_up in ((5_000, True), (2, True), (1, False)):
        monkeypatch.setattr(search_hits, "_FILES", most)
        with archive.db.looking() as look:
            test, values = search_hits.Among(folder="letters").conditions(look, "f.rowid")
        assert ("strpos" not in test and len(values["files"]) == 2) if are_looked_up else "strpos" in test
        assert sorted(found(archive, "tide", folder="letters")) == ["letters/1913/b1", "letters/1913/b2", "letters/a1"]
    assert found(archive, "tide", folder="nowhere/at/all") == []


LONG = " ".join(["tide", *(f"w{number}" for number in range(16_381)), "tide gull tide gull end end"])


@pytest.mark.only("postgresql")
@pytest.mark.parametrize(
    "text", ["", "net income, NET é", "年度报告 2019 年\n度", "exam-\nple exam", "tide " * 300, LONG]
)
def test_a_vector_holds_each_word_at_its_places(archive: Archive, text: str) -> None:
    placed, aside = terms(text)
    expected: dict[str, set[int]] = {}
    for place, word in [*enumerate(placed, 1), *((16_383, word) for word in aside)]:
        expected.setdefault(word, set()).add(min(place, 16_383))  # the last that PostgreSQL knows
    with archive.db.write() as connection:
        index_words(connection, [(1, text), (2, "another")])
    with archive.db.looking() as look:
        stored = dict(look.rows("SELECT lexeme, positions FROM page_search, unnest(terms) WHERE rowid = 1"))
        another = look.value("SELECT terms::text FROM page_search WHERE rowid = 2")
    assert stored == {word: sorted(places)[:256] for word, places in expected.items()}
    assert another == "'another':1"


def emptied(archive: Archive) -> Iterator[int]:
    archive.execute("DELETE FROM page_search")
    begin_reindex(archive.db)
    return reindex(archive.db)


def test_the_index_is_made_anew_piece_by_piece(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.reindex._PIECE", 2)
    archive.file("/in/a.pdf", ["one gull", "two gull", "three gull", "four gull", "five gull"])
    assert next(emptied(archive)) == 2 and not_indexed(archive.db) == 3
    begun = find(archive.db, "gull")
    assert (begun.total, begun.not_indexed) == (2, 3)
    archive.file("/in/b.pdf", ["six gull"])
    begin_reindex(archive.db)  # goes on, and does not begin again
    assert list(reindex(archive.db)) == [2, 1] and not_indexed(archive.db) == 0
    assert find(archive.db, "gull").total == 6 == archive.scalar("SELECT count(*) FROM page_search")
    archive.execute("INSERT INTO page_search (rowid, terms) VALUES (6000, 'gull')")
    begin_reindex(archive.db)
    assert sum(reindex(archive.db)) == 6 and find(archive.db, "gull").total == 6


def test_an_older_archive_is_indexed_anew_by_its_upgrade(archive: Archive, settings: Settings) -> None:
    archive.file("/in/a.pdf", ["हिन्दी words", "ﬁve words"])
    downgrade(archive.db, "0009")
    upgrade(archive.db)
    assert find(archive.db, "gull").not_indexed == not_indexed(archive.db) == 2
    (check,) = _search_index(settings)
    assert check.fact.startswith("2 answers are not in this index of words yet") and check.state == "absent"
    assert sum(reindex(archive.db)) == 2 and _search_index(settings) == []
    assert found(archive, "हिन्दी") == ["a1"] and found(archive, "words") == ["a2", "a1"]


@pytest.mark.only("sqlite")
def test_the_command_takes_filters_and_makes_the_index_anew(filtered: Archive, settings: Settings) -> None:
    home = settings.home
    near = call("search", "tide", "--folder", "x/y", "--prompt", "ocr", "--since", "2020-01-01", "--home", home)
    assert near.stdout.startswith("/in/x/y/b.pdf:1\n") and near.stderr == "1 hit\n"
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert call("search", "tide", "--until", today, "--min-confidence", "0.6", "--home", home).stderr == "2 hits\n"
    bad = call("search", "tide", "--since", "yesterday", "--home", home)
    assert bad.returncode == 2 and "'yesterday' is no date; write it as 2026-01-31" in bad.stderr
    assert call("search", "tide", "--max-confidence", "7", "--home", home).returncode == 2
    filtered.execute("DELETE FROM page_search")
    filtered.execute("UPDATE search_index SET until = 5")
    nothing = call("search", "tide", "--home", home)
    assert nothing.returncode == 1 and "5 older answers are not in this index of words yet" in nothing.stderr
    assert call("db", "upgrade", "--home", home).returncode == 0
    assert call("search", "tide", "--home", home).stderr == "5 hits\n"
    again = call("db", "reindex", "--home", home)
    assert again.stdout == f"{home / 'pagepack.db'}: 5 answers are in the index of words\n"


@pytest.mark.only("sqlite")
def test_beginnings_of_very_many_words_find_the_same_pages(filtered: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    filtered.file("/in/d.pdf", ["the tidal mill", "stidal", "报告年度 tidal", "mill tid"])
    queries = ["t*", "ti* mi*", '"the t"*', "报*", '"报告 年"', "mill t*", "o* t*"]
    where: list[dict[str, Any]] = [{}, {"folder": "/in"}, {"batch": find_batch(filtered.db, "two")}]
    before = [sorted(found(filtered, query, **more)) for query in queries for more in where]
    assert [len(pages) for pages in before[::3]] == [8, 2, 1, 1, 1, 2, 3]
    monkeypatch.setattr(search_broad, "_BROAD", -1)
    assert [sorted(found(filtered, query, **more)) for query in queries for more in where] == before
    with pytest.raises(UsageError, match=r"cannot search for t\* within OR, NOT or NEAR: too many words begin so;"):
        find(filtered.db, "mill NOT t*")
    assert find(filtered.db, "mill OR t*").total == 8
