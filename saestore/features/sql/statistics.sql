-- Statistics of every feature that fires, computed from all firings.
SELECT
    feature,
    count(*) AS n_firings,
    count(DISTINCT context) AS n_contexts,
    sum(value::DOUBLE) AS sum,
    sum(value::DOUBLE) / count(*) AS mean,
    min(value) AS min,
    quantile_disc(value, 0.01) AS q01,
    quantile_disc(value, 0.5) AS q50,
    quantile_disc(value, 0.99) AS q99,
    max(value) AS max
FROM firings
GROUP BY feature
ORDER BY feature
