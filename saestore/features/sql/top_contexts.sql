-- Which contexts excite a feature most, and where in them.
-- feature int: which feature
-- n int = 20: how many contexts
SELECT context, position, value
FROM firings
WHERE feature = $feature
QUALIFY row_number() OVER (PARTITION BY context ORDER BY value DESC, position) = 1
ORDER BY value DESC, context
LIMIT $n
