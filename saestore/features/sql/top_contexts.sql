-- Which contexts excite a feature most, and where in them.
-- feature int: which feature
-- n int = 20: how many contexts
SELECT
    context,
    -- the first of those with the largest value
    arg_max(position, {'value': value, 'left': 65535 - position}) AS position,
    max(value) AS value
FROM firings_by_feature
WHERE feature = $feature
GROUP BY context
ORDER BY value DESC, context
LIMIT $n
