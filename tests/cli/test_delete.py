"""`raybatch delete` says what goes and what stays, and asks."""

from __future__ import annotations

from tests.cli.conftest import Run
from tests.cli.fake_server import FakeServer, batch_json

PATH = "/v1/batches/batch_1"
DELETED = {"id": "batch_1", "object": "batch", "deleted": True, "status": "completed"}


def _serve(server: FakeServer) -> None:
    server.answer("GET", PATH, batch_json(output_file_id="file-o"))
    server.answer("GET", "/v1/files/file-o", {"id": "file-o", "bytes": 3 << 20})
    server.answer("GET", "/v1/files/file-1", {"id": "file-1", "bytes": 1 << 10, "filename": "in.jsonl"})
    server.answer("DELETE", PATH, DELETED)


def test_it_names_what_goes_and_which_copies_stay(raybatch: Run, server: FakeServer) -> None:
    _serve(server)
    done = raybatch("delete", "batch_1", "--yes")
    gone, stays = done.stdout.split("what stays")
    assert "3 answers and 1 errors" in gone
    assert "output file file-o, 3.0 MiB" in gone
    assert "input file file-1 (in.jsonl, 1.0 KiB)" in stays
    assert stays.endswith("batch_1 deleted\n")
    assert done.exit_code == 0


def test_nothing_is_asked_of_the_server_until_the_answer_is_yes(raybatch: Run, server: FakeServer) -> None:
    _serve(server)
    for said in (b"n\n", b""):
        assert raybatch("delete", "batch_1", stdin=said).exit_code == 1
        assert server.bodies("DELETE", PATH) == []
    assert raybatch("delete", "batch_1", stdin=b"y\n").exit_code == 0
    assert len(server.bodies("DELETE", PATH)) == 1


def test_an_active_batch_is_cancelled_and_stays(raybatch: Run, server: FakeServer) -> None:
    server.answer("GET", PATH, batch_json("in_progress"))
    server.answer("DELETE", PATH, DELETED | {"deleted": False, "status": "cancelling"})
    done = raybatch("delete", "batch_1", "--yes")
    assert "its finished rows stay" in done.stdout
    assert done.stdout.endswith("batch_1 cancelling\n")


def test_a_deleted_input_goes_with_its_last_batch(raybatch: Run, server: FakeServer) -> None:
    _serve(server)
    server.answer("GET", "/v1/files/file-1", (404, {"error": {"message": "No such File object"}}))
    gone, stays = raybatch("delete", "batch_1", "--yes").stdout.split("what stays")
    assert "file-1, unless another batch reads it" in gone
    assert "file-1" not in stays
