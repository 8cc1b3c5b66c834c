-- Which features fire together with a feature, by the correlation of their firing.
-- feature int: which feature
-- min_n int = 5: fewest rows on which both fire
-- n int = 20: how many features
WITH s AS (
    SELECT context, position, value FROM firings_by_feature WHERE feature = $feature
),
joint AS (
    SELECT o.feature AS other, count(*) AS n_both, sum(o.value::DOUBLE * s.value) AS sum_product
    FROM firings_by_context o
    JOIN s USING (context, position)
    WHERE o.context IN (SELECT context FROM s)
    GROUP BY other
)
SELECT
    other,
    n_both,
    n_both / (a.n_firings + b.n_firings - n_both) AS jaccard,
    sum_product / a.sum AS era,
    (n_both * a.n_rows::DOUBLE - a.n_firings::DOUBLE * b.n_firings)
    / sqrt(
        a.n_firings::DOUBLE * b.n_firings
        * (a.n_rows::DOUBLE - a.n_firings) * (b.n_rows::DOUBLE - b.n_firings)
    ) AS phi
FROM joint
JOIN features b ON b.feature = other
JOIN features a ON a.feature = $feature
WHERE other <> $feature AND n_both >= $min_n AND a.n_firings < a.n_rows AND b.n_firings < b.n_rows
ORDER BY phi DESC, other
LIMIT $n
