-- Statistics of every feature that fires, computed from all firings.
WITH valued AS (
    SELECT
        feature,
        count(*) AS n_firings,
        sum(value::DOUBLE) AS sum,
        min(value) AS min,
        -- one list of values for all of them
        quantile_disc(value, [0.01, 0.5, 0.99]) AS q,
        max(value) AS max
    FROM firings
    GROUP BY feature
),
-- apart: beside other aggregates DISTINCT takes twice as long
placed AS (SELECT feature, count(DISTINCT context) AS n_contexts FROM firings GROUP BY feature)
SELECT
    feature, n_firings, n_contexts, sum, sum / n_firings AS mean, min,
    q[1] AS q01, q[2] AS q50, q[3] AS q99, max
FROM valued
JOIN placed USING (feature)
ORDER BY feature
