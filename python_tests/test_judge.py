"""The judging page's server: no vote is lost, nothing tells the sets, and bad requests get an answer that says so."""

import contextlib
import csv
import json
import re
import socket
import sqlite3
import threading
import time
from http.client import HTTPConnection
from urllib.parse import quote

import numpy as np
import pytest
import uvicorn
from PIL import Image

from benchmarks.killed_judge import pictures, survive
from visgen_fast import cli
from visgen_fast.errors import UserError
from visgen_fast.evaluation.judge.server import Judge, application
from visgen_fast.evaluation.judge.study import study_of
from visgen_fast.evaluation.judge.votes import Votes


class Page:
    """A server in a thread, and requests to it."""

    def __init__(self, sets, db, token=False):
        self.study, self.db = study_of(sets), db
        self.votes = Votes(db, self.study)
        judge = Judge(self.study, self.votes)
        self.token = judge.token if token else None
        config = uvicorn.Config(application(judge, token=self.token), log_level="warning", server_header=False)
        self.server, self.socket = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()
        self.votes.close()

    def raw(self, method, path, body=None, headers=()):
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())

    def get(self, path):
        status, content, _ = self.raw("GET", path)
        assert status == 200, content
        return json.loads(content)

    def next(self, rater="ann"):
        return self.get(f"/api/next?rater={quote(rater)}")

    def post(self, **vote):
        status, content, _ = self.raw("POST", "/api/vote", json.dumps(vote))
        return status, json.loads(content)

    def vote(self, identity, choice, rater="ann", shown=None):
        shown = shown or self.next(rater)
        status, content = self.post(id=identity, rater=rater, pair=shown["pair"], left=shown["left"], choice=choice)
        assert status == 200, content
        return content


@pytest.fixture
def sets(tmp_path):
    return pictures(tmp_path / "sets", ("good", "poor"), 12)


@pytest.fixture
def page(sets, tmp_path):
    opened = Page(sets, tmp_path / "votes.db")
    yield opened
    opened.stop()


def results(db, out):
    assert cli.main(["judge", "results", str(db), "--out", str(out)]) == 0
    with open(out / "votes.csv", newline="", encoding="utf-8") as file:
        return json.loads((out / "results.json").read_text()), list(csv.DictReader(file))


def test_a_study_is_judged_from_the_first_pair_to_the_results(page, tmp_path, capsys):
    """A rater who prefers bright pictures, by what is seen alone."""
    brightness = {}
    total = page.next()["total"]
    assert total == 12 + 1  # every tenth pair comes again, mirrored
    sides, seen = [], []
    for number in range(total):
        shown = page.next()
        assert shown["done"] == number and shown["total"] == total
        for side in ("left", "right"):
            status, content, headers = page.raw("GET", f"/picture/{shown[side]}")
            assert status == 200 and headers["content-type"] == "image/png"
            (tmp_path / "seen.png").write_bytes(content)
            brightness[side] = np.asarray(Image.open(tmp_path / "seen.png")).mean()
        sides.append(max(brightness, key=brightness.get))
        seen.append((shown["pair"], shown["left"]))
        page.vote(f"vote {number}", sides[-1], shown=shown)
    assert page.next() == {"pair": None, "left": None, "right": None, "done": total, "total": total}
    assert set(sides) == {"left", "right"}
    again = [pair for pair in {pair for pair, _ in seen} if sum(pair == other for other, _ in seen) == 2]
    assert len(again) == 1 and len({left for pair, left in seen if pair == again[0]}) == 2
    page.vote("one of good", "right", rater="bob")
    found, rows = results(page.db, tmp_path / "out")
    assert found["votes"] == 14 and len(rows) == 14
    assert [row["id"] for row in rows][:2] == ["vote 0", "vote 1"]
    assert {row["left"] for row in rows} == {"good", "poor"}
    assert all(row[row["choice"]] == "good" for row in rows if row["rater"] == "ann")
    assert found["agreement"]["within"] == 1
    assert (tmp_path / "out" / "ratings.png").stat().st_size > 1000
    assert "good" in capsys.readouterr().out


def test_a_repeated_post_is_the_same_vote_and_another_one_with_its_id_is_refused(page):
    shown = page.next()
    for _ in range(3):
        assert page.vote("once", "left", shown=shown)["done"] == 1
    vote = {"id": "once", "rater": "ann", "pair": shown["pair"], "left": shown["left"], "choice": "right"}
    status, content = page.post(**vote)
    assert status == 409 and content == {"error": "another vote has this id"}
    assert len(page.votes.standing()) == 1


