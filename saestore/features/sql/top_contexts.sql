-- Which contexts excite a feature most, and where in them.
-- feature int: which feature
-- n int = 20: how many contexts
WITH peaks AS (
    SELECT
        context,
        -- the first of those furthest from zero
        arg_max(
            {'position': position, 'value': value},
            {'strength': abs(value), 'left': 65535 - position}
        ) AS peak
    FROM firings_by_feature
    WHERE feature = $feature
    GROUP BY context
)
SELECT context, peak.position AS position, peak.value AS value
FROM peaks
ORDER BY abs(peak.value) DESC, context
LIMIT $n
