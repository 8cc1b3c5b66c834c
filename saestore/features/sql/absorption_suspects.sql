-- Features that fire on a feature's own tokens where it is silent: they may have absorbed it.
-- parent int: the feature that should fire there
-- tokens strs: its tokens as `vocabulary.token` spells them, leading spaces included
-- children ints = []: features to look at; none, those whose decoder vector is like the parent's
-- min_cos float = 0.3: without children, the cosine that is exceeded, of the 20 nearest; -1, every feature
-- n int = 20: how many features
WITH places AS (
    SELECT context, position
    FROM tokens
    WHERE kept AND token_id IN (
        SELECT token_id FROM vocabulary WHERE list_contains($tokens::VARCHAR[], token)
    )
),
parent AS (SELECT context, position FROM firings_by_feature WHERE feature = $parent),
missed AS (SELECT context, position FROM places ANTI JOIN parent USING (context, position)),
children AS (
    SELECT unnest($children::UINTEGER[]) AS feature
    UNION ALL
    SELECT neighbour
    FROM neighbours
    WHERE len($children::UINTEGER[]) = 0
        AND feature = $parent AND method = 'dec_cos' AND score > $min_cos
),
-- an analysis may lack `neighbours`
everyone AS (
    SELECT len($children::UINTEGER[]) = 0
        AND ($min_cos <= -1 OR NOT EXISTS (SELECT 1 FROM neighbours)) AS wanted
)
SELECT
    f.feature AS child,
    count(*) AS n,
    count(*) / (SELECT count(*) FROM missed) AS share_of_missed,
    (SELECT count(*) FROM missed) AS missed,
    (SELECT count(*) FROM places) AS rows
FROM missed
JOIN firings_by_context f USING (context, position)
WHERE f.feature <> $parent
    AND ((SELECT wanted FROM everyone) OR f.feature IN (SELECT feature FROM children))
GROUP BY child
ORDER BY n DESC, child
LIMIT $n
