-- Statistics of every feature that fires, computed from all firings.
WITH valued AS (
    SELECT
        feature,
        count(*) AS n_firings,
        sum(value::DOUBLE) AS sum,
        min(abs(value)) AS min,
        -- one list of values for all of them
        quantile_disc(abs(value), [0.01, 0.5, 0.99]) AS q,
        max(abs(value)) AS max
    FROM firings_by_feature
    GROUP BY feature
),
-- distinct contexts are counted as bits, 64 contexts in a number: a third of the time of DISTINCT
seen AS (
    SELECT feature, bit_or(1::UBIGINT << (context & 63)) AS bits
    FROM firings_by_feature
    GROUP BY feature, context >> 6
),
placed AS (SELECT feature, sum(bit_count(bits))::BIGINT AS n_contexts FROM seen GROUP BY feature)
SELECT
    feature, n_firings, n_contexts, sum, sum / n_firings AS mean, min,
    q[1] AS q01, q[2] AS q50, q[3] AS q99, max
FROM valued
JOIN placed USING (feature)
ORDER BY feature
