-- Features whose decoder vector promotes a token most.
-- token str: part of the token, upper and lower case alike
-- n int = 20: how many features
SELECT l.feature, l.token, l.value AS direction, l.rank, f.density
FROM logits l
JOIN features f USING (feature)
WHERE l.score = 'direction' AND l.sign = 1 AND contains(lower(l.token), lower($token))
ORDER BY direction DESC, l.feature, l.token_id
LIMIT $n
