-- How many features do not fire in the first rows, with the rate they may still have.
-- rows int = 1000000000: kept rows looked at, from the start
WITH seen AS (SELECT least($rows, any_value(n_rows))::BIGINT AS n FROM features)
SELECT
    (SELECT n FROM seen) AS rows,
    count(*) FILTER (first_row IS NULL OR first_row >= $rows) AS dead,
    count(*) AS features,
    1 - pow(0.05, 1.0 / (SELECT n FROM seen)) AS density_bound_95
FROM features
