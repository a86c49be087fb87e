"""Downloads from a server of faults: the result is the right bytes, or an error and no file."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from helpers import fault_server as server
from scratchlm.data.download.one_file import Patience, Stopped, download_file
from scratchlm.data.download.part import RemoteFile
from scratchlm.data.download.several import download_files
from scratchlm.errors import FileFormatError

CONTENT = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HASTY = Patience(tries=4, first_wait=0.0, longest_wait=5.0, silence=0.15, sync_bytes=90_000)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def remote(state: server.Server, folder: Path, **known) -> RemoteFile:
    return RemoteFile(state.url, folder / "file.bin", **known)


# --- one fault, then an honest server -------------------------------------------------------------

REPAIRED = {
    "dropped at once": [server.drop(0)],
    "dropped in the middle": [server.drop(100_000)],
    "dropped three times": [server.drop(100_000), server.drop(70_000), server.drop(100)],
    "a reset connection": [server.reset],
    "a reset connection in the middle": [server.drop(100_000), server.reset],
    "a length that is too large": [server.lie(+1000)],
    "a range of another version": [server.drop(100_000), server.other_file(ETag='"v2"')],
    "a range without a version": [server.drop(100_000), server.other_file(ETag=None)],
    "a shifted range": [server.drop(100_000), server.shifted_range(+10)],
    "a range of the past": [server.drop(100_000), server.shifted_range(-10)],
    "a range of another size": [server.drop(100_000), server.cut(10)],
    "no Content-Range": [server.drop(100_000), server.bad_range(None)],
    "an unsatisfied range": [server.drop(100_000), server.status(416)],
    "a multipart range": [server.drop(100_000), server.bad_range("bytes 0-999/*")],
    "a nonsense range": [server.drop(100_000), server.bad_range("bytes x")],
    "small ranges": [server.drop(100_000), server.small_ranges(70_000)],
    "a small range at the start": [server.small_ranges(100_000)],
    "429": [server.status(429)],
    "429 with seconds": [server.status(429, Retry_After="0")],
    "429 with nonsense": [server.status(429, Retry_After="soon")],
    "503 with a page": [server.page(503)],
    "500": [server.status(500)],
    "silence": [server.silent(1.0)],
    "slow bytes": [server.slow(0.05)],
    "garbage": [server.garbage],
    "chunks": [server.chunked()],
    "chunks that end early": [server.chunked(end_after=100_000)],
    "compressed": [server.compressed],
}  # fmt: skip


@pytest.mark.parametrize("name", REPAIRED)
def test_a_fault_is_repaired(name, tmp_path):
    with server.running(CONTENT, *REPAIRED[name]) as state:
        outcome = download_file(remote(state, tmp_path), HASTY)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert outcome == (len(CONTENT), "length", True)
    assert left_in(tmp_path) == {"file.bin", ".file.bin.source.json"}


def test_a_drop_continues_with_a_range(tmp_path):
    with server.running(CONTENT, server.drop(100_000), server.drop(80_000)) as state:
        download_file(remote(state, tmp_path), HASTY)
    assert state.asked == [None, "bytes=100000-", "bytes=180000-"]


@pytest.mark.parametrize(
    ("options", "second"),
    [
        ({"etag": 'W/"v1"', "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "bytes=100000-"),
        ({"etag": 'W/"v1"'}, None),
        ({"etag": None}, None),
        ({"etag": None, "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "bytes=100000-"),
    ],
)
def test_only_a_strong_version_continues(options, second, tmp_path):
    with server.running(CONTENT, server.drop(100_000), **options) as state:
        download_file(remote(state, tmp_path), HASTY)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert state.asked == [None, second]


def test_with_a_sha256_every_range_continues(tmp_path):
    with server.running(CONTENT, server.drop(100_000), etag=None) as state:
        outcome = download_file(remote(state, tmp_path, sha256=SHA256), HASTY)
    assert state.asked == [None, "bytes=100000-"]
    assert outcome.confirmed_by == "SHA-256"


def test_a_server_without_ranges_sends_all_of_the_file(tmp_path):
    with server.running(CONTENT, server.drop(100_000), ranges=False) as state:
        download_file(remote(state, tmp_path), HASTY)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_file_that_changes_between_two_starts_begins_again(tmp_path):
    with server.running(CONTENT, server.drop(100_000), server.status(404)) as state:
        file = remote(state, tmp_path)
        with pytest.raises(ValueError, match="does not have the file"):
            download_file(file, HASTY)
        assert left_in(tmp_path) == {".file.bin.part", ".file.bin.source.json"}
        state.content, state.etag = CONTENT[::-1], '"v2"'
        download_file(file, HASTY)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT[::-1]
    assert state.asked == [None, "bytes=100000-", "bytes=100000-"], "If-Range costs no request"


def test_mixed_ranges_with_a_wrong_sha256_are_loaded_once_more(tmp_path):
    """Nothing but the SHA-256 shows this fault."""
    faults = server.drop(100_000), server.other_file()
    with server.running(CONTENT, *faults) as state:
        download_file(remote(state, tmp_path, sha256=SHA256), HASTY)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert state.asked == [None, "bytes=100000-", None]


# --- faults that remain ---------------------------------------------------------------------------

REFUSED = {
    "404": (server.page(404), ValueError, "does not have the file"),
    "410": (server.status(410), ValueError, "410"),
    "401": (server.status(401), ValueError, "does not allow"),
    "403": (server.page(403), ValueError, "does not allow"),
    "a page instead of the file": (server.page(200), FileFormatError, "a web page"),
    "a page that says it is data": (
        server.page(200, Content_Type="application/zip"), FileFormatError, "HTML page"),
    "a redirect to a file": (server.redirect("file:///etc/passwd"), ValueError, "redirect"),
    "a redirect to ftp": (server.redirect("ftp://127.0.0.1/a"), ValueError, "redirect"),
    "a redirect to data": (server.redirect("data:,abc"), ValueError, "redirect"),
    "a redirect to nothing": (server.redirect("http://[bad"), ValueError, "address"),
    "a redirect to itself": (server.redirect("/file.bin"), ValueError, "redirect"),
    "a redirect without a place": (server.status(302), ValueError, "redirect"),
    "too few bytes stated": (server.lie(-1000), FileFormatError, "more bytes than it states"),
    "an empty file": (server.cut(len(CONTENT)), FileFormatError, "0 bytes"),
    "no length": (server.without_length(), FileFormatError, "state the file's length"),
    "no length and a short file": (
        server.without_length(5), FileFormatError, "state the file's length"),
    "an hour's wait": (server.status(429, Retry_After="3600"), ConnectionError, "3,600 seconds"),
    "a date in an hour": (
        server.status(503, Retry_After=email.utils.formatdate(4e9)), ConnectionError, "to wait"),
    "always 503": (server.status(503), ConnectionError, "4 times"),
    "always a drop": (server.drop(0), ConnectionError, "the connection ended"),
    "always a reset": (server.reset, ConnectionError, "no answer"),
    "always too slow": (server.slow(0.05), ConnectionError, "too slow"),
    "always silent": (server.silent(1.0), ConnectionError, "timed out"),
    "always compressed": (server.compressed, ConnectionError, "gzip"),
    "always too large a length": (server.lie(+10), ConnectionError, "the connection ended"),
    "204": (server.status(204), ConnectionError, "204"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_that_remains_is_an_error(name, tmp_path):
    fault, error, message = REFUSED[name]
    with server.running(CONTENT, always=fault) as state, pytest.raises(error, match=message) as got:
        download_file(remote(state, tmp_path), HASTY)
    assert not (tmp_path / "file.bin").exists()
    assert "; " in str(got.value)


@pytest.mark.parametrize(
    "fault", [server.cut(10), server.lie(-10), server.without_length(10), server.other_file()]
)
def test_a_known_sha256_refuses_every_other_file(fault, tmp_path):
    with server.running(CONTENT, always=fault) as state, pytest.raises(FileFormatError):
        download_file(remote(state, tmp_path, sha256=SHA256), HASTY)
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("fault", [server.cut(10), server.lie(-10)])
def test_a_known_size_refuses_a_shorter_file(fault, tmp_path):
    with server.running(CONTENT, always=fault) as state, pytest.raises(FileFormatError):
        download_file(remote(state, tmp_path, size=len(CONTENT)), HASTY)
    assert left_in(tmp_path) == set()


def test_the_sha256_of_hugging_face_counts(tmp_path):
    """Its redirects have the size and the SHA-256 of the file."""
    linked = {"X_Linked_ETag": f'"{SHA256}"', "X_Linked_Size": len(CONTENT)}
    hub = server.redirect("/file.bin", **linked)
    with server.running(CONTENT, hub) as state:
        assert download_file(remote(state, tmp_path), HASTY).confirmed_by == "SHA-256"
    with server.running(CONTENT, hub, server.other_file()) as state:
        file = RemoteFile(state.url, tmp_path / "b.bin")
        with pytest.raises(FileFormatError, match="SHA-256"):
            download_file(file, HASTY)
    short = server.running(CONTENT, hub, server.cut(10))
    with short as state, pytest.raises(FileFormatError, match="must have one size"):
        download_file(RemoteFile(state.url, tmp_path / "b.bin"), HASTY)
    assert not (tmp_path / "b.bin").exists()


def test_a_redirect_is_followed(tmp_path):
    with server.running(CONTENT, server.redirect("/other?x=1", 307)) as state:
        download_file(remote(state, tmp_path), HASTY)
    assert state.paths == ["/file.bin", "/other?x=1"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https_is_checked_and_never_becomes_http(tmp_path, monkeypatch):
    pem = tmp_path / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", pem, "-out", tmp_path / "c.pem", "-days", "2", "-subj", "/CN=x",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    pem.write_bytes(pem.read_bytes() + (tmp_path / "c.pem").read_bytes())
    with server.running(CONTENT) as plain, server.running(CONTENT, certificate=pem) as state:
        with pytest.raises(ValueError, match="certificate is not valid"):
            download_file(RemoteFile(state.url, tmp_path / "a.bin"), HASTY)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "c.pem"))
        state.faults[:] = [server.redirect(plain.url)]
        with pytest.raises(ValueError, match="must redirect to a safe web address"):
            download_file(RemoteFile(state.url, tmp_path / "a.bin"), HASTY)
        assert not plain.asked
        plain.faults[:] = [server.redirect(state.url)]
        download_file(RemoteFile(plain.url, tmp_path / "a.bin"), HASTY)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("ending", [".gz", ".zst", ".parquet"])
def test_a_file_has_the_kind_of_its_ending(ending, tmp_path):
    with (
        server.running(b"not packed " * 100) as state,
        pytest.raises(FileFormatError, match="kind"),
    ):
        download_file(RemoteFile(state.url, tmp_path / f"a{ending}"), HASTY)
    packed = gzip.compress(CONTENT)
    with server.running(packed) as state:
        download_file(RemoteFile(state.url, tmp_path / "b.gz"), HASTY)
    assert gzip.decompress((tmp_path / "b.gz").read_bytes()) == CONTENT


def test_the_download_waits_as_retry_after_says(tmp_path):
    with server.running(CONTENT, server.status(429, Retry_After="1")) as state:
        start = time.monotonic()
        download_file(remote(state, tmp_path), HASTY)
        assert 1 <= time.monotonic() - start < 4
    for seconds, message in ((100, "wait (98|99|100) seconds"), (-100, "4 times")):
        date = email.utils.formatdate(time.time() + seconds, usegmt=True)
        with server.running(CONTENT, always=server.status(503, Retry_After=date)) as state:
            file = RemoteFile(state.url, tmp_path / "b.bin")
            with pytest.raises(ConnectionError, match=message):
                download_file(file, HASTY)


SOME = [
    server.drop(0), server.drop(70_000), server.drop(150_000), server.reset, server.lie(+1000),
    server.of_a_range(server.other_file(ETag='"v2"')),
    server.of_a_range(server.other_file(ETag=None)), server.shifted_range(+7),
    server.shifted_range(-7), server.bad_range(None), server.small_ranges(90_000),
    server.status(416), server.status(429, Retry_After="0"), server.page(503), server.page(200),
    server.status(404), server.garbage, server.chunked(), server.chunked(end_after=90_000),
    server.compressed, server.redirect("/x"), server.redirect("file:///etc/hosts"),
    server.without_length(9), server.lie(-1000), server.cut(0),
]  # fmt: skip


@pytest.mark.parametrize("count", [12, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_sequence_of_faults_and_starts_gives_the_bytes_or_an_error(count, tmp_path):
    """After an error, the next start continues. A file that exists is right."""
    choose, errors = random.Random(count), 0
    with server.running(CONTENT) as state:
        for number in range(count):
            known = choose.choice([{}, {"size": len(CONTENT)}, {"sha256": SHA256}])
            state.etag = choose.choice(['"v1"', '"v1"', None, 'W/"v1"'])
            file = RemoteFile(state.url, tmp_path / f"{number}.bin", **known)
            for faults in (5, 5, 5, 0):
                state.faults[:] = choose.choices(SOME, k=faults)
                try:
                    download_file(file, HASTY)
                    break
                except (ValueError, ConnectionError):
                    assert faults, "an honest server"
                    assert not file.path.exists()
                    errors += 1
            assert file.path.read_bytes() == CONTENT
    assert errors > count / 4
    assert not list(tmp_path.glob(".*.part*"))


# --- files that exist -----------------------------------------------------------------------------


def test_a_complete_file_is_not_loaded_twice(tmp_path):
    with server.running(CONTENT) as state:
        for known in ({}, {"sha256": SHA256}, {"size": len(CONTENT)}):
            assert not download_file(remote(state, tmp_path, **known), HASTY).is_new or not known
    assert state.asked == [None]


@pytest.mark.parametrize("change", ["size", "table's SHA-256", "url", "no record"])
def test_another_file_at_the_path_is_an_error(change, tmp_path):
    path = tmp_path / "file.bin"
    with server.running(CONTENT) as state:
        file = remote(state, tmp_path)
        download_file(file, HASTY)
        if change == "size":
            path.write_bytes(b"short")
        elif change == "url":
            file = file._replace(url=state.url + "2")
        elif change == "no record":
            (tmp_path / ".file.bin.source.json").unlink()
        else:
            file = file._replace(sha256="0" * 64)
        before = path.read_bytes()
        with pytest.raises(ValueError, match="another file"):
            download_file(file, HASTY)
    assert path.read_bytes() == before


def test_a_file_of_the_right_sha256_needs_no_record(tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    file = RemoteFile("http://127.0.0.1:9/never", tmp_path / "file.bin", sha256=SHA256)
    assert not download_file(file, HASTY).is_new


def test_a_part_of_another_address_or_a_damaged_record_begins_again(tmp_path):
    record = tmp_path / ".file.bin.source.json"
    spoilt = [
        lambda text: text.replace("file.bin", "file2.bin"),
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: text.replace('"done": ', '"done": 9'),
        lambda text: text.replace('"size": 300000', '"size": "300000"'),
    ]
    for spoil in spoilt:
        with server.running(CONTENT, server.drop(100_000), server.status(404)) as state:
            file = remote(state, tmp_path)
            with pytest.raises(ValueError):
                download_file(file, HASTY)
            text = record.read_text()
            assert json.loads(text)["done"] == 100_000
            assert spoil(text) != text
            record.write_text(spoil(text))
            download_file(file, HASTY)
            assert state.asked == [None, "bytes=100000-", None]
        assert file.path.read_bytes() == CONTENT
        file.path.unlink()
        record.unlink()


def test_bytes_that_were_not_yet_on_the_disk_do_not_count(tmp_path):
    """After a power cut, the end of the part may be zeros."""
    with server.running(CONTENT, server.drop(100_000), server.status(404)) as state:
        file = remote(state, tmp_path)
        with pytest.raises(ValueError):
            download_file(file, HASTY)
        with (tmp_path / ".file.bin.part").open("ab") as part:
            part.write(bytes(1000))
        download_file(file, HASTY)
    assert state.asked[-1] == "bytes=100000-"
    assert file.path.read_bytes() == CONTENT


def test_the_record_never_counts_bytes_that_are_not_in_the_part(tmp_path):
    counted = set()

    def compare(done, size):
        record = json.loads((tmp_path / ".file.bin.source.json").read_text(encoding="utf-8"))
        assert record["done"] <= min(done, (tmp_path / ".file.bin.part").stat().st_size)
        counted.add(record["done"])

    with server.running(CONTENT[:20_000], server.slow(0.01, 1000)) as state:
        download_file(remote(state, tmp_path), Patience(sync_bytes=3000), compare)
    assert max(counted) > 0


def test_two_processes_cannot_download_the_same_file(tmp_path):
    with server.running(CONTENT, always=server.silent(1)) as state:
        file, stop = remote(state, tmp_path), threading.Event()
        errors: list[BaseException] = []

        def first():
            try:
                download_file(file, Patience(silence=0.3), stop=stop)
            except Stopped as error:
                errors.append(error)

        thread = threading.Thread(target=first)
        thread.start()
        while not state.asked:
            time.sleep(0.01)
        with pytest.raises(ValueError, match="another process"):
            download_file(file, HASTY)
        stop.set()
        thread.join()
    assert errors


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with server.running(CONTENT) as state, pytest.raises(OSError, match="No space left"):
        download_file(remote(state, tmp_path), HASTY)
    assert left_in(tmp_path) == set()


# --- several files, and kills ---------------------------------------------------------------------


def test_several_files_come_at_once_and_in_order(tmp_path):
    contents = {f"/{i}.bin": random.Random(i).randbytes(100_000 + i) for i in range(7)}
    barrier = threading.Barrier(3, timeout=5)  # three requests must be open together

    def together(answer):
        barrier.wait()
        server.honest(answer)

    with server.running(b"", together, together, together, files=contents) as state:
        root = f"http://127.0.0.1:{state.port}"
        files = [RemoteFile(root + name, tmp_path / "new" / name[1:]) for name in contents]
        outcomes = download_files(files, 3, Patience(first_wait=0.0))
    assert not barrier.broken
    assert [outcome.size for outcome in outcomes] == [len(data) for data in contents.values()]
    for file, data in zip(files, contents.values(), strict=True):
        assert file.path.read_bytes() == data


def test_one_failure_does_not_stop_the_other_files(tmp_path):
    with server.running(CONTENT, server.status(404)) as state:
        root = f"http://127.0.0.1:{state.port}"
        files = [RemoteFile(f"{root}/{i}", tmp_path / str(i)) for i in range(3)]
        with pytest.raises(ValueError, match="does not have the file"):
            download_files(files, 1, HASTY)
    assert [file.path.exists() for file in files] == [False, True, True]


def test_a_failure_leaves_no_new_folder(tmp_path):
    with server.running(CONTENT, always=server.status(404)) as state:
        files = [RemoteFile(state.url, tmp_path / "a" / "b" / str(i)) for i in range(2)]
        with pytest.raises(ValueError) as got:
            download_files(files, 2, HASTY)
    assert got.value.__notes__ == ["2 of 2 files failed"]
    assert left_in(tmp_path) == set()


SCRIPT = """
import sys
from pathlib import Path
from scratchlm.data.download.one_file import Patience
from scratchlm.data.download.part import RemoteFile
from scratchlm.data.download.several import download_files
url, *paths = sys.argv[1:]
download_files([RemoteFile(url, Path(path)) for path in paths], 2, Patience(sync_bytes=50_000))
"""


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_and_new_starts_give_the_same_bytes(kills, tmp_path):
    """SIGKILL at random moments. Each start continues, and no partial file has the final name."""
    content = random.Random(kills).randbytes(1_000_000 * (kills + 1))
    choose, paths = random.Random(kills), [tmp_path / "a.bin", tmp_path / "b.bin"]

    def bytes_there() -> int:
        return sum(part.stat().st_size for part in tmp_path.glob(".*.part"))

    with server.running(content, pace=0.01) as state:
        words = [sys.executable, "-c", SCRIPT, state.url, *map(str, paths)]
        for _ in range(kills):
            before = bytes_there()
            process = subprocess.Popen(words)
            while bytes_there() < before + 200_000:
                assert process.poll() is None
                time.sleep(0.001)
            time.sleep(choose.uniform(0, 0.03))
            assert process.poll() is None
            process.kill()
            process.wait()
            assert not any(path.exists() for path in paths)
        state.pace = 0.0
        subprocess.run(words, check=True, timeout=60)
    for path in paths:
        assert path.read_bytes() == content
    continued = [int(each[6:-1]) for each in state.asked if each is not None]
    assert len(continued) >= kills
    assert max(continued) > 100_000
    assert left_in(tmp_path) == {"a.bin", "b.bin", ".a.bin.source.json", ".b.bin.source.json"}
