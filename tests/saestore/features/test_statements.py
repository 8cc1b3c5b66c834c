from saestore.features.statements import empty, split


def test_a_semicolon_ends_a_statement_unless_it_is_quoted_or_a_comment():
    for text, done, rest in [
        ("", [], ""),
        (" ; ;", [], ""),
        ("SELECT 1", [], "SELECT 1"),
        ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"], ""),
        ("SELECT 'é;' ; SELECT", ["SELECT 'é;'"], "SELECT"),
        ("SELECT 'a'';b'; x", ["SELECT 'a'';b'"], "x"),
        ("SELECT $$;$$; $a$ ; $a$", ["SELECT $$;$$"], "$a$ ; $a$"),
        ('SELECT "a;', [], 'SELECT "a;'),
        ("SELECT 1 -- a;\n;b", ["SELECT 1 -- a;"], "b"),
        ("/* a; /* b; */ ; */ SELECT 1;", ["/* a; /* b; */ ; */ SELECT 1"], ""),
        ("SELECT 1 /* ;", [], "SELECT 1 /* ;"),
    ]:
        assert split(text) == (done, rest), text


def test_blanks_and_comments_ask_nothing():
    assert empty(" -- a\n /* b */ ")
    assert not empty("SELECT 1 -- a")
