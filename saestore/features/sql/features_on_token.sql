-- Which features fire on a token far more than elsewhere.
-- token str: the token as `vocabulary.token` spells it, leading space included
-- min_n int = 5: fewest firings on it
-- n int = 20: how many features
WITH wanted AS (SELECT token_id, n_rows FROM vocabulary WHERE token = $token),
places AS (
    SELECT context, position FROM tokens WHERE kept AND token_id IN (SELECT token_id FROM wanted)
),
counted AS (
    SELECT feature, count(*) AS n
    FROM places
    JOIN firings_by_context USING (context, position)
    GROUP BY feature
    HAVING n >= $min_n
)
SELECT
    f.feature,
    n,
    n / (SELECT sum(n_rows) FROM wanted) AS p_fires_given_token,
    n / (SELECT sum(n_rows) FROM wanted) / f.density AS lift
FROM counted
JOIN features f USING (feature)
ORDER BY lift DESC, f.feature
LIMIT $n
