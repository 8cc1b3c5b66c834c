-- Features that fire often and that no explanation fits, going by one scorer; without a score, none was found.
-- scorer str = 'detection': name of the scorer
-- below float = 0.6: their best score is less than this
-- run str = '': only this run of interpret; empty, all of them
-- min_firings int = 1: fewest firings
-- n int = 20: how many features
SELECT
    i.feature,
    f.n_firings,
    f.density,
    s.score,
    i.text,
    coalesce(s.why_null, i.outcome) AS outcome,
    i.explainer,
    i.run
FROM interpretations i
LEFT JOIN (SELECT * FROM interpretation_scores WHERE scorer = $scorer) s USING (run, feature, explainer)
JOIN features f USING (feature)
WHERE ($run = '' OR i.run = $run)
    AND f.n_firings >= $min_firings
QUALIFY row_number() OVER (
        PARTITION BY i.feature ORDER BY s.score DESC NULLS LAST, i.run, i.explainer
    ) = 1
    AND coalesce(s.score, -1) < $below
ORDER BY f.n_firings DESC, i.feature
LIMIT $n
