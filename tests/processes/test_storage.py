"""Files behind URLs, on a real S3 server: page images, and what is found there to be read."""

from __future__ import annotations

import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.blobs import storage as storage_module
from pipeline.blobs.page_images import ImageStore, RemoteImageStore, open_images
from pipeline.blobs.png import encode
from pipeline.blobs.storage import Storage
from pipeline.documents.discover import discover
from pipeline.documents.files import Found
from pipeline.documents.identify import identify
from pipeline.errors import DiskFull, DocumentRejected, PageFailed, PagepackError, StorageGone, UsageError, redacted
from pipeline.settings import Settings, load_settings
from pipeline.urls import local_path
from tests.s3 import Bucket, bucket, s3_endpoint
from tests.unit.test_discover import PDF
from tests.unit.test_images import picture

pytestmark = pytest.mark.xdist_group("storage")  # one test process pays for what they share

__all__ = ["bucket", "s3_endpoint"]


def store(url: str) -> ImageStore:
    return open_images(Settings(images_url=url))


@pytest.fixture(params=["s3", "file", "memory"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    if request.param == "s3":
        return store(request.getfixturevalue("bucket").url + "/page images")
    return store(f"file://{tmp_path}/a%20b" if request.param == "file" else f"memory://{tmp_path.name}/images")


def test_images_behave_the_same_wherever_they_lie(images: ImageStore) -> None:
    data = encode(picture(1))
    images.check()
    image_hash = images.put(data)
    assert images.put(data, image_hash) == image_hash and images.get(image_hash) == data
    assert (images.pixels(image_hash) == np.asarray(picture(1))).all()
    images.delete(image_hash)
    images.delete(image_hash)
    with pytest.raises(PageFailed) as caught:
        images.pixels(image_hash)
    assert caught.value.cause == "image-missing"
    images.put(encode(picture(2)), image_hash)
    with pytest.raises(PageFailed) as caught:
        images.pixels(image_hash)
    assert caught.value.cause == "image-damaged"


def test_a_file_url_is_the_plain_local_store(tmp_path: Path) -> None:
    assert store(f"file://{tmp_path}/a%20b").place == f"{tmp_path}/a b"
    assert not isinstance(store(str(tmp_path)), RemoteImageStore)
    assert open_images(Settings(home=tmp_path)).root == tmp_path / "images"
    with pytest.raises(UsageError, match="three slashes"):
        local_path("file://host/folder")


def test_an_image_that_is_there_is_not_sent_again(bucket: Bucket) -> None:
    images, data = store(f"{bucket.url}/images"), encode(picture(1))
    image_hash = images.put(data)
    bucket.put(f"images/{image_hash[:2]}/{image_hash}.png", b"not touched")
    images.put(data)
    assert images.get(image_hash) == b"not touched"


def test_many_threads_put_and_read_at_once(bucket: Bucket) -> None:
    images = store(f"{bucket.url}/images")
    data = [encode(picture(seed)) for seed in range(8)]
    with ThreadPoolExecutor(32) as pool:
        hashes = list(pool.map(images.put, data * 8))
        assert all(pool.map(lambda one: images.pixels(one).shape == (48, 64, 3), hashes))
    assert len(bucket.keys("images/")) == 8


def failure(url: str) -> PagepackError:
    with pytest.raises(PagepackError) as caught:
        store(url).check()
    assert "secret" not in str(caught.value)
    return caught.value


def test_a_wrong_url_is_named_with_the_way_out(bucket: Bucket) -> None:
    for url, text in (
        (
            "s3://no-such-bucket/x",
            "the bucket of s3://no-such-bucket/x .PAGEPACK_IMAGES_URL. does not exist; create it",
        ),
        ("s3://k:se/cret-secret@no-such-bucket/x", r"the bucket of s3://k:\*\*\*@no-such"),
        ("s3://", "a URL names a bucket"),
        ("s3://Bad_Bucket!/x", "Invalid bucket name"),
        ("zip://a::s3://b/c", "no chain"),
        ("foo://bucket/x", "Protocol not known: foo"),
        ("gs://bucket/x", "install gcsfs"),
    ):
        error = failure(url)
        assert isinstance(error, UsageError), url
        with pytest.raises(UsageError, match=text):
            raise error


def test_absent_credentials_and_silent_endpoints_are_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket.opened_anew(), monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        began = time.monotonic()
        error = failure("s3://user:secret@some-bucket/x")
        assert isinstance(error, StorageGone) and error.retryable and "127.0.0.1:9" in str(error)
        assert time.monotonic() - began < 60
    with bucket.opened_anew(), monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        patch.setenv("HOME", "/nonexistent")
        error = failure(f"{bucket.url}/x")
        assert isinstance(error, UsageError) and "AWS_ACCESS_KEY_ID" in str(error)


def test_wrong_credentials_are_named(bucket: Bucket) -> None:
    def ask_for_credentials(after: str) -> None:
        url = f"{bucket.variables['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        request = urllib.request.Request(url, after.encode(), {"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()

    ask_for_credentials("0")
    try:
        error = failure(f"{bucket.url}/x")
        assert isinstance(error, UsageError) and "refuses access" in str(error) and "AWS_ACCESS_KEY_ID" in str(error)
        with pytest.raises(UsageError, match="refuses access"):
            discover([bucket.url], Settings())
        with pytest.raises(DocumentRejected) as caught:
            identify(f"{bucket.url}/a.pdf")
        assert caught.value.cause == "unreadable"
        with pytest.raises(StorageGone, match="refuses access"):
            store(f"{bucket.url}/x").put(encode(picture(1)))
    finally:
        ask_for_credentials("inf")


def test_refused_access_a_full_store_and_a_missing_package_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage("memory://x")
    assert isinstance(storage._translate(PermissionError("Forbidden")), UsageError)
    assert isinstance(storage._translate(OSError(28, "No space left")), DiskFull)
    assert isinstance(storage._translate(TimeoutError()), StorageGone)
    import fsspec.core

    def without_s3fs(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", without_s3fs)
    with pytest.raises(UsageError, match=r"pip install 'pagepack\[s3\]'"):
        store("s3://bucket/x")


def test_no_text_shows_the_password_of_a_url() -> None:
    for url in ("s3://AKIA:a/b+c@bucket/x", "redis://:word@host:6379/0", "sftp://me:p%40ss@host:22/x"):
        user = url.partition("://")[2].partition(":")[0]
        assert redacted(f"cannot open {url}").startswith(f"cannot open {url.partition('://')[0]}://{user}:***@")
        assert "a/b" not in redacted(url) and "p%40" not in redacted(url) and "word" not in redacted(url)
    for url in ("s3://bucket/a:b@c.pdf", "sftp://host:22/a@b", "abfs://container@account/x", "https://h/a?b=c@d"):
        assert redacted(url) == url


def test_settings_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("keep", "until-read", "7", "0.5"):
        assert load_settings(keep_images=value).keep_images == value
    assert load_settings(keep_images="7").keep_images_days == 7 and load_settings().keep_images_days is None
    for name, value, text in (
        ("keep_images", "0", "number of days"),
        ("keep_images", "soon", "until-read"),
        ("images_url", "", "is empty"),
        ("inputs_url", "s3://a:secret@b/c", "holds a password"),
    ):
        monkeypatch.setenv(f"PAGEPACK_{name.upper()}", value)
        with pytest.raises(UsageError, match=text) as caught:
            load_settings()
        assert f"PAGEPACK_{name.upper()}" in str(caught.value) and "secret" not in str(caught.value)
        monkeypatch.delenv(f"PAGEPACK_{name.upper()}")


def found(*urls: str, **settings: str | int) -> list[Found]:
    return list(discover(urls, Settings(**settings)))  # type: ignore[arg-type]


def taken(*urls: str) -> list[str]:
    return [one.display_path.split("/", 3)[3] for one in found(*urls) if one.rejection is None]


@pytest.fixture
def filled(bucket: Bucket) -> Bucket:
    for key in ("docs/a.pdf", "docs/b c#?%20é.pdf", "docs/sub/[x].pdf", "docs/sub/deep/d.pdf", "docs2/e.pdf"):
        bucket.put(key, PDF)
    for key in ("docs/.hidden.pdf", "docs/~$a.pdf", "docs/sub/Thumbs.db", "docs/.git/x.pdf"):
        bucket.put(key, PDF)
    bucket.put("docs/", b"")
    bucket.put("docs/empty/", b"")
    return bucket


def test_a_prefix_is_a_folder_with_the_same_rules(filled: Bucket) -> None:
    url = filled.url
    inside = ["docs/a.pdf", "docs/b c#?%20é.pdf", "docs/sub/[x].pdf", "docs/sub/deep/d.pdf"]
    assert taken(f"{url}/docs") == taken(f"{url}/docs/") == inside, "docs2 is another folder"
    assert taken(url) == [*inside, "docs2/e.pdf"]
    assert taken(f"{url}/docs", f"{url}/docs/sub", f"{url}/docs/a.pdf") == inside, "each once"
    assert taken(f"{url}/docs/.hidden.pdf") == ["docs/.hidden.pdf"], "named outright, it is meant"
    for one in found(f"{url}/docs"):
        assert identify(one.path).modified_ns == one.modified_ns and identify(one.path).size_bytes == len(PDF)


def test_patterns_match_in_a_bucket_as_on_a_disk(filled: Bucket) -> None:
    url = filled.url
    assert taken(f"{url}/docs/*.pdf") == ["docs/a.pdf", "docs/b c#?%20é.pdf"]
    assert taken(f"{url}/docs/**/*.pdf") == taken(f"{url}/docs")
    assert taken(f"{url}/docs?") == taken(f"{url}/docs[2-9]/*") == ["docs2/e.pdf"], "a folder that matches is walked"
    assert taken(f"{url}/docs/sub/[x].pdf") == ["docs/sub/[x].pdf"], "a name that exists is no pattern"
    assert taken(f"{url}/*.tiff") == []


def test_what_cannot_be_taken_has_its_cause(filled: Bucket) -> None:
    filled.put("bad/zero.pdf", b"")
    filled.put("bad/notes.txt", b"a text")
    filled.put("bad/long.pdf", PDF * 2)
    causes = {one.path.rpartition("/")[2]: one.rejection for one in found(f"{filled.url}/bad", max_file_bytes=len(PDF))}
    assert {name: error and error.cause for name, error in causes.items()} == {
        "zero.pdf": "empty",
        "notes.txt": None,
        "long.pdf": "too-large",
    }
    for name, cause in (("notes.txt", "unsupported"), ("gone.pdf", "missing")):
        with pytest.raises(DocumentRejected) as caught:
            identify(f"{filled.url}/bad/{name}")
        assert caught.value.cause == cause and f"{filled.url}/bad/{name}" in str(caught.value)


def test_an_object_of_unknown_size_is_fetched_up_to_the_limit(tmp_path: Path) -> None:
    Storage("memory://limits").write("a.zip", b"PK\3\4" + bytes(1 << 20))
    assert identify("memory://limits/a.zip", settings=Settings(home=tmp_path)).size_bytes == (1 << 20) + 4
    with pytest.raises(DocumentRejected, match="raise PAGEPACK_MAX_FILE_BYTES") as caught:
        identify("memory://limits/a.zip", settings=Settings(home=tmp_path, max_file_bytes=1 << 19))
    assert caught.value.cause == "too-large"


def test_wrong_places_stop_before_anything_is_done(filled: Bucket) -> None:
    for url, text in (
        (f"{filled.url}/nothing", "no such file or folder"),
        ("s3://no-such-bucket", "does not exist"),
        ("s3://a:secret@bucket/x", "holds a password"),
    ):
        with pytest.raises(UsageError, match=text) as caught:
            discover([filled.url, url], Settings())
        assert "secret" not in str(caught.value)


def test_an_object_is_known_by_its_content_not_by_its_time(filled: Bucket) -> None:
    url = f"{filled.url}/docs/a.pdf"
    [before] = found(url)
    filled.put("docs/a.pdf", PDF)
    assert found(url) == [before]
    filled.put("docs/a.pdf", PDF[::-1])
    assert found(url)[0].modified_ns != before.modified_ns and found(url)[0].size_bytes == before.size_bytes


def test_more_objects_than_a_page_of_the_listing_are_all_seen(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "KEYS_A_PAGE", 10)
    for index in range(25):
        bucket.put(f"many/{index:05}.pdf", b"x")
    assert taken(f"{bucket.url}/many") == [f"many/{index:05}.pdf" for index in range(25)]


def test_own_stores_in_the_same_bucket_are_no_documents(filled: Bucket) -> None:
    one = found(filled.url, images_url=f"{filled.url}/docs/sub", inputs_url=f"{filled.url}/docs2")
    assert [file.path.rpartition("/")[2] for file in one] == ["a.pdf", "b c#?%20é.pdf"]


def test_other_file_systems_are_walked_too() -> None:
    storage = Storage("memory://walked")
    for key in ("b.pdf", "a/z.pdf", "a/.hidden", "c.pdf"):
        storage.write(key, PDF)
    assert [one.path for one in found("memory://walked")] == [
        f"memory://walked/{key}" for key in ("a/z.pdf", "b.pdf", "c.pdf")
    ]
    assert taken("memory://walked/a/*.pdf") == ["a/z.pdf"]
    assert identify("memory://walked/b.pdf").size_bytes == len(PDF)