def test_an_undone_vote_is_not_there_but_its_rows_are(page, tmp_path):
    page.vote("0", "left")
    shown = page.next()
    page.vote("1", "right", shown=shown)
    for _ in range(2):  # a repeated undo is the same one
        assert page.vote("2", "undo", shown=shown)["done"] == 1
    again = page.next()
    assert again["pair"] == shown["pair"] and again["left"] == shown["left"]  # the same sides after a reload, too
    vote = {"rater": "ann", "pair": shown["pair"], "left": shown["left"], "choice": "undo"}
    assert page.post(id="3", **vote)[0] == 409  # there is no such vote any more
    page.vote("4", "right", shown=shown)
    page.vote("5", "skip")
    found, rows = results(page.db, tmp_path / "out")
    assert [row["id"] for row in rows] == ["0", "4", "5"]
    assert found["votes"] == 2 and found["skipped"] == 1
    with sqlite3.connect(page.db) as database:
        assert database.execute("SELECT COUNT(*) FROM votes").fetchone() == (5,)


def test_pairs_with_the_fewest_votes_come_first_and_raters_do_not_see_one_twice_before(page):
    seen = {rater: [] for rater in ("ann", "bob", "cem")}
    for turn in range(4):
        for rater, pairs in seen.items():
            shown = page.next(rater)
            pairs.append(shown["pair"])
            page.vote(f"{rater} {turn}", "tie", rater=rater, shown=shown)
    everything = [pair for pairs in seen.values() for pair in pairs]
    assert sorted(page.votes.counts().values()) == [1] * 12 and len(set(everything)) == 12


def test_a_restart_and_a_second_server_change_nothing(page, sets):
    page.vote("0", "left")
    shown = page.next()
    other = Page(sets, page.db)
    try:
        assert other.next() == shown
        other.vote("1", "right", shown=shown)
        assert page.next()["done"] == 2 and page.next() == other.next()
    finally:
        other.stop()


def test_votes_survive_a_server_that_is_killed(tmp_path):
    """Smaller than `python -m benchmarks.killed_judge`."""
    found = survive(raters=4, votes=8, kills=2, folder=tmp_path)
    assert found.given == found.stored == 32
    assert found.lost == found.doubled == 0 and found.intact == "ok"


def test_what_is_answered_is_on_the_disk(page):
    assert page.votes._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert page.votes._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_nothing_that_reaches_the_browser_tells_the_sets(page, sets):
    """Names, paths and metadata stay here."""
    text = json.dumps([page.next(rater) for rater in ("ann", "bob", "cem", "dan")])
    for path in ("/", "/judge.js", "/judge.css", "/api/health"):
        status, content, headers = page.raw("GET", path)
        assert status == 200
        text += content.decode() + str(headers)
    shown = page.next()
    contents = []
    for side in ("left", "right"):
        _, content, headers = page.raw("GET", f"/picture/{shown[side]}")
        contents.append(content)
        text += str({name: value for name, value in headers.items() if name not in ("content-length", "date")})
    assert not re.search(r"good|poor|\.png|\d+/\d+\.|sets|votes\.db", text)
    assert "last-modified" not in text and "etag" not in text
    for content in contents:  # a PNG file of three chunks: header, pixels, end
        assert re.findall(rb"IHDR|IDAT|IEND|tEXt|eXIf|tIME", content) == [b"IHDR", b"IDAT", b"IEND"]
    sides = {page.get(f"/api/next?rater={number}")["left"] for number in range(40)}
    assert len(sides) > 12  # so many pairs: some are shown with either set on the left


def test_pictures_of_other_kinds_look_the_same_in_the_traffic(tmp_path):
    for name, kind in (("one", "JPEG"), ("two", "PNG")):
        (tmp_path / name).mkdir()
        image = Image.new("RGB", (8, 8), "red")
        exif = image.getexif()
        exif[271] = "camera of one"
        image.save(tmp_path / name / "a.png", kind, exif=exif)
    study = study_of([tmp_path / "one", tmp_path / "two"])
    contents = [study.picture(study.pairs[0], name) for name in study.sets]
    assert all(content.startswith(b"\x89PNG") and b"camera" not in content for content in contents)


