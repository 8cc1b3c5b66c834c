-- Contexts drawn at random from equal parts of a feature's range, lowest part first.
-- feature int: which feature
-- q int = 10: how many parts, equal in number of contexts
-- n int = 5: how many contexts of each part
WITH peaks AS (
    SELECT context, max(abs(value)) AS peak
    FROM firings_by_feature
    WHERE feature = $feature
    GROUP BY context
),
ranked AS (
    SELECT
        context,
        peak,
        (row_number() OVER (ORDER BY peak, context) - 1) * $q // count(*) OVER () AS stratum
    FROM peaks
),
placed AS (
    SELECT
        r.*,
        (c.shuffle_rank::BIGINT - f.sample_offset::BIGINT + (SELECT count(*) FROM contexts))
        % (SELECT count(*) FROM contexts) AS place
    FROM ranked r
    JOIN contexts c USING (context)
    JOIN features f ON f.feature = $feature
)
SELECT stratum, context, peak
FROM placed
QUALIFY row_number() OVER (PARTITION BY stratum ORDER BY place) <= $n
ORDER BY stratum, place
