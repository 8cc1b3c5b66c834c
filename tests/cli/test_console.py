"""What is said after an evaluation."""

from saestore_cli.console import ConsoleOutput


def test_scores_of_heads_are_said_of_each_and_those_of_many_layers_are_not(capsys):
    heads = {f"explained_variance@{name}": share for name, share in [("base", 0.9), ("tuned", 0.8)]}
    layers = {f"ce_recovered[mean]@blocks.{layer}.hook_mlp_out": 0.5 for layer in range(5)}
    ConsoleOutput()._quality({"l0": 32.0, **heads, **layers}, 100)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["90.0%", "80.0%", "32"]
    assert said[0].endswith("(explained variance): base")
    assert said[1].endswith("(explained variance): tuned")
