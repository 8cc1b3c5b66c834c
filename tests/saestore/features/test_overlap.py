"""How two features go together, against dense arrays of every firing."""

import numpy as np
import pytest

from saestore.features import Analysis, feature_overlap


@pytest.fixture(scope="module")
def analysis(planted_lake):
    return Analysis.open(planted_lake, "planted/relu")


def test_the_overlap_of_two_features_is_that_of_their_columns(analysis):
    rows = analysis.sql("SELECT context, position FROM tokens WHERE kept ORDER BY 1, 2").to_pylist()
    place = {(row["context"], row["position"]): n for n, row in enumerate(rows)}
    context = np.array([row["context"] for row in rows])
    code = np.zeros((len(rows), analysis.n_features))
    for line in analysis.sql("SELECT * FROM firings_by_feature").to_pylist():
        code[place[line["context"], line["position"]], line["feature"]] = line["value"]
    fires = code > 0
    for a in range(analysis.n_features):
        for b in range(analysis.n_features):
            found = feature_overlap(analysis, a, b)
            x, y = fires[:, a], fires[:, b]
            assert (found.n_a, found.n_b, found.n_rows) == (x.sum(), y.sum(), len(rows))
            assert found.n_both == (x & y).sum()
            either = (x | y).sum()
            assert found.jaccard == (found.n_both / either if either else None)
            with np.errstate(invalid="ignore", divide="ignore"):
                phi = np.corrcoef(x, y)[0, 1]
                both = (
                    np.corrcoef(code[x & y, a], code[x & y, b])[0, 1]
                    if found.n_both > 1
                    else np.nan
                )
            assert found.phi == (None if np.isnan(phi) else pytest.approx(phi))
            constant = (
                found.n_both < 2 or np.ptp(code[x & y, a]) == 0 or np.ptp(code[x & y, b]) == 0
            )
            if not constant:
                assert found.correlation == pytest.approx(both)
            chance = x.mean() * y.mean()
            assert found.lift == (pytest.approx((x & y).mean() / chance) if chance else None)
            weaker = {
                int(c): min(code[context == c, a].max(), code[context == c, b].max())
                for c in set(context[x].tolist()) & set(context[y].tolist())
            }
            assert found.n_contexts == len(weaker)
            assert list(found.strongest) == sorted(weaker, key=lambda c: (-weaker[c], c))[:10]
