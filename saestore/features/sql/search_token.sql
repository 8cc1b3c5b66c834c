-- Features that fire on a token more often than on any other.
-- token str: part of the token, upper and lower case alike
-- n int = 20: how many features
SELECT f.feature, v.token, f.top_token_share AS share, f.n_firings, f.density, f.max
FROM features f
JOIN vocabulary v ON v.token_id = f.top_token_id
WHERE contains(lower(v.token), lower($token))
ORDER BY share DESC, f.n_firings DESC, f.feature
LIMIT $n
