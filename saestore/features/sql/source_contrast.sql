-- Features that fire more in one corpus source than in another, by a two-proportion z.
-- a str: one source
-- b str: another source
-- n int = 20: how many features
WITH c AS (
    SELECT feature, source, count(*) AS n
    FROM firings_by_feature JOIN contexts USING (context)
    GROUP BY ALL
),
r AS (
    SELECT source, count(*) AS n_rows
    FROM tokens JOIN contexts USING (context)
    WHERE kept
    GROUP BY source
),
t AS (
    SELECT
        feature,
        coalesce(sum(n) FILTER (source = $a), 0)::DOUBLE AS ka,
        coalesce(sum(n) FILTER (source = $b), 0)::DOUBLE AS kb,
        (SELECT n_rows FROM r WHERE source = $a)::DOUBLE AS na,
        (SELECT n_rows FROM r WHERE source = $b)::DOUBLE AS nb
    FROM c
    GROUP BY feature
)
SELECT
    feature,
    ka / na AS density_a,
    kb / nb AS density_b,
    (ka / na - kb / nb)
    / sqrt((ka + kb) / (na + nb) * (1 - (ka + kb) / (na + nb)) * (1 / na + 1 / nb)) AS z
FROM t
WHERE ka + kb BETWEEN 1 AND na + nb - 1
ORDER BY abs(z) DESC, feature
LIMIT $n
