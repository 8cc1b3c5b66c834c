-- How many of their strongest features two contexts share by chance: what `overlap` is compared with.
-- k int = 20: how many features of each
WITH peaks AS (
    SELECT context, feature, max(abs(value)) AS peak FROM firings_by_context GROUP BY context, feature
),
strongest AS (
    SELECT context, feature
    FROM peaks
    QUALIFY row_number() OVER (PARTITION BY context ORDER BY peak DESC, feature) <= $k
),
shares AS (
    SELECT feature, count(*) / (SELECT count(*) FROM contexts) AS p FROM strongest GROUP BY feature
)
SELECT
    coalesce(sum(p * p ORDER BY feature), 0) AS expected,
    count(*) AS features,
    (SELECT count(*) FROM contexts) AS contexts
FROM shares
