-- Features by the token they fire on most, the tokens they promote, how often they fire and how strongly.
-- token str = '': part of the token it fires on most, upper and lower case alike
-- promotes str = '': part of a token among those it promotes most
-- min_density float = 0.0: least share of rows on which it fires
-- max_density float = 1.0: largest share
-- min_firings int = 1: fewest firings; 0 counts the dead in
-- min_contexts int = 0: fewest contexts
-- min_max float = 0.0: its maximum is this or more
-- n int = 20: how many features
WITH promoted AS (
    SELECT feature, max(value) AS direction
    FROM logits
    WHERE score = 'direction' AND sign = 1 AND contains(lower(token), lower($promotes))
    GROUP BY feature
)
SELECT
    f.feature,
    v.token,
    f.top_token_share AS share,
    p.direction,
    f.n_firings,
    f.n_contexts,
    f.density,
    f.max
FROM features f
LEFT JOIN vocabulary v ON v.token_id = f.top_token_id
LEFT JOIN promoted p USING (feature)
WHERE f.density BETWEEN $min_density AND $max_density
    AND f.n_firings >= $min_firings
    AND f.n_contexts >= $min_contexts
    AND coalesce(f.max, 0) >= $min_max
    AND ($token = '' OR contains(lower(v.token), lower($token)))
    AND ($promotes = '' OR p.direction IS NOT NULL)
ORDER BY
    CASE WHEN $promotes = '' THEN NULL ELSE p.direction END DESC NULLS LAST,
    share DESC NULLS LAST,
    f.n_firings DESC,
    f.feature
LIMIT $n
