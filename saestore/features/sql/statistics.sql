-- Statistics of every feature that fires, computed from all firings.
WITH ordered AS (
    SELECT
        feature,
        value,
        -- as they are stored, a feature's firings follow one another context by context
        feature IS DISTINCT FROM lag(feature) OVER ()
        OR context IS DISTINCT FROM lag(context) OVER () AS begins_context
    FROM firings
),
grouped AS (
    SELECT
        feature,
        count(*) AS n_firings,
        count(*) FILTER (begins_context) AS n_contexts,
        sum(value::DOUBLE) AS sum,
        min(value) AS min,
        quantile_disc(value, [0.01, 0.5, 0.99]) AS q,
        max(value) AS max
    FROM ordered
    GROUP BY feature
)
SELECT
    feature, n_firings, n_contexts, sum, sum / n_firings AS mean, min,
    q[1] AS q01, q[2] AS q50, q[3] AS q99, max
FROM grouped
ORDER BY feature
