-- Features whose decoder vector promotes a token most.
-- token str: part of the token, upper and lower case alike
-- score str = 'direction': which score, such as additive: logits where the feature fires
-- n int = 20: how many features
SELECT l.feature, l.token, l.value AS score, l.rank, l.head, f.density
FROM logits l
JOIN features f USING (feature)
WHERE l.score = $score AND l.sign = 1 AND contains(lower(l.token), lower($token))
ORDER BY l.value DESC, l.feature, l.head, l.token_id
LIMIT $n
