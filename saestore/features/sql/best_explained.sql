-- Features by how well their best explanation holds, going by one scorer, each with that explanation.
-- scorer str = 'detection': name of the scorer
-- run str = '': only this run of interpret; empty, all of them
-- n int = 20: how many features
SELECT
    i.feature,
    s.score,
    s.ci_low,
    s.ci_high,
    i.text,
    i.explainer,
    i.run,
    f.n_firings,
    f.density
FROM interpretation_scores s
JOIN interpretations i USING (run, feature, explainer)
JOIN features f USING (feature)
WHERE s.scorer = $scorer
    AND s.score IS NOT NULL
    AND ($run = '' OR s.run = $run)
QUALIFY row_number() OVER (PARTITION BY i.feature ORDER BY s.score DESC, i.run, i.explainer) = 1
ORDER BY s.score DESC, i.feature
LIMIT $n
