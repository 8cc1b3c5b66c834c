-- How many of their strongest features two contexts share, and which.
-- a int: one context
-- b int: another context
-- k int = 20: how many features of each
WITH one AS (
    SELECT feature, max(abs(value)) AS peak
    FROM firings_by_context
    WHERE context = $a
    GROUP BY feature
    ORDER BY peak DESC, feature
    LIMIT $k
),
other AS (
    SELECT feature, max(abs(value)) AS peak
    FROM firings_by_context
    WHERE context = $b
    GROUP BY feature
    ORDER BY peak DESC, feature
    LIMIT $k
),
counted AS (
    SELECT
        (SELECT count(*) FROM one) AS n_a,
        (SELECT count(*) FROM other) AS n_b,
        (SELECT count(*) FROM one JOIN other USING (feature)) AS overlap
)
SELECT
    n_a,
    n_b,
    overlap,
    overlap / nullif(n_a + n_b - overlap, 0) AS jaccard,
    (SELECT list(feature ORDER BY feature) FROM one JOIN other USING (feature)) AS shared
FROM counted
