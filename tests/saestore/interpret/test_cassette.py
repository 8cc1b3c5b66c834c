"""What was answered is kept, whatever happens to the process, and damage to it is found."""

import errno
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.errors import DamagedArtefactError, StorageError
from saestore.interpret.cassette import Cassette, Line, Recorded, cassette_at, decoded
from saestore.interpret.request import Answer, Choice, Request
from saestore.lake import Storage, layout


def line(n, *, text="yes", attempts=1, **more):
    request = Request("chat/completions", {"model": "m", "seed": n, "messages": []}, f"q{n}")
    return Line(request, Answer(request.hash, text, "stop", 3, 1, 17, "m", **more), attempts)


def filled(folder, numbers=range(5)):
    cassette = Cassette(Storage.at(folder), name="run")
    for n in numbers:
        cassette.add(line(n))
    cassette.close()
    return folder / layout.CASSETTE


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(-1e6, 0)
choices = st.tuples(texts, numbers, st.lists(st.tuples(texts, numbers), max_size=2))


@given(texts, st.lists(choices, max_size=2), st.lists(numbers, max_size=3), texts)
def test_a_line_says_what_was_kept(text, tokens, vector, sent):
    request = Request("embeddings", {"input": [sent], "x": 0.1})
    found = tuple(Choice(a, b, tuple(c)) for a, b, c in tokens)
    vectors = (tuple(vector),) if vector else ()
    answer = Answer(request.hash, text, "length", 3, 1, 17, "m", found, vectors)
    encoded = Line(request, answer, 2).encoded
    assert encoded.count(b"\n") == 1
    assert decoded(encoded[:-1]) == Line(request, answer, 2)
    assert json.loads(encoded)["request"]["body"] == request.body


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_of_a_line_is_found(data):
    encoded = bytearray(line(3).encoded[:-1])
    place = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[place // 8] ^= 1 << place % 8
    with pytest.raises((ValueError, KeyError, TypeError)):
        decoded(bytes(encoded))


def test_damage_names_file_line_and_remedy(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    place = len(b"".join(whole.splitlines(keepends=True)[:2])) + 100
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    for opened in (
        lambda: Cassette(Storage.at(tmp_path), name="run"),
        lambda: cassette_at(path, tmp_path),
    ):
        with pytest.raises(DamagedArtefactError, match=r"cassette\.jsonl: line 3: ") as caught:
            opened()
        assert "remove line 3 from it" in caught.value.hint
    # as the hint says
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    mended = Recorded(path, name="run")
    assert len(mended) == 4
    mended.close()


def test_a_line_whose_request_was_changed_is_no_answer_to_another(tmp_path):
    forged = Line(line(1).request, line(2).answer, 1).encoded
    swapped = forged.replace(line(1).request.hash.encode(), line(2).request.hash.encode())
    with pytest.raises(ValueError, match="bytes do not match"):
        decoded(swapped[:-1])


def test_damage_after_opening_is_found_when_it_is_read(tmp_path):
    path = filled(tmp_path)
    cassette = Recorded(path, name="run")
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"#")
    with pytest.raises(DamagedArtefactError, match="the line at byte 0"):
        cassette.get(line(0).request.hash)
    assert cassette.get(line(1).request.hash) == line(1)
    cassette.close()


def test_what_a_killed_process_left_unfinished_is_cut_off(tmp_path):
    path = filled(tmp_path, range(3))
    whole = path.read_bytes()
    for cut in np.random.default_rng(0).choice(len(whole), 40, replace=False):
        path.write_bytes(whole[:cut])
        cassette = Cassette(Storage.at(tmp_path), name="run")
        left = whole[:cut].count(b"\n")
        assert len(cassette) == left
        cassette.add(line(7))
        cassette.close()
        again = Recorded(path, name="run")
        assert [again.get(line(n).request.hash) for n in (*range(left), 7)] == [
            line(n) for n in (*range(left), 7)
        ]
        again.close()


def test_the_first_answer_stays(tmp_path):
    path = filled(tmp_path, [1])
    with path.open("ab") as file:
        file.write(line(1, text="another").encoded)
    cassette = Cassette(Storage.at(tmp_path), name="run")
    cassette.add(line(1, text="a third"))
    assert cassette.get(line(1).request.hash) == line(1)
    cassette.seal()
    assert path.read_bytes() == line(1).encoded
    cassette.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_sealed_cassette_does_not_tell_in_which_order_answers_came(tmp_path, seed):
    order = np.random.default_rng(seed).permutation(20).tolist()
    cassette = Cassette(Storage.at(tmp_path), name="run")
    for n in order:
        cassette.add(line(n))
    cassette.seal()
    lines = sorted((line(n) for n in range(20)), key=lambda each: each.request.hash)
    assert cassette.path.read_bytes() == b"".join(each.encoded for each in lines)
    # it can be read and added to
    assert list(cassette.lines()) == lines
    cassette.add(line(99))
    assert cassette.get(line(99).request.hash) == line(99)
    cassette.close()
    assert [path.name for path in tmp_path.iterdir()] == [layout.CASSETTE]


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    cassette = Cassette(Storage.at(tmp_path), name="run")
    cassette.add(line(1))
    write, left = os.write, [100]

    def full(descriptor, data):
        taken = data[: left[0]]
        left[0] -= len(taken)
        if not taken:
            raise OSError(errno.ENOSPC, "full")
        return write(descriptor, taken)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            cassette.add(line(2))
    assert caught.value.hint
    assert cassette.path.read_bytes() == line(1).encoded
    cassette.add(line(2))
    assert cassette.get(line(2).request.hash) == line(2)
    cassette.close()


def test_answers_stay_on_disk(tmp_path):
    cassette = Cassette(Storage.at(tmp_path), name="run")
    cassette.add(line(1, text="z" * 100_000))
    held = str(vars(cassette))
    assert len(held) < 1000
    cassette.close()


def test_the_cassette_of_a_remote_run_lies_here_until_it_stops(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    artefact = Storage.at("memory://lake/run")
    cassette = Cassette(artefact, name="run")
    cassette.add(line(2))
    cassette.add(line(1))
    cassette.close()  # killed: nothing else is done
    assert not artefact.exists(layout.CASSETTE)
    artefact.remove_temporaries(beside=layout.PARTS)  # as a run does that begins
    cassette = Cassette(artefact, name="run")
    assert len(cassette) == 2
    cassette.keep()
    cassette.drop()
    cassette.close()
    # another machine goes on
    cassette = Cassette(artefact, name="run")
    assert len(cassette) == 2
    cassette.add(line(3))
    cassette.seal()
    cassette.drop()
    cassette.close()
    lines = sorted((line(n) for n in (1, 2, 3)), key=lambda each: each.request.hash)
    assert artefact.read(layout.CASSETTE) == b"".join(each.encoded for each in lines)
    other = cassette_at("memory://lake/run", tmp_path)
    assert list(other.lines()) == lines
    other.close()
    artefact.remove()


def test_a_cassette_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "no.jsonl"):
        with pytest.raises(StorageError, match="there is no cassette at") as caught:
            cassette_at(path, tmp_path)
        assert caught.value.hint
