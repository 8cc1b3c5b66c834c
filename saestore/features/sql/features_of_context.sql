-- Which features fire in a context, strongest first.
-- context int: which context
-- n int = 20: how many features
SELECT feature, max(abs(value)) AS peak, count(*) AS n
FROM firings_by_context
WHERE context = $context
GROUP BY feature
ORDER BY peak DESC, feature
LIMIT $n