@pytest.mark.parametrize(
    "change, status, sentence",
    [
        ({"id": ""}, 400, "id must be a text"),
        ({"id": 7}, 400, "id must be a text"),
        ({"rater": "x" * 101}, 400, "rater must be a text of 1 to 100"),
        ({"rater": "  "}, 400, "rater must be a text"),
        ({"rater": "a\nb"}, 400, "that can be printed"),
        ({"rater": "\ud800"}, 400, "that can be printed"),
        ({"choice": "up"}, 400, "choice must be one of"),
        ({"choice": ["left"]}, 400, "choice must be one of"),
        ({"pair": "unknown"}, 404, "no such pair"),
        ({"pair": None}, 404, "no such pair"),
        ({"pair": ["a"]}, 404, "no such pair"),
        ({"left": "unknown"}, 404, "left is no picture of this pair"),
        ({"left": {}}, 404, "left is no picture of this pair"),
        ({"choice": "undo"}, 409, "no such vote to undo"),
    ],
)
def test_a_vote_that_is_none_is_refused_in_a_sentence(page, change, status, sentence):
    shown = page.next()
    vote = {"id": "1", "rater": "ann", "pair": shown["pair"], "left": shown["left"], "choice": "left", **change}
    found, content = page.post(**vote)
    assert found == status and sentence in content["error"]
    assert not page.votes.standing()


def test_a_picture_of_another_pair_is_not_this_ones_left(page):
    shown = page.next()
    page.vote("0", "left", shown=shown)
    status, _ = page.post(id="1", rater="ann", pair=shown["pair"], left=page.next()["left"], choice="left")
    assert status == 404


def test_requests_that_are_none_get_a_4xx(page):
    shown = page.next()
    vote = {"id": "1", "rater": "ann", "pair": shown["pair"], "left": shown["left"], "choice": "left"}
    body = json.dumps(vote)
    elsewhere = [("Origin", "http://elsewhere.example")]
    asked = {
        413: [("POST", "/api/vote", body + " " * 5000, ())],
        400: [
            *(("POST", "/api/vote", bad, ()) for bad in ("", "{", "[]", "3", "[" * 4000, b"\xff\xfe")),
            ("GET", "/api/next", None, ()),
            ("GET", "/api/next?rater=" + "x" * 101, None, ()),
        ],
        403: [
            ("POST", "/api/vote", body, elsewhere),
            ("POST", "/api/vote", body, [("Origin", "null")]),
            ("GET", "/api/next?rater=ann", None, elsewhere),
            ("GET", "/api/next?rater=ann", None, [("Host", "elsewhere.example")]),
        ],
        404: [
            ("GET", "/picture/unknown", None, ()),
            ("GET", "/picture/..%2f..%2fvotes.db", None, ()),
            ("GET", "/x", None, ()),
        ],
        405: [("GET", "/api/vote", None, ()), ("DELETE", "/api/vote", None, ())],
    }
    for status, requests in asked.items():
        for request in requests:
            found, content, _ = page.raw(*request)
            assert found == status, (request, content)
            assert "error" in json.loads(content)
    assert not page.votes.standing()
    same = [("Origin", f"http://127.0.0.1:{page.port}"), ("Host", f"127.0.0.1:{page.port}")]
    assert page.raw("POST", "/api/vote", body, same)[0] == 200


def test_beyond_this_machine_only_the_link_with_its_token_is_answered(sets, tmp_path):
    page = Page(sets, tmp_path / "votes.db", token=True)
    try:
        shown = page.get(f"/api/next?rater=ann&token={page.token}")
        assert page.raw("GET", f"/picture/{shown['left']}?token={page.token}")[0] == 200
        wrong = ("", "?token=", "?token=wrong", "?token=%C3%A9")
        paths = ("/", "/api/next", f"/picture/{shown['left']}", "/api/vote")
        for path in (path + token for path in paths for token in wrong):
            method = "POST" if path.startswith("/api/vote") else "GET"
            assert page.raw(method, path, headers=[("Host", "anywhere.example")])[0] == 403
        assert page.raw("GET", f"/?token={page.token}", headers=[("Host", "anywhere.example")])[0] == 200
        assert page.raw("GET", "/api/health")[0] == 200
    finally:
        page.stop()
    again = Judge(page.study, Votes(page.db, page.study))
    assert again.token == page.token  # the link holds after a restart


def test_a_question_is_text_on_the_page(sets, tmp_path):
    study = study_of(sets)
    judge = Judge(study, Votes(tmp_path / "votes.db", study, "<script>alert(1)</script> & so?"))
    text = judge.page(None).body.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; so?" in text and "<script>alert" not in text


