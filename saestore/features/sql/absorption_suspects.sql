-- Features that fire on a feature's own tokens where it is silent: they may have absorbed it.
-- parent int: the feature that should fire there
-- tokens strs: its tokens as `vocabulary.token` spells them, leading spaces included
-- children ints = []: features to look at; none, every feature
-- n int = 20: how many features
WITH places AS (
    SELECT context, position
    FROM tokens
    WHERE kept AND token_id IN (
        SELECT token_id FROM vocabulary WHERE list_contains($tokens::VARCHAR[], token)
    )
),
parent AS (SELECT context, position FROM firings WHERE feature = $parent),
missed AS (SELECT context, position FROM places ANTI JOIN parent USING (context, position))
SELECT
    f.feature AS child,
    count(*) AS n,
    count(*) / (SELECT count(*) FROM missed) AS share_of_missed,
    (SELECT count(*) FROM missed) AS missed,
    (SELECT count(*) FROM places) AS rows
FROM missed
JOIN firings_by_context f USING (context, position)
WHERE f.feature <> $parent
    AND (len($children::UINTEGER[]) = 0 OR list_contains($children::UINTEGER[], f.feature))
GROUP BY child
ORDER BY n DESC, child
LIMIT $n
