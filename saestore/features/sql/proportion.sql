-- The strongest contexts in which a feature stays below a share of its maximum.
-- feature int: which feature
-- p float = 1.0: share of the feature's maximum
-- n int = 20: how many contexts
WITH peaks AS (
    SELECT context, max(abs(value)) AS peak
    FROM firings_by_feature
    WHERE feature = $feature
    GROUP BY context
)
SELECT context, peak
FROM peaks
WHERE peak::DOUBLE <= $p * (SELECT max(peak)::DOUBLE FROM peaks)
ORDER BY peak DESC, context
LIMIT $n
