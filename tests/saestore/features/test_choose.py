from saestore.features import Example, TokenPiece, different_words


def test_examples_shown_have_different_words_where_there_are_any():
    def example(rank, word):
        pieces = tuple(
            TokenPiece(text=t, value=0.0, special=False, kept=True) for t in ("a", word, "b")
        )
        return Example(
            context=rank, rank=rank, peak=9.0 - rank, peak_position=5, window_start=4,
            n_positions=9, source="s", document=0, document_id="d", tokens=pieces,
        )  # fmt: skip

    examples = [example(n, word) for n, word in enumerate([" Go", "go ", " went", " gone", "Went"])]
    assert [e.rank for e in different_words(examples, 3)] == [0, 2, 3]
    assert [e.rank for e in different_words(examples, 5)] == [0, 2, 3, 1, 4]
    assert [e.rank for e in different_words(examples[:2], 3)] == [0, 1]
    assert different_words([], 3) == []
