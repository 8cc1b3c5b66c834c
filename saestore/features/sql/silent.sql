-- Contexts in which a feature never fires, drawn at random, the same every time.
-- feature int: which feature
-- n int = 20: how many contexts
SELECT c.context
FROM contexts c
JOIN features f ON f.feature = $feature
WHERE c.context NOT IN (SELECT context FROM firings_by_feature WHERE feature = $feature)
ORDER BY
    (c.shuffle_rank::BIGINT - f.sample_offset::BIGINT + (SELECT count(*) FROM contexts))
    % (SELECT count(*) FROM contexts)
LIMIT $n
