-- Which features fire on a token far more than elsewhere.
-- token str: the token as `vocabulary.token` spells it, leading space included
-- min_n int = 5: fewest firings on it
-- n int = 20: how many features
WITH wanted AS (SELECT token_id, n_rows FROM vocabulary WHERE token = $token),
places AS (
    SELECT context, position FROM tokens WHERE kept AND token_id IN (SELECT token_id FROM wanted)
)
SELECT
    f.feature,
    count(*) AS n,
    count(*) / (SELECT sum(n_rows) FROM wanted) AS p_fires_given_token,
    count(*) / (SELECT sum(n_rows) FROM wanted) / any_value(f.density) AS lift
FROM places
JOIN (
    SELECT feature, context, position
    FROM firings_by_context
    WHERE context IN (SELECT context FROM places)
) USING (context, position)
JOIN features f USING (feature)
GROUP BY f.feature
HAVING n >= $min_n
ORDER BY lift DESC, f.feature
LIMIT $n