def test_files_that_are_no_pictures_are_named_and_left_out(sets):
    (sets[0] / "0" / "2.png").write_bytes(b"no picture")
    (sets[1] / "notes.txt").write_text("notes")
    (sets[1] / ".hidden").write_text("hidden")
    study = study_of(sets)
    assert [path.name for path in study.unreadable] == ["2.png", "notes.txt"]
    assert len(study.pairs) == 11


def test_sets_are_named_by_as_much_of_their_path_as_tells_them_apart(tmp_path):
    for name in ("one/samples", "two/samples"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    study = study_of([tmp_path / "one" / "samples", tmp_path / "two" / "samples"])
    assert list(study.sets) == ["one/samples", "two/samples"]


def test_three_sets_are_compared_two_at_a_time(tmp_path):
    study = study_of(pictures(tmp_path, count=4))
    assert len(study.pairs) == 3 * 4


def test_studies_that_are_none_are_refused_in_a_sentence(sets, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "other" / "name.png")
    good, poor = map(str, sets)
    db = str(tmp_path / "votes.db")
    (tmp_path / "text.db").write_text("this is no database, though it is long enough to be one" * 20)
    taken = socket.create_server(("127.0.0.1", 0))
    wrong = {
        "at least 2 sets of pictures, got 1": ["serve", good, "--db", db],
        "there is no folder": ["serve", good, str(tmp_path / "none"), "--db", db],
        "was given twice": ["serve", good, good, "--db", db],
        "has the name of one in another set": ["serve", good, poor, str(tmp_path / "other"), "--db", db],
        "is no database of votes": ["serve", good, poor, "--db", str(tmp_path / "text.db")],
        "cannot be listened to": ["serve", good, poor, "--db", db, "--port", str(taken.getsockname()[1])],
        "--port must lie in [0, 65535], got 99999": ["serve", good, poor, "--db", db, "--port", "99999"],
        "--question must be a text": ["serve", good, poor, "--db", db, "--question", " "],
        "there is no database": ["results", str(tmp_path / "none.db"), "--out", db],
        "at least 1 vote, got none": ["results", db, "--out", str(tmp_path / "out")],
        "judge has serve and results, got 'draw'": ["draw"],
    }
    with taken:
        for sentence, arguments in wrong.items():
            assert cli.main(["judge", *arguments]) == 2
            error = capsys.readouterr().err
            assert error.startswith("visgen-fast: ") and error.count("\n") == 1 and sentence in error, error


def test_a_database_keeps_to_its_study(sets, tmp_path):
    Votes(tmp_path / "votes.db", study_of(sets), "Which is sharper?")
    assert Votes(tmp_path / "votes.db", study_of(sets)).content["question"] == "Which is sharper?"
    with pytest.raises(UserError, match="votes on another question, 'Which is sharper"):
        Votes(tmp_path / "votes.db", study_of(sets), "Which is nicer?")
    Image.new("RGB", (8, 8)).save(sets[0] / "0" / "0.png")
    with pytest.raises(UserError, match="votes of another study, on the sets good, poor"):
        Votes(tmp_path / "votes.db", study_of(sets))


def test_tastes_come_out_in_order(tmp_path):
    """Simulated raters, each with a taste of its own, on three sets."""
    study = study_of(pictures(tmp_path / "sets", count=12))
    votes, draws = Votes(tmp_path / "votes.db", study), np.random.default_rng(0)
    strength = {"good": 1.5, "middling": 0.0, "poor": -1.5}
    for rater in range(8):
        taste = {name: value + 0.4 * draws.standard_normal() for name, value in strength.items()}
        for pair in study.pairs:
            wins = draws.random() < 1 / (1 + np.exp(taste[pair.second] - taste[pair.first]))
            identity = f"{rater} {pair.name} {pair.first} {pair.second}"
            votes.add(identity, f"r{rater}", pair.name, pair.first, pair.second, "left" if wins else "right")
    found, rows = results(tmp_path / "votes.db", tmp_path / "out")
    assert [each["name"] for each in found["sets"]] == ["good", "middling", "poor"]
    assert [each["ranks"] for each in found["sets"]] == [[1, 1], [2, 2], [3, 3]]
    assert all(each["low"] < each["elo"] < each["high"] for each in found["sets"])
    assert len(rows) == found["votes"] == 8 * 36
    assert time.time() - 600 < float(rows[0]["time"]) <= time.time()
